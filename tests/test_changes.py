"""Comparison with the prior study and trend: what follows from two studies' rows, and nothing else."""

import re
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, tables
from cxrtrek_lib.findings import CORE, FINDINGS
from cxrtrek_lib.stages import changes, wording
from cxrtrek_lib.stages.choices import OVERLAPS
from cxrtrek_lib.text_findings import findings_in

E, PRESENT, ABSENT, POSSIBLE = "pleural effusion", "present", "absent", "uncertain"
GRADED = ["improved", "new", "no longer present", "unchanged", "worse"]
TEMPLATES = wording.load()
PLAIN = ["absent in both studies", "new", "no longer present", "present in both studies"]


def history(n=1):
    """n patients made/p0, ... with studies <n>/1 and <n>/2, the second after the first."""
    rows = []
    for p in range(n):
        one = {"patient_id": f"made/p{p}", "source": "made"}
        rows += [{**one, "sample_id": f"{p}/1", "next_study_id": f"{p}/2"},
                 {**one, "sample_id": f"{p}/2", "order": 1, "prior_study_id": f"{p}/1"}]  # fmt: skip
    return studies(*rows)


def pairs(then, now, n=1, seed=0):
    """The Q&A of n patients whose two studies have these findings."""
    rows = [(f"{p}/{nth}", *row) for p in range(n) for nth, side in ((1, then), (2, now)) for row in side]
    return build.questions(history(n), findings(*rows), boxes(), seed)


def bare(option):
    return re.sub(r"^(?:[A-J]\.|\d+\.|\d+\)\.) ", "", option)


def told(qa, stage):
    return qa.filter(stage=stage, qtype="captioning")["answer"].to_list()


def chosen(qa, stage, qtype="single-choice"):
    """{(the options, sorted): {right answers}} of the choices of a stage."""
    found = {}
    for row in qa.filter(stage=stage, qtype=qtype).iter_rows(named=True):
        options = tuple(sorted(map(bare, row["option_list"])))
        found.setdefault(options, set()).add(", ".join(sorted(map(bare, row["answer_list"]))))
    return found


@pytest.mark.parametrize(
    ("then", "now", "answer", "right"),
    [
        ((E, ABSENT, 1), (E, PRESENT, 1, "left", "mild"), "New: left pleural effusion.", "new"),
        ((E, PRESENT, 1, "left", "mild"), (E, ABSENT, 2),
         "No longer present: left pleural effusion.", "no longer present"),
        ((E, PRESENT, 1, "left", "mild"), (E, PRESENT, 1, "left", "severe"),
         "Worse: left pleural effusion.", "worse"),
        ((E, PRESENT, 1, None, "severe"), (E, PRESENT, 1, "left", "mild"),
         "Improved: pleural effusion.", "improved"),
    ],
)  # fmt: skip
def test_changes_of_graded_findings(then, now, answer, right):
    qa = pairs([then], [now], 40)
    assert set(told(qa, 5)) == set(told(qa, 6)) == {answer}
    # By grade or by presence, as is drawn: the options do not tell which of the two could be answered.
    both = right if right in PLAIN else "present in both studies"
    for stage in (5, 6):
        assert chosen(qa, stage) == {tuple(GRADED): {right}, tuple(PLAIN): {both}}
        graded = qa.filter(stage=stage, qtype="single-choice")["option_list"].list.len() == 5
        assert 8 < graded.sum() < 32


@pytest.mark.parametrize(
    ("then", "now", "answer", "right"),
    [
        ((E, PRESENT, 1), (E, PRESENT, 1, None, "mild"), "Persistent: pleural effusion.", PLAIN[3]),
        ((E, ABSENT, 1), (E, ABSENT, 1), None, PLAIN[0]),
        ((E, PRESENT, 1, "left", "mild"), (E, PRESENT, 1, "bilateral", "mild"),
         "Persistent: left pleural effusion.", PLAIN[3]),  # nobody denied the right one before
        ((E, PRESENT, 1, "left"), (E, PRESENT, 1, "right"), "Persistent: pleural effusion.", PLAIN[3]),
        ((E, ABSENT, 3), (E, PRESENT, 1), None, None),
        ((E, ABSENT, 3), (E, ABSENT, 3), None, None),
    ],
)  # fmt: skip
def test_what_is_not_graded(then, now, answer, right):
    qa = pairs([then], [now], 60)
    assert set(told(qa, 5)) == ({answer} if answer else set())
    assert chosen(qa, 5) == ({tuple(PLAIN): {right}} if right else {})
    if right:  # nothing changed: only a drawn share of the studies is asked
        asked = qa.filter(stage=5, qtype="single-choice").height
        assert 0 < asked < 60 * 3 * changes.LONE_SHARE


def test_the_same_grade_is_unchanged():
    qa = pairs([(E, PRESENT, 1, None, "mild")], [(E, PRESENT, 1, None, "mild")], 99)
    assert set(told(qa, 5)) == {"Unchanged: pleural effusion."}
    assert chosen(qa, 5) == {tuple(GRADED): {"unchanged"}, tuple(PLAIN): {"present in both studies"}}


@pytest.mark.parametrize(
    ("then", "now", "prior", "following"),
    [
        (POSSIBLE, PRESENT, "possible before, present now", "possible now, present on the next study"),
        (POSSIBLE, ABSENT, "possible before, absent now", "possible now, absent on the next study"),
        (PRESENT, POSSIBLE, "present before, possible now", "present now, possible on the next study"),
        (ABSENT, POSSIBLE, "absent before, possible now", "absent now, possible on the next study"),
        (POSSIBLE, POSSIBLE, "possible in both studies", "possible in both studies"),
    ],
)
def test_how_certain_it_was_and_is(then, now, prior, following):
    qa = pairs([("edema", then, 1)], [("edema", now, 1)])
    (options, right), *more = chosen(qa, 5).items()
    assert right == {prior} and len(options) == 5 and not more
    assert [*chosen(qa, 6).values()] == [{following}]
    # An independent reader of report text finds the later study's status in the open answer.
    (answer,) = told(qa, 5)
    assert findings_in(answer) == {"edema": now}


def test_every_kind_of_change_has_its_place_in_an_open_answer():
    then = [
        ("edema", ABSENT, 1),
        ("nodule", PRESENT, 1),
        ("fracture", PRESENT, 1),
        ("mass", POSSIBLE, 1),
        ("cardiomegaly", PRESENT, 1, None, "mild"),
        ("atelectasis", PRESENT, 1, None, "severe"),
    ]
    now = [
        ("edema", PRESENT, 1),
        ("nodule", ABSENT, 1),
        ("fracture", PRESENT, 1),
        ("mass", ABSENT, 1),
        ("cardiomegaly", PRESENT, 1, None, "severe"),
        ("atelectasis", PRESENT, 1, None, "mild"),
    ]
    (answer,) = told(pairs(then, now), 5)
    assert answer == (
        "New: edema. Worse: cardiomegaly. No longer present: nodule. Improved: atelectasis. "
        "Questioned before, not present now: mass. Persistent: fracture."
    )
    assert findings_in(answer) == {name: status for name, status, *_ in now}


def test_an_open_answer_names_what_changed_first_and_not_too_much():
    names = [name for name in FINDINGS if name not in ("pleural effusion", "pacemaker")][:20]
    then = [(name, PRESENT, 1) for name in names] + [("pacemaker", ABSENT, 1)]
    (answer,) = told(pairs(then, [(name, PRESENT, 1) for name in (*names, "pacemaker")]), 5)
    assert answer.startswith("New: pacemaker. Persistent: ") and answer.count(",") == changes.MOST_TOLD - 2


def test_normal_studies_compare_as_normal():
    normal = [(name, ABSENT, 2) for name in CORE]
    qa = pairs(normal, normal, 40)
    answer = "No abnormal finding in either study."
    assert told(qa, 5) == told(qa, 6) == [answer] * 40


def test_a_steady_trend_is_asked_like_any_other():
    qa = pairs([(E, PRESENT, 1)], [(E, PRESENT, 1)])
    assert told(qa, 5) == told(qa, 6) == ["Persistent: pleural effusion."]


def test_the_next_study_answers_and_is_never_shown():
    qa = pairs([(E, ABSENT, 1)], [(E, PRESENT, 1, "left")])
    first, second = qa.filter(sample_id="0/1"), qa.filter(sample_id="0/2")
    assert told(first, 6) == ["New: left pleural effusion."] and told(first, 5) == []
    assert first["image_input_count"].to_list() == [1] * first.height
    assert first["question"].str.count_matches("<image>", literal=True).sum() == 1
    assert second.filter(stage=6).height == 0  # it has no next study


def test_evidence_names_the_row_of_the_study_first_and_the_other_study_s_as_such():
    rows = findings(("0/1", E, ABSENT, 1), ("0/2", E, PRESENT, 1))
    rows = rows.with_columns(source_column=pl.concat_str(pl.lit("row of "), "sample_id"))
    qa = build.questions(history(), rows, boxes(), 0)
    assert set(qa.filter(stage=5)["evidence"]) == {"row of 0/2; prior row of 0/1"}
    assert set(qa.filter(stage=6)["evidence"]) == {"row of 0/1; next row of 0/2"}


def test_films_are_shown_when_they_are_first_needed():
    qa = pairs([(E, PRESENT, 1)], [(E, PRESENT, 1)]).filter(sample_id="0/2")
    shown = qa["question"].str.count_matches("<image>", literal=True).to_list()
    stage = qa["stage"].to_list()
    assert shown[0] == 1 and shown[stage.index(5)] == 1 and sum(shown) == 2
    assert qa["image_input_count"].to_list() == [1 if s < 5 else 2 for s in stage]
    assert stage == sorted(stage)


def test_a_next_study_without_attributes_is_compared_by_presence_only():
    # A simulated film has side and grade; the annotation of the next study has neither.
    qa = pairs([(E, PRESENT, 1, "left", "severe"), ("edema", PRESENT, 1, None, "mild")],
               [(E, PRESENT, 1), ("edema", ABSENT, 1)], 40)  # fmt: skip
    assert set(told(qa, 6)) == {"No longer present: edema. Persistent: pleural effusion."}
    about = qa.filter(stage=6, fact="pleural effusion|next", qtype="single-choice")
    assert about.height == 40 and {bare(answer) for answer in about["answer"]} == {PLAIN[3]}


def test_what_a_simulated_film_hides_is_not_compared():
    rows = findings(("0/1", E, PRESENT, 1), ("0/2", E, POSSIBLE, 1)).with_columns(
        source_column=pl.lit("simulated")
    )
    qa = build.questions(history(), rows, boxes(), 0)
    assert qa.filter(pl.col("stage").is_in([5, 6])).height == 0


def test_a_special_form_contradicts_the_absence_of_the_general_one():
    then = [("nodule", PRESENT, 1), ("lung lesion", ABSENT, 1)]
    qa = pairs(then, then, 99)
    assert set(told(qa, 5)) == {"Persistent: nodule."}
    assert {fact for fact in qa.filter(stage=5)["fact"]} == {"composite|changes", "nodule|change"}


def test_several():
    then = [(E, PRESENT, 1), ("cardiomegaly", PRESENT, 1), ("fracture", ABSENT, 1), ("mass", ABSENT, 1)]
    now = [(E, PRESENT, 1), ("cardiomegaly", ABSENT, 1), ("fracture", PRESENT, 1), ("mass", ABSENT, 1)]
    qa = pairs(then, now, 60).filter(qtype="multi-choice")
    answers = {"are new since": "fracture", "were present on": "cardiomegaly", "are present in both": E}
    now_stage, next_stage = qa.filter(stage=5), qa.filter(stage=6)
    asked = Counter()
    for row in now_stage.iter_rows(named=True):
        (kind,) = (kind for kind in answers if kind in row["question"])
        asked[kind] += 1
        assert [bare(right) for right in row["answer_list"]] == [answers[kind]]
        assert 3 <= len(row["option_list"]) <= 4
        assert row["fact"] == f"{answers[kind]}|change"
    assert now_stage.height == 60 and min(asked.values()) > 8 and len(asked) == 3
    assert {frozenset(map(bare, row)) for row in next_stage["answer_list"]} <= {
        frozenset({E, "fracture"}), frozenset({E}), frozenset({"fracture"}),
    }  # fmt: skip
    assert next_stage.height == 60


def test_options_of_several_never_overlap():
    then = [(name, PRESENT, 1) for name in ("consolidation", "lung opacity", "airspace opacity")]
    now = [("consolidation", PRESENT, 1), ("pneumothorax", PRESENT, 1), ("mass", PRESENT, 1)]
    then += [("pneumothorax", ABSENT, 1), ("mass", ABSENT, 1)]
    now += [("fracture", ABSENT, 1)]
    then += [("fracture", PRESENT, 1)]
    names = list(FINDINGS)
    for row in pairs(then, now, 30).filter(qtype="multi-choice").iter_rows(named=True):
        codes = [names.index(bare(option)) for option in row["option_list"]]
        assert not any(OVERLAPS[a, b] for a in codes for b in codes if a != b)


NAMES = [
    "pleural effusion",
    "pneumothorax",
    "edema",
    "fracture",
    "cardiomegaly",
    "pacemaker",
    "hiatal hernia",
]
row = st.tuples(
    st.sampled_from([PRESENT, PRESENT, ABSENT, ABSENT, POSSIBLE]),
    st.sampled_from([1, 2, 3]),
    st.none(),
    st.sampled_from([*tables.SEVERITIES, None]),
)
# finding -> rows about it in the first study, and in the second
known = st.fixed_dictionaries(
    {name: st.tuples(st.lists(row, max_size=2), st.lists(row, max_size=2)) for name in NAMES}
)
MEANS = {
    "new": (ABSENT, PRESENT),
    "no longer present": (PRESENT, ABSENT),
    "present in both studies": (PRESENT, PRESENT),
    "absent in both studies": (ABSENT, ABSENT),
    "worse": (PRESENT, PRESENT),
    "improved": (PRESENT, PRESENT),
    "unchanged": (PRESENT, PRESENT),
    "possible before, present now": (POSSIBLE, PRESENT),
    "possible before, absent now": (POSSIBLE, ABSENT),
    "present before, possible now": (PRESENT, POSSIBLE),
    "absent before, possible now": (ABSENT, POSSIBLE),
    "possible in both studies": (POSSIBLE, POSSIBLE),
    "possible now, present on the next study": (POSSIBLE, PRESENT),
    "possible now, absent on the next study": (POSSIBLE, ABSENT),
    "present now, possible on the next study": (PRESENT, POSSIBLE),
    "absent now, possible on the next study": (ABSENT, POSSIBLE),
}


@settings(max_examples=40)
@given(known, st.integers(0, 9))
def test_no_answer_contradicts_the_two_studies(known, seed):
    """Statuses read from the rows in plain Python decide every answer, and how many may be asked."""
    rows = [
        (study, name, *row) for name, pair in known.items() for study in (1, 2) for row in pair[study - 1]
    ]
    evidence = build.gather(history(), findings(*((f"0/{row[0]}", *row[1:]) for row in rows)), boxes(), seed)
    qa = pl.concat([*changes.comparison(evidence, TEMPLATES[5]), *changes.trend(evidence, TEMPLATES[6])])
    assert set(qa.select("stage", "i").rows()) <= {(5, 1), (6, 0)}  # where there is a prior, or a next study
    said = {}
    for study, name, status, tier, *_ in rows:
        if status != ABSENT or tier <= 2:
            said.setdefault((study, name), set()).add(status)
    status = {key: next(s for s in (PRESENT, POSSIBLE, ABSENT) if s in seen) for key, seen in said.items()}
    both = {
        name: (status[1, name], status[2, name]) for name in NAMES if {(1, name), (2, name)} <= set(status)
    }
    grade = {
        (study, name): {row[5] for row in rows if row[:3] == (study, name, PRESENT)} for study, name in status
    }
    for stage, ending, most in ((5, "|change", 6), (6, "|next", 3)):
        asked = Counter()
        for row in qa.filter(stage=stage, qtype="single-choice").iter_rows(named=True):
            name = row["fact"].removesuffix(ending)
            answer = bare(row["answer"])
            assert both[name] == MEANS[answer]
            if answer in ("worse", "improved", "unchanged"):
                (then,), (now,) = grade[1, name], grade[2, name]
                step = tables.SEVERITIES.index(now) - tables.SEVERITIES.index(then)
                assert {"worse": step > 0, "improved": step < 0, "unchanged": step == 0}[answer]
            graded = both[name] == (PRESENT, PRESENT) and len(grade[1, name] | grade[2, name]) == 2
            kind = {(PRESENT, PRESENT): "stayed", (ABSENT, ABSENT): "neither"}.get(both[name], "changed")
            moved = graded and None not in grade[1, name] | grade[2, name]
            asked["possible" if POSSIBLE in both[name] else "changed" if moved else kind] += 1
        assert sum(asked.values()) <= most
        limit = max(asked["changed"], 1)
        assert asked["stayed"] <= limit and asked["neither"] <= limit
        for row in qa.filter(stage=stage, qtype="multi-choice").iter_rows(named=True):
            wanted = {
                "are new": {(ABSENT, PRESENT)}, "were present": {(PRESENT, ABSENT)},
                "present in both": {(PRESENT, PRESENT)},
                "next study": {(old, PRESENT) for old in tables.STATUSES},
            }  # fmt: skip
            (right,) = (pair for words, pair in wanted.items() if words in row["question"])
            for option in row["option_list"]:
                assert (both[bare(option)] in right) == (option in row["answer_list"])


def test_rows_in_any_order_give_the_same_questions():
    frames = sample()[:3]
    stages = pl.col("stage").is_in([5, 6])
    whole = build.questions(*frames, 0).filter(stages)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=7) for frame in frames]
    assert build.questions(*shuffled, 0).filter(stages).equals(whole) and whole.height > 500


def test_no_answer_of_a_choice_wins_unseen():
    tables_ = [frame.filter(source="chexpert") for frame in sample()[:1]]
    kept = tables_[0].select("sample_id")
    qa = build.questions(
        tables_[0], *(frame.join(kept, on="sample_id", how="semi") for frame in sample()[1:3]), 0
    )
    for stage in (5, 6):
        choices = qa.filter(stage=stage, qtype="single-choice")
        for n in (4, 5):
            right = Counter(map(bare, choices.filter(pl.col("option_list").list.len() == n)["answer"]))
            assert right.most_common(1)[0][1] < 0.5 * right.total() and right.total() > 100


def test_a_limit_on_words_holds():
    limit = re.compile(r"at most (\d+) words")
    n = 0
    for question, answer in build.questions(*sample()[:3], 0).select("question", "answer").iter_rows():
        if found := limit.search(question):
            n += 1
            assert len(answer.split()) <= int(found[1])
    assert n > 100


def test_template_keys_are_the_kinds_of_change():
    templates = wording.load()
    assert (
        set(templates[5]["change"].answers) == set(templates[6]["trend"].answers) == {*changes.TOLD, "none"}
    )
    assert set(changes.KINDS.values()) <= {*changes.TOLD, "neither"}
