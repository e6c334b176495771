"""Templates are checked at load; a question is one of its phrasings, filled, and keeps what it promises."""

import re
import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, draws, paths
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.wording import Template


@pytest.fixture
def templates(tmp_path):
    shutil.copytree(paths.TEMPLATES, tmp_path / "t")
    return tmp_path / "t"


def edit(folder, stage, change):
    path = folder / f"stage{stage}.yaml"
    content = yaml.safe_load(path.read_text())
    change(content["questions"])
    path.write_text(yaml.safe_dump(content))


def style(*texts):
    return lambda questions: questions["list"].update(style=list(texts))


@pytest.mark.parametrize(
    ("stage", "change", "parts"),
    [
        (2, lambda q: q["presence"]["ask"].append("Any {findng}?"), ["presence.ask[6]", "{findng}"]),
        (2, lambda q: q["presence"]["ask"].append("Anything?"), ["presence.ask[6] lacks", "{finding}"]),
        (2, lambda q: q.pop("list"), ["questions has no key 'list'"]),
        (2, lambda q: q.update(extra={}), ["unknown key 'extra'"]),
        (2, lambda q: q["presence"]["answers"].update(absent="None."), ["must begin with 'No'"]),
        (2, lambda q: q["one"]["answers"].pop("none"), ["one.answers has no key 'none'"]),
        (2, lambda q: q["one"].update(qtype="essay"), ["one.qtype", "'essay'"]),
        (2, lambda q: q["one"].update(task_type="Compare"), ["one.task_type", "'Compare'"]),
        (1, lambda q: q["view"].update(ask=[]), ["view.ask must be a list"]),
        (1, lambda q: q["quality"]["answers"].update(none=True), ["answers.none must be a text"]),
        (2, lambda q: q["list"]["ask"].append("Name the findings"), ["list.ask[4]", "must end with"]),
        (2, style("Be brief"), ["list.style[0] 'Be brief' must end with a full stop"]),
        (2, style("Be brief?"), ["list.style[0]", "full stop"]),
        (2, style("", "Be brief.", "Be brief."), ["list.style[2] repeats 'Be brief.'"]),
        (2, lambda q: q["list"]["ask"].append(q["list"]["ask"][0]), ["list.ask[4] repeats"]),
        (2, style("", "Answer in at most twenty words."), ["list.style[1]", "a number of words"]),
        (2, style("", "Answer within 20 lines."), ["list.style[1]", "a number of words"]),
        (2, style("Use no more than 9 words."), ["list.style needs an entry without a limit"]),
    ],
)  # fmt: skip
def test_a_wrong_template_is_named(templates, stage, change, parts):
    edit(templates, stage, change)
    with pytest.raises(ValueError) as error:
        wording.load(templates)
    text = str(error.value)
    assert "\n" not in text and f"stage{stage}.yaml" in text
    assert all(part in text for part in parts), text


def test_missing_broken_and_needless_stages(templates):
    (templates / "stage9.yaml").write_text("stage: 9\nquestions: {}\n")
    with pytest.raises(ValueError, match="stage9.yaml: no question is built for this stage"):
        wording.load(templates)
    (templates / "stage9.yaml").unlink()
    (templates / "stage2.yaml").write_text("stage: 3\nquestions: {}\n")
    with pytest.raises(ValueError, match="stage2.yaml: stage is 3 but the file name says 2"):
        wording.load(templates)
    (templates / "stage2.yaml").write_text("stage: 2\nquestions: [\n")
    with pytest.raises(ValueError, match="stage2.yaml, line .*not valid YAML"):
        wording.load(templates)
    (templates / "stage2.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="stage2.yaml: the template of stage 2 is missing"):
        wording.load(templates)


def test_an_edited_wording_is_what_is_asked(templates):
    edit(templates, 2, lambda q: q["presence"].update(ask=["See any {finding}?"], style=[""]))
    frames = studies({"sample_id": "made/a"}), findings(("made/a", "edema", "present", 1)), boxes()
    qa = build.questions(*frames, 0, templates=wording.load(templates))
    assert "See any edema?" in qa["question"].to_list()


def test_the_packaged_phrasings():
    """Several of each question, read with nothing but yaml; the answer styles of the authors occur."""
    suffixes = set()
    for path in sorted(paths.TEMPLATES.glob("stage*.yaml")):
        for name, question in yaml.safe_load(path.read_text())["questions"].items():
            assert len(question["ask"]) * len(question["style"]) >= 4, (path.name, name)
            assert all(ask[0].isupper() and ask[-1] in ".?" for ask in question["ask"]), (path.name, name)
            suffixes.update(question["style"])
    assert any("option only" in text for text in suffixes)
    assert any(re.search(r"at most \d+ words", text) for text in suffixes)


PLAIN = Template(
    2, "presence", "Findings_Identification", "yes_no", "yes_no_{kind}",
    ("Is there {finding}?", "Do you see {finding} or {finding}?"), ("", "Answer in at most 3 words."), {},
)  # fmt: skip


def rows(n, answer="No.", seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**63, n, dtype=np.uint64)
    names = rng.choice(["edema", "mass", "rib fracture"], n)
    return pl.DataFrame({"key": keys, "bits": draws.mix(keys, "x"), "finding": names, "answer": answer,
                         "kind": rng.choice(["abnormality", "foreign_body"], n)})  # fmt: skip


def test_questions_are_filled_phrasings_equally_often():
    frame = wording.asked(PLAIN, rows(4000))
    seen = Counter()
    for row in frame.iter_rows(named=True):
        allowed = [f"{ask} {end}".strip().replace("{finding}", row["finding"])
                   for ask in PLAIN.ask for end in PLAIN.style]  # fmt: skip
        seen[allowed.index(row["question"])] += 1
        assert row["target"] == "yes_no_" + row["kind"]
    assert len(seen) == 4 and chisquare(list(seen.values())).pvalue > 0.001


def test_slots_with_thousands_of_words():
    n = 6000
    many = rows(n).with_columns(finding=pl.format("finding {}", pl.int_range(n)))
    two = PLAIN._replace(ask=("{kind}: {finding}?",), style=("",))
    assert wording.asked(two, many)["question"].to_list() == [
        f"{kind}: {finding}?" for kind, finding in many.select("kind", "finding").iter_rows()
    ]


@pytest.mark.parametrize("size", [50, 10**9])
def test_numbered(size):
    code = np.array([7, 3, 7, 49, 0])
    different, place = wording.numbered(code, size)
    assert (different[place] == code).all() and list(different) == [0, 3, 7, 49]


def test_a_length_limit_is_kept():
    short = wording.asked(PLAIN, rows(2000, "No mass seen."))["question"].str.contains("at most 3 words")
    assert 0.4 < short.mean() < 0.6
    longer = wording.asked(PLAIN, rows(2000, "No mass was seen."))["question"]
    assert not longer.str.contains("at most").any()
    # What a row is asked does not hang on the answers of others.
    mixed = pl.concat([rows(2000, "No mass seen.")[:1000], rows(2000, "No mass was seen.")[1000:]])
    assert wording.asked(PLAIN, mixed)["question"][1000:].equals(longer[1000:])


@pytest.mark.parametrize(
    ("style", "limit"),
    [
        ("Answer in at most 20 words.", 20),
        ("In no more than 1 word.", 1),
        ("Answer briefly.", None),
        ("", None),
    ],
)
def test_length_limits(style, limit):
    assert wording.length_limit(style) == limit


@given(st.lists(st.text(max_size=5), max_size=30), st.text(max_size=5))
def test_word_keys_are_the_keys_of_the_words(words, purpose):
    expected = [draws.key(purpose, word) for word in words]
    for dtype in (pl.String, pl.Enum(sorted(set(words)))):
        assert list(wording.word_keys(pl.Series(words, dtype=dtype), purpose)) == expected


def test_a_missing_word_is_refused():
    with pytest.raises(ValueError, match="column 'finding' has 1 empty words"):
        wording.asked(PLAIN, rows(3).with_columns(finding=pl.Series(["mass", None, "mass"])))
