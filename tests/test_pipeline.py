"""dvc.yaml says the truth: a step names the modules its notebook imports, its parameters and its files."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cxrtrek_lib import params, paths, run

PACKAGE = paths.ROOT / "cxrtrek_lib"
PIPELINE = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
GROUPS = params.load(paths.PROFILES / "default.yaml").groups()
# Settings of the machine, not of the result: changing one must not make a step run again.
NO_EFFECT = {
    "dataset.workers", "cohort.workers", "predict.batch_cases", "predict.processes",
    "train.checkpoint_minutes", "train.processes", "train.accelerate_config", "train.accumulation",
    "train.gradient_checkpointing",
}  # fmt: skip
IN_GIT = ("cxrtrek_lib", "notebooks", "requirements-data.txt", "params.yaml")
MODES = ["predicted", "gold", "none", "shuffled", "blank_image", "swapped_image", "untuned"]


def steps() -> dict[str, dict]:
    """Step name -> its definition, every `foreach` unrolled over the default parameters."""
    unrolled = {}
    for name, step in PIPELINE.items():
        if "foreach" not in step:
            unrolled[name] = step
            continue
        items = step["foreach"]
        if isinstance(items, str):
            group, key = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", items).groups()
            items = GROUPS[group][key]
        for item in items:
            text = yaml.safe_dump(step["do"]).replace("${item}", item).replace("${key}", item)
            unrolled[f"{name}@{item}"] = yaml.safe_load(text)
    return unrolled


STEPS = steps()


def entries(step: dict, *kinds: str) -> list[str]:
    """The paths (or parameter names) listed under the given keys of a step, options dropped."""
    listed = [entry for kind in kinds for entry in step.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]


def notebook_of(step: dict) -> Path:
    return paths.ROOT / re.fullmatch(r"python -m cxrtrek_lib\.run (\S+)( --set \S+)*", step["cmd"]).group(1)


def settings_of(step: dict) -> set[str]:
    return set(re.findall(r"--set (\w+)=", step["cmd"]))


def within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


# Imports

BY_NAME = re.compile(r'import_module\(f"([\w.]+)\.\{')


def imported(source: str, package: str) -> set[str]:
    """Dotted names that a source text imports, anywhere in it; `package` resolves `from . import x`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    for folder in BY_NAME.findall(source):  # chosen by name at run time: any module of that folder
        names |= {f"{folder}.{file.stem}" for file in (paths.ROOT / Path(*folder.split("."))).glob("*.py")}
    return names


def module_file(name: str) -> Path | None:
    """The file of a module of cxrtrek_lib, None for anything else (a function, another package)."""
    if name.split(".")[0] != "cxrtrek_lib":
        return None
    stem = paths.ROOT / Path(*name.split("."))
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def modules_behind(notebook: Path) -> set[str]:
    """Every file of cxrtrek_lib that a notebook's code imports, directly or through another of them."""
    cells = json.loads(notebook.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    waiting, found = imported(code, ""), set()
    while waiting:
        name = waiting.pop()
        file = module_file(name)
        if file is None or file in found:
            continue
        found.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting |= imported(file.read_text(), package)
        waiting |= {
            name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)
        }  # parents run first
    found.discard(PACKAGE / "__init__.py")  # holds the version, which changes no result (tested below)
    return {str(file.relative_to(paths.ROOT)) for file in found}


def test_the_package_itself_imports_nothing():
    assert imported((PACKAGE / "__init__.py").read_text(), "cxrtrek_lib") == set()


def test_no_import_is_hidden_from_these_tests():
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        assert source.count("import_module(") == len(BY_NAME.findall(source)), file
        assert "__import__(" not in source, file


def test_relative_imports_and_parents_are_followed():
    assert imported("from . import a\nfrom .b import c\nfrom ..d import e", "cxrtrek_lib.simulate") == {
        "cxrtrek_lib.simulate", "cxrtrek_lib.simulate.a",
        "cxrtrek_lib.simulate.b", "cxrtrek_lib.simulate.b.c",
        "cxrtrek_lib.d", "cxrtrek_lib.d.e",
    }  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_runs_its_notebook_and_depends_on_it(name):
    notebook = notebook_of(STEPS[name])
    assert notebook.is_file()
    assert str(notebook.relative_to(paths.ROOT)) in entries(STEPS[name], "deps")


@pytest.mark.parametrize("name", STEPS)
def test_deps_are_exactly_the_modules_that_the_notebook_imports(name):
    deps = [
        dep for dep in entries(STEPS[name], "deps") if within(dep, "cxrtrek_lib") and "templates" not in dep
    ]
    used = modules_behind(notebook_of(STEPS[name]))
    missing = {file for file in used if not any(within(file, dep) for dep in deps)}
    unused = {dep for dep in deps if not any(within(file, dep) for file in used)}
    assert (missing, unused) == (set(), set())


def templates_of(source: str) -> set[str]:
    """Templates that a module or another template names: "stage*.yaml", "viewer.html.j2"."""
    named = re.findall(r"""["']([\w*.]+\.(?:yaml|j2))["']""", source)
    found = {str(file.relative_to(paths.ROOT)) for pattern in named for file in paths.TEMPLATES.glob(pattern)}
    return found.union(*(templates_of((paths.ROOT / name).read_text()) for name in found))


@pytest.mark.parametrize("name", STEPS)
def test_templates_are_deps_of_the_steps_that_read_them(name):
    listed = {dep for dep in entries(STEPS[name], "deps") if within(dep, "cxrtrek_lib/templates")}
    files = modules_behind(notebook_of(STEPS[name]))
    assert listed == set().union(*(templates_of((paths.ROOT / file).read_text()) for file in files))


# Parameters


def keys(tree: dict, above: str = "") -> set[str]:
    """Dotted paths of every value of a nested mapping."""
    found = set()
    for key, value in tree.items():
        found |= keys(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}"}
    return found


@pytest.mark.parametrize("name", STEPS)
def test_params_are_those_that_the_notebook_declares(name):
    step = STEPS[name]
    declared = set(run.declared_parameters(notebook_of(step)))
    assert declared - set(GROUPS) == settings_of(step)
    everything = keys(GROUPS)
    listed = entries(step, "params")
    covered = {key for key in everything for entry in listed if f"{key}.".startswith(f"{entry}.")}
    assert all(any(f"{key}.".startswith(f"{entry}.") for key in everything) for entry in listed), (
        "no such key"
    )
    wanted = {key for key in everything if key.split(".")[0] in declared} - NO_EFFECT
    item = name.partition("@")[2]
    if name == "cohort_images":
        wanted = {key for key in wanted if not key.startswith(("cohort.external.", "images."))}
    elif name.startswith("external@"):  # each source its own size and films
        wanted = {key for key in wanted if not key.startswith(("cohort.", "images."))}
        wanted |= {"cohort.size_px", f"cohort.external.{item}", f"images.roots.{item}"}
    assert covered == wanted


# Files


def test_every_input_is_made_by_a_step_or_is_in_the_repository():
    made = [out for step in STEPS.values() for out in entries(step, "outs", "metrics", "plots")]
    for name, step in STEPS.items():
        for dep in entries(step, "deps"):
            in_git = any(within(dep, place) for place in IN_GIT)
            assert in_git or any(within(dep, out) or within(out, dep) for out in made), (name, dep)


def test_dear_steps_keep_every_output_in_the_cache():
    """One `cache: false` output would switch off DVC's run cache for the whole step (design 13)."""
    dear = {
        "cohort_images", "external", "finetune", "predict", "intervene", "transfer", "transfer_vqa",
        "ablations",
    }  # fmt: skip
    for name, step in STEPS.items():
        outs = [entry for kind in ("outs", "metrics", "plots") for entry in step.get(kind, [])]
        uncached = [
            entry
            for entry in outs
            if isinstance(entry, dict) and next(iter(entry.values())).get("cache") is False
        ]
        in_reports = [out for out in entries(step, "outs", "metrics", "plots") if within(out, "reports")]
        assert len(uncached) == len(in_reports), name  # reports/ is in git, all else in the cache
        assert bool(uncached) != (name.split("@")[0] in dear), name


def test_unfinished_work_survives_a_restart():
    """DVC deletes the outputs of a step before it runs, unless they persist: checkpoints lie elsewhere."""
    outs = [out for step in STEPS.values() for out in entries(step, "outs")]
    assert not any(within(str(paths.UNFINISHED.relative_to(paths.ROOT)), out) for out in outs)
    for name in ("cohort_images", "external@nih"):  # films of an interrupted run are taken up
        assert all(
            options == {"persist": True} for entry in STEPS[name]["outs"] for options in entry.values()
        )


def test_the_promised_steps_and_metrics():
    assert list(PIPELINE) == [
        "build_dataset", "dataset_statistics", "cohort_images", "external", "finetune", "predict",
        "intervene", "evaluate_stages", "transfer", "transfer_vqa", "domain_shift", "real_films", "ablations",
        "report",
    ]  # fmt: skip
    assert PIPELINE["predict"]["foreach"] == MODES
    metrics = {metric for step in STEPS.values() for metric in entries(step, "metrics")}
    names = ("dataset", "finetune", "evaluation", "transfer", "domain_shift", "real_films", "ablations")
    assert metrics == {f"reports/metrics/{name}.json" for name in names}


def test_dvc_reads_the_pipeline_as_we_do():
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=paths.ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert sorted(shown.stdout.split()) == sorted(STEPS)
