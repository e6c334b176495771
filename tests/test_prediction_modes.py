"""Prediction modes: each changes one thing about the cases that are asked, by hash."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib import prediction_modes
from cxrtrek_lib.chat import Case, Turn
from cxrtrek_lib.prediction_modes import MODES, asked


def case(name: str, patient: str, stages: list[int], n_films: int = 1) -> Case:
    films = tuple(Path(f"{name}-{i}.png") for i in range(n_films))
    return Case(
        name, patient, films, tuple(Turn(i, s, "yes_no", "?", "No.", 1) for i, s in enumerate(stages))
    )


def test_the_promised_modes_are_there_and_an_unknown_one_is_named():
    assert list(MODES) == [
        *("predicted", "gold", "none", "shuffled", "flipped", "blank_image", "swapped_image", "untuned")
    ]
    with pytest.raises(ValueError, match="unknown prediction mode 'blind'; known: predicted, gold"):
        prediction_modes.of_mode("blind")
    cases = [case("a", "p", [1, 2]), case("b", "q", [1, 8])]
    for name in ("predicted", "gold", "none", "flipped", "blank_image", "untuned"):
        assert asked(cases, MODES[name], seed=0) == cases


@given(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=20).map(sorted), min_size=1, max_size=5))
def test_stages_are_shuffled_whole_and_the_report_stays_last(stages):
    cases = [case(str(i), "p", some) for i, some in enumerate(stages)]
    found = asked(cases, MODES["shuffled"], seed=3)
    assert found == asked(cases[::-1], MODES["shuffled"], seed=3)[::-1], "each case by itself"
    for before, after in zip(cases, found, strict=True):
        assert Counter(after.turns) == Counter(before.turns) and after.images == before.images
        order = list(dict.fromkeys(turn.stage for turn in after.turns))
        assert 8 not in order[:-1]
        runs = [[turn.turn for turn in after.turns if turn.stage == stage] for stage in order]
        assert [turn.turn for turn in after.turns] == [turn for run in runs for turn in run]
        assert all(run == sorted(run) for run in runs)


def test_every_order_of_stages_is_drawn():
    cases = [case(str(i), "p", [1, 2, 3, 8]) for i in range(600)]
    orders = Counter(tuple(t.stage for t in c.turns) for c in asked(cases, MODES["shuffled"], seed=0))
    assert len(orders) == 6 and min(orders.values()) > 60  # 100 expected of each, standard deviation 9


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 2)), min_size=2, max_size=30), st.integers(0, 5))
def test_films_are_those_of_another_patient_and_as_many(drawn, seed):
    cases = [case(str(i), f"p{patient}", [1], n) for i, (patient, n) in enumerate(drawn)]
    patients = {one.patient_id for one in cases}
    if len(patients) == 1:
        with pytest.raises(
            ValueError, match=r"case \d+: too few other patients .* raise cohort.training.test"
        ):
            asked(cases, MODES["swapped_image"], seed=seed)
        return
    cases += [case(f"more{i}{n}", f"q{i}", [1], n) for i in range(2) for n in (1, 2)]  # nobody is alone
    owner = {path: one.patient_id for one in cases for path in one.images}
    found = asked(cases, MODES["swapped_image"], seed=seed)
    sets = {one.images for one in cases}
    for before, after in zip(cases, found, strict=True):
        assert after.turns == before.turns and len(after.images) == len(before.images)
        assert before.patient_id not in {owner[path] for path in after.images}
        assert after.images in sets


def test_films_go_round_and_a_lone_pair_is_put_together():
    cases = [case(str(i), f"p{i}", [1]) for i in range(50)]
    found = asked(cases, MODES["swapped_image"], seed=0)
    assert Counter(one.images for one in found) == Counter(one.images for one in cases)
    assert [one.images for one in found] != [
        one.images for one in asked(cases, MODES["swapped_image"], seed=1)
    ]
    lone = asked([*cases, case("two", "q", [1], 2)], MODES["swapped_image"], seed=0)[-1]
    assert len(set(lone.images)) == 2 and not any(path.name.startswith("two") for path in lone.images)
