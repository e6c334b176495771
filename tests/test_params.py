"""params.yaml is checked to the last key; a mistake is told in one line that names the key and the fix."""

import copy
from typing import get_args

import pytest
import yaml
from ruamel.yaml import YAML

from cxrtrek_lib import params, params_schema, paths


def plain(path):
    """A profile as YAML 1.2 reads it, which is how DVC does: `off` is a word."""
    return YAML(typ="safe").load(path.read_text())


DEFAULT = plain(paths.PROFILES / "default.yaml")
PROFILES = sorted(path.name for path in paths.PROFILES.glob("*.yaml"))


def leaves(tree, above=()):
    """Every (key path, value) of a nested mapping."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def changed(path, value):
    """A deep copy of the default parameters with one value replaced."""
    content = copy.deepcopy(DEFAULT)
    group = content
    for key in path[:-1]:
        group = group[key]
    group[path[-1]] = value
    return content


@pytest.fixture
def load(tmp_path):
    """Write a mapping (or YAML text) to a file and load it."""

    def write_and_load(content):
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return params.load(path)

    return write_and_load


def message(load, content) -> str:
    with pytest.raises(ValueError) as caught:
        load(content)
    text = str(caught.value)
    assert "\n" not in text and "params.yaml: " in text
    return text.split("params.yaml: ", 1)[1]


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_complete(name):
    groups = params.load(paths.PROFILES / name).groups()
    written = plain(paths.PROFILES / name)
    assert groups == written  # nothing added, dropped or renamed on the way to a notebook


def test_profiles_are_the_promised_ones_and_differ():
    assert PROFILES == ["default.yaml", "gpu.yaml", "paper.yaml", "smoke.yaml"]
    assert len({yaml.safe_dump(plain(paths.PROFILES / name)) for name in PROFILES}) == 4


@pytest.mark.parametrize("path", [path for path, _ in leaves(DEFAULT)], ids=".".join)
def test_no_key_has_a_hidden_default(load, path):
    content = copy.deepcopy(DEFAULT)
    group = content
    for key in path[:-1]:
        group = group[key]
    del group[path[-1]]
    if path[:2] == ("cohort", "external"):  # a list of one's own choice, not empty
        content["cohort"]["external"] = {}
        assert message(load, content).startswith("cohort.external: ")
        return
    assert message(load, content).startswith(".".join(path) + ": missing")


@pytest.mark.parametrize(("path", "value"), list(leaves(DEFAULT)), ids=str)
def test_a_wrong_type_or_range_is_refused_with_the_key(load, path, value):
    for wrong in ["3", "true", True, -1, 10**12, float("nan"), float("inf"), {}, [], ["x"], {"train": 1}]:
        if isinstance(value, str) and isinstance(wrong, str):
            continue  # any text may name a checkpoint
        named = (
            path[:2] in (("dataset", "folders"), ("images", "roots"), ("transfer", "folders"))
            or path[-1] == "accelerate_config"
        )
        if isinstance(wrong, str) and named:
            continue  # or a folder, or a file
        if isinstance(value, bool) and isinstance(wrong, bool):
            continue
        assert message(load, changed(path, wrong)).startswith(".".join(path)), wrong


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("train", "epoch"), 3, "train.epoch: no such key; did you mean epochs?"),
        (("evalute",), {"n_boot": 5}, "evalute: no such key; did you mean evaluate?"),
        (("train", "epochs"), -3, "train.epochs: must be a whole number >= 1 and <= 1000"),
        (
            ("dataset", "roles", "nih"),
            "extern",
            "dataset.roles.nih: 'extern' is not known; did you mean external?",
        ),
        (
            ("dataset", "roles", "chexprt"),
            "train",
            "dataset.roles.chexprt: no such key; did you mean chexpert?",
        ),
        (
            ("dataset", "roles", "siim"),
            "train",
            "dataset.roles: nih external, rsna external, siim train: these hold",
        ),
        (("dataset", "roles", "chexpert_plus"), "train", "dataset.roles: chexpert and chexpert_plus are the"),
        (("dataset", "roles", "nih"), "off", "cohort.external sizes nih, whose role in dataset.roles is off"),
        (("dataset", "scale"), 10, "dataset.scale: must be full, or a whole number of patients"),
        (("dataset", "scale"), "half", "dataset.scale: must be full, or a whole number of patients"),
        (("dataset", "yes_no_ratio"), 0.5, "dataset.yes_no_ratio: must be null or a number >= 1 and <= 1000"),
        (("dataset", "split"), 0.1, "dataset.split: must be a mapping of validate, test, got 0.1"),
        (("dataset", "split", "test"), 0.7, "dataset.split.test: must be a number > 0 and < 0.5"),
        (
            ("cohort", "size_px"),
            230,
            "cohort.size_px: must be a whole number >= 64 and <= 1024 and a multiple",
        ),
        (("cohort", "external", "nih"), 1, "cohort.external.nih: must be greater than or equal to 4"),
        (("images", "roots", "nhi"), "../films", "images.roots.nhi: no such key; did you mean nih?"),
        (("images", "roots", "nih"), "  ", "images.roots.nih: must be"),
        (("images", "roots", "chexpert"), "../films", "images.roots: no real films of chexpert: those of"),
        (("images", "roots", "siim"), "../films", "images.roots: no real films of siim"),
        (("images", "roots"), None, "images.roots: must be a mapping of nih, openi, rsna, vindr"),
        (("model", "heads"), 7, "model: hidden_size 128 must be a multiple of 4 x heads (28)"),
        (("train", "precision"), "bf1", "train.precision: 'bf1' is not known; did you mean bf16?"),
        (("train", "patience"), 0, "train.patience: must be null or a whole number >= 1 and <= 1000"),
        (("train", "accumulation"), 0, "train.accumulation: must be a whole number >= 1 and <= 4096"),
        (("model", "trust_remote_code"), "yes", "model.trust_remote_code: must be a valid boolean"),
        (("train", "shuffled_share"), 0.75, "train: alone_share + shuffled_share must be at most 1"),
    ],
)
def test_the_line_says_what_where_and_the_fix(load, path, value, told):
    assert message(load, changed(path, value)).startswith(told)


def test_a_root_of_an_external_source_without_a_cohort_is_refused(load):
    content = changed(("images", "roots", "openi"), "../films")
    assert load(content).images.roots.openi == "../films"
    del content["cohort"]["external"]["openi"]
    assert message(load, content).startswith("images.roots names films of openi, which cohort.external does")


def test_a_dataset_named_twice_is_refused(load):
    text = (paths.PROFILES / "default.yaml").read_text()
    twice = text.replace("    nih: null\n", "    nih: ../films\n    nih: ../others\n")
    assert "nih stands twice" in message(load, twice)


def test_a_misspelt_key_is_named_before_what_is_then_missing(load):
    content = copy.deepcopy(DEFAULT)
    content["train"]["epoch"] = content["train"].pop("epochs")
    assert message(load, content) == "train.epoch: no such key; did you mean epochs? (and 1 more)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: [0", "line 1: not valid YAML"),
        ("seed: 0\nseed: 1", "line 2: not valid YAML: seed stands twice"),
        ("", "must be a mapping of the groups seed, dataset"),
        ("- 1", "must be a mapping of the groups"),
    ],
)
def test_a_file_that_is_no_parameter_file(load, text, told):
    assert message(load, text).startswith(told)


def test_bytes_and_missing_files(tmp_path):
    (tmp_path / "film.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="film.png: not a YAML text file"):
        params.load(tmp_path / "film.png")
    with pytest.raises(FileNotFoundError, match="nope.yaml: no such parameter file; profiles/"):
        params.load(tmp_path / "nope.yaml")


@pytest.mark.parametrize("text", ["2e-3", "2.0e-3", "0.002", "+2E-3"])
def test_numbers_read_as_dvc_reads_them(text):
    """DVC reads params.yaml as YAML 1.2 (ruamel), where 2e-3 is a number; PyYAML alone would give text."""
    assert params.parse_value(text) == YAML(typ="safe").load(text) == 0.002


@pytest.mark.parametrize(
    "text",
    ["none", "gold", "blank_image", "3", "1.5", "true", "off", "yes", "[nih, openi]", "1e", "e3", "v1e3"],
)
def test_other_literals_read_as_dvc_reads_them(text):
    assert params.parse_value(text) == YAML(typ="safe").load(text)


def test_the_sources_are_the_modules_that_read_them():
    known = set(params_schema.Roles.model_fields) - {"authors"}  # read by authors.py
    assert set(get_args(params_schema.ExternalSource)) <= known
    modules = {path.stem for path in (paths.ROOT / "cxrtrek_lib" / "sources").glob("[!_]*.py")}
    assert known <= modules


def test_params_yaml_is_a_complete_valid_file():
    assert params.load().groups().keys() == DEFAULT.keys()


def test_the_check_command(capsys):
    assert params.main([str(paths.PROFILES / "smoke.yaml")]) == 0
    assert params.main(["nope.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith("smoke.yaml: ok\n") and captured.err.startswith(
        "nope.yaml: no such parameter file"
    )
