"""Choices between findings: true by evidence, without overlap, and not to be guessed from their shape."""

from functools import cache
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from stage_rows import bare, stage_rows
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, ancestors, related
from cxrtrek_lib.sources import chexpert, vindr
from cxrtrek_lib.stages import choices

NONE_OF_THESE = "none of these"
ONE, ABSENT, SEVERAL = 2, 3, 4  # ranks


def of(rows):
    """The stage-2 choices with bare options: sample_id, kind (rank), options, answers, n, and the row."""
    without_label = pl.element().map_elements(bare, return_dtype=pl.String)
    found = rows.filter(pl.col("rank").is_between(ONE, SEVERAL)).with_columns(
        options=pl.col("option_list").list.eval(without_label),
        answers=pl.col("answer_list").list.eval(without_label),
    )
    return found.with_columns(
        n=pl.col("options").list.len(),
        offered=pl.col("options").list.contains(NONE_OF_THESE),
        none=pl.col("answers").list.contains(NONE_OF_THESE),
    )


@cache
def real():
    """About 7,000 studies of CheXpert (labels mined from reports) and 2,000 of VinDr (a closed protocol)."""
    tables = [chexpert.read(None, 2500), vindr.read(None, 2000)]
    frames = [
        pl.concat([getattr(table, name) for table in tables]) for name in ("studies", "findings", "boxes")
    ]
    return of(stage_rows(2, *frames, ratio=3.0)), frames[1]


def alike(one, other):
    return other in choices.OVERLAPPING.get(one, ()) or one in choices.OVERLAPPING.get(other, ())


def check(rows, facts):
    """Every option against the rows of the tables, read without the library's own masks.

    facts  {(sample_id, finding): status}, and tiers {(sample_id, finding)} of absences at tier 1
    """
    status, explicit = facts
    claimed = {}
    for (sample, name), said in status.items():
        if said != "absent":
            claimed.setdefault(sample, set()).add(name)
    for row in rows.iter_rows(named=True):
        sample, options, answers = row["sample_id"], row["options"], row["answers"]
        named = [option for option in options if option != NONE_OF_THESE]
        assert 2 <= len(options) <= 5 and set(answers) < set(options) and answers, row
        assert row["rank"] == SEVERAL or len(answers) == 1
        assert not DIAGNOSES & set(named)
        for name in named:
            present = status[sample, name] == "present"
            said_present = (name in answers) != (row["rank"] == ABSENT)
            assert present == said_present, (row, name)
            if not present:
                assert (sample, name) in explicit, (row, name)
                others = claimed.get(sample, set())
                assert not related([name]) & others
                assert not any(alike(name, other) for other in others), (row, name)
        if NONE_OF_THESE in answers:
            assert not any(status[sample, name] == "present" for name in named)
        for one, other in combinations(named, 2):
            assert other not in related([one]) and not alike(one, other), row
        multiple = ("multi-choice", f"multi-choice-{len(options)}")
        assert row["qtype"] in (multiple if row["rank"] == SEVERAL else ("single-choice",))
        stated = named if NONE_OF_THESE in answers else answers
        assert sorted(row["fact"].split("; ")) == sorted(f"{name}|presence" for name in stated)


def read(frame):
    """What the rows say, in plain Python: present wins over uncertain, that over absent at tiers 1 and 2."""
    order = {"present": 0, "uncertain": 1, "absent": 2}
    status, tiers = {}, {}
    for sample, name, said, tier in frame.select(
        "sample_id", "finding", "status", "evidence_tier"
    ).iter_rows():
        if said == "absent" and tier == 3:
            continue
        old = status.get((sample, name))
        if old is None or order[said] < order[old]:
            status[sample, name] = said
        if said == "absent":
            tiers[sample, name] = min(tier, tiers.get((sample, name), 9))
    return status, {key for key, tier in tiers.items() if tier == 1 and status[key] == "absent"}


def test_real_choices_are_true_and_do_not_overlap():
    rows, frame = real()
    assert rows.height > 3000 and set(rows["rank"]) == {ONE, ABSENT, SEVERAL}
    check(rows, read(frame))


made = st.lists(
    st.tuples(st.sampled_from(["made/1", "made/2"]), st.sampled_from(sorted(FINDINGS)),
              st.sampled_from(["present", "absent", "absent", "uncertain"]), st.sampled_from([1, 1, 2, 3])),
    max_size=40,
)  # fmt: skip


@settings(max_examples=100)
@given(made, st.integers(0, 3))
def test_made_choices_are_true_and_do_not_overlap(rows, seed):
    frame = findings(*rows)
    asked = stage_rows(2, studies({"sample_id": "made/1"}, {"sample_id": "made/2"}), frame, boxes(), seed)
    check(of(asked), read(frame))


def test_wrong_options_are_denied_in_so_many_words_and_unrelated():
    facts = [
        ("made/a", "nodule", "present", 1),
        ("made/a", "lung lesion", "absent", 1),  # contradicts nodule
        ("made/a", "granuloma", "absent", 1),  # may be that nodule
        ("made/a", "edema", "absent", 1), ("made/a", "rib fracture", "absent", 1),
        ("made/a", "pneumothorax", "absent", 2),  # only implied by "normal"
        ("made/a", "kyphosis", "absent", 3),
        ("made/a", "scoliosis", "uncertain", 1), ("made/a", "pneumonia", "absent", 1),
    ]  # fmt: skip
    seen = set()
    for seed in range(40):
        asked = stage_rows(2, studies({"sample_id": "made/a"}), findings(*facts), boxes(), seed)
        seen.update(name for options in of(asked)["options"] for name in options)
    assert seen == {"nodule", "edema", "rib fracture", NONE_OF_THESE}


def test_the_right_option_stands_everywhere_equally_often():
    rows, _ = real()
    for (n,), part in rows.filter(pl.col("rank") != SEVERAL).group_by("n"):
        places = [row["options"].index(row["answers"][0]) for row in part.iter_rows(named=True)]
        assert chisquare(np.bincount(places, minlength=n)).pvalue > 0.001, n
    none = rows.filter("offered")
    for (n,), part in none.group_by("n"):
        places = [options.index(NONE_OF_THESE) for options in part["options"].to_list()]
        assert chisquare(np.bincount(places, minlength=n)).pvalue > 0.001, n


def test_none_of_these_is_right_about_as_often_as_any_option():
    """1 in n, within 0.1 for each n from 3 on; measured on all patients: 0.27, 0.23, 0.27 for n = 3, 4, 5."""
    rows, _ = real()
    single = rows.filter(rank=ONE)
    offered = single.filter("offered")
    assert offered.height > 200 and offered["n"].min() == 3
    for (n,), part in offered.group_by("n"):
        spread = 3 * (1 / n * (1 - 1 / n) / part.height) ** 0.5
        assert abs(part["none"].mean() - 1 / n) < 0.1 + spread, (n, part.height, part["none"].mean())
    # Where both can be drawn it is offered in half of the questions.
    assert 0.35 < offered.height / single.filter(pl.col("n") > 2).height < 0.75


def test_the_number_of_options_tells_nothing():
    """Of the options of a choice of several, half are right, however many there are: within 0.08."""
    rows, _ = real()
    several = rows.filter(rank=SEVERAL).with_columns(share=pl.col("answers").list.len() / pl.col("n"))
    for (n,), part in several.group_by("n"):
        spread = 3 * part["share"].std() / part.height**0.5
        assert abs(part["share"].mean() - 0.5) < 0.08 + spread, (n, part["share"].mean())
    numbered = several["qtype"] != "multi-choice"
    assert 0.45 < numbered.mean() < 0.55


def test_label_styles_tell_nothing():
    rows, _ = real()
    first = rows["option_list"].list.first().str.extract(r"^(A\.|1\.|1\)\.) ").fill_null("none")
    rows = rows.with_columns(
        style=first, second=pl.col("answer_list").list.first() == pl.col("option_list").list[1]
    )
    for column in ("second", "none", "n"):
        table = rows.group_by("style", column).len().pivot(column, index="style", values="len").fill_null(0)
        counts = table.drop("style").to_numpy()
        assert counts.shape[0] == 4 and chi2_contingency(counts).pvalue > 0.001, column


def test_what_the_words_alone_give_away():
    """How often a reader who only knows how often each word is right picks the right option, unseen.

    Measured on these studies, chance in brackets: which is present 0.67 (0.42), which is ruled out 0.76
    (0.46); on all patients of five tables 0.72 (0.44) and 0.76 (0.46). What is left is prevalence: a report
    that speaks of edema mostly finds it, one that speaks of pneumothorax mostly denies it. Without the
    preference for often denied findings and the balance of Yes and No it is 0.86 (0.43) on CheXpert.
    """
    rows, _ = real()
    for rank, most in ((ONE, 0.73), (ABSENT, 0.80)):
        part = rows.filter(rank=rank).with_row_index("row").with_columns(half=pl.col("row") % 2)
        long = part.select("row", "half", "n", "answers", option="options").explode("option")
        long = long.with_columns(right=pl.col("option").is_in(pl.col("answers")))
        hits = []
        for half in (0, 1):
            rates = long.filter(half=1 - half).group_by("option").agg(rate=pl.col("right").mean())
            tested = long.filter(half=half).join(rates, on="option", how="left").fill_null(0.5)
            hits += (
                tested.group_by("row").agg(pl.col("right").get(pl.col("rate").arg_max()))["right"].to_list()
            )
        chance = (1 / part["n"]).mean()
        print(f"rank {rank}: {np.mean(hits):.3f}, chance {chance:.3f}, {len(hits)} choices")
        assert chance - 0.05 < np.mean(hits) < most


def test_only_one_of_two_mirrored_questions_is_asked():
    rows, _ = real()
    single = rows.filter(pl.col("rank") != SEVERAL)
    assert single["sample_id"].is_unique().all()
    mixed = single.filter(~pl.col("none"))
    assert 0.4 < (mixed["rank"] == ONE).mean() < 0.6


known_rows = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(sorted(FINDINGS)),
              st.sampled_from(["present", "absent", "uncertain"])),
    max_size=30, unique_by=lambda row: row[:2],
)  # fmt: skip


def known(rows):
    names = list(FINDINGS)
    rows = sorted(rows, key=lambda row: (row[0], names.index(row[1])))
    frame = pl.DataFrame(
        rows, schema={"i": pl.UInt32, "finding": pl.Enum(names), "status": pl.String}, orient="row"
    )
    return rows, frame


@given(known_rows)
def test_touched(rows):
    rows, frame = known(rows)
    expected = [
        any(j == i and other in OTHERS_BELOW[name] for j, other, status in rows if status != "absent")
        for i, name, _ in rows
    ]
    assert choices.touched(frame, choices.IMPLIES).to_list() == expected


OTHERS_BELOW = {name: {other for other in FINDINGS if name in ancestors(other)} for name in FINDINGS}


@given(known_rows, st.randoms())
def test_apart(rows, random):
    """Against the plain rule: go through a study's rows in order, keep what overlaps nothing kept."""
    rows, frame = known(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    drawn = np.array(order, dtype=np.uint64)
    finding = frame["finding"].to_physical().to_numpy().astype(np.int64)
    picked = choices.apart(frame["i"].to_numpy().astype(np.int64), finding, drawn, 4)
    for i in range(4):
        kept = []
        for row in sorted((r for r in range(len(rows)) if rows[r][0] == i), key=lambda r: order[r]):
            name = rows[row][1]
            clash = any(rows[k][1] in related([name]) or alike(name, rows[k][1]) for k in kept)
            if not clash and len(kept) < 4:
                kept.append(row)
        assert [row for row in picked[i] if row >= 0] == kept


def test_names_of_the_groups_exist():
    names = {name for one, others in choices.OVERLAPPING.items() for name in (one, *others)}
    assert names <= set(FINDINGS) - DIAGNOSES
    assert set(choices.OFTEN_DENIED) <= set(FINDINGS) - DIAGNOSES
    assert (choices.OVERLAPS == choices.OVERLAPS.T).all() and choices.OVERLAPS.diagonal().all()
    place = choices.NAMES.index
    # What nobody would confuse may stand side by side.
    for one, other in (
        ("pleural effusion", "pneumothorax"),
        ("pacemaker", "chest tube"),
        ("edema", "atelectasis"),
    ):
        assert not choices.OVERLAPS[place(one), place(other)]


@pytest.mark.parametrize(("p", "a"), [(p, a) for p in range(1, 5) for a in range(1, 5)])
def test_mixes(p, a):
    pairs = [tuple(pair) for pair in choices.MIXES[p, a, : choices.N_MIXES[p, a]]]
    if p == a == 1:
        assert pairs == [(0, 0)]  # never asked: two options are a choice of one
        return
    assert all(1 <= r <= p and 1 <= w <= a and 3 <= r + w <= 5 for r, w in pairs)
    assert all((w, r) in pairs for r, w in pairs if r + w > 3 and max(r, w) <= min(p, a))
    assert len(set(pairs)) == len(pairs)
