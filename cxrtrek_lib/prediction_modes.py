"""What a prediction mode changes: answers in the context, order of the stages, films, or the weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cxrtrek_lib import draws
from cxrtrek_lib.chat import Case
from cxrtrek_lib.conversations import REPORT_STAGE


class Mode(NamedTuple):
    """context: predicted, gold or none (predict.CONTEXTS); films: own, blank or swapped; see notebook 05."""

    context: str = "predicted"
    films: str = "own"
    shuffled: bool = False
    flipped: bool = False
    untuned: bool = False


# The first is the headline; each of the others differs from it in one thing.
MODES = {
    "predicted": Mode(),
    "gold": Mode(context="gold"),
    "none": Mode(context="none"),
    "shuffled": Mode(shuffled=True),
    "flipped": Mode(flipped=True),
    "blank_image": Mode(films="blank"),
    "swapped_image": Mode(films="swapped"),
    "untuned": Mode(untuned=True),
}


def of_mode(mode: str) -> Mode:
    """A mode by its name. ValueError when unknown."""
    if mode not in MODES:
        raise ValueError(f"unknown prediction mode {mode!r}; known: {', '.join(MODES)}")
    return MODES[mode]


def asked(cases: Sequence[Case], mode: Mode, *, seed: int) -> list[Case]:
    """The cases as a mode asks them: stages shuffled, or films of other patients, or as they are."""
    if mode.films == "swapped":
        return swapped(cases, seed=seed)
    return [shuffled(case, seed=seed) if mode.shuffled else case for case in cases]


def shuffled(case: Case, *, seed: int) -> Case:
    """The case with its stages in drawn order, the report last; within a stage the order stays.

    A prior film is then shown with the first question that compares, wherever that stands.
    """
    stages = sorted({turn.stage for turn in case.turns})
    drawn = draws.shuffle(seed, case.sample_id, "shuffled stages", stages)
    turns = sorted(case.turns, key=lambda turn: (turn.stage == REPORT_STAGE, drawn.index(turn.stage)))
    return replace(case, turns=tuple(turns))


def swapped(cases: Sequence[Case], *, seed: int) -> list[Case]:
    """The cases, each with the films of another patient among them, as many as its own.

    In drawn order, each case takes the films of the next one of another patient that has as many; where none
    has, a film each of the next other patients. Raises ValueError when there are too few patients for that.
    """
    drawn = draws.uniforms(draws.keys(seed, [case.sample_id for case in cases]), "swapped films")
    ring = [int(i) for i in np.argsort(drawn, kind="stable")]
    found = list(cases)
    for place, i in enumerate(ring):
        case, n = cases[i], len(cases[i].images)
        later = (cases[ring[(place + step) % len(ring)]] for step in range(1, len(ring)))
        others = [one for one in later if one.patient_id != case.patient_id]
        donor = next((one.images for one in others if len(one.images) == n), None)
        films = donor or tuple(one.images[0] for one in others)[:n]
        if len(films) < n:
            raise ValueError(
                f"case {case.sample_id}: too few other patients to swap its {n} films with; "
                "raise cohort.training.test"
            )
        found[i] = replace(case, images=films)
    return found
