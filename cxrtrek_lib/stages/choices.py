"""Choices between findings (stage 2): which ones stand beside each other as options, and which are right.

Rules that keep a choice from being guessed:
- a wrong option is false by evidence at tier 1: the report, a closed protocol or a scene denies it. What only
  follows from a study-level "normal" is no option: it never stands beside a present finding;
- options do not overlap: none is a general or special form of another, or of anything present or uncertain in
  the study, nor another word for what may be one thing on a film (OVERLAPPING);
- how many options there are is drawn before it is drawn which are right, from what both answers allow;
- "none of these" is offered in half of the choices of one that allow it, and is then right in about 1 of n;
- order and label style are drawn (question_rows.lay_out).
"""

import numpy as np
import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import DEVICES, DIAGNOSES, FINDINGS, ancestors, related
from cxrtrek_lib.stages.question_rows import Templates, draw, lay_out, question_rows, with_bits
from cxrtrek_lib.stages.wording import Template, coded

# A name -> others that may stand for the same thing on one film, or are hard to tell from it. The two are
# never options of one question (nor are a general finding and its special forms: findings.related).
OVERLAPPING = {
    "pleural effusion": (
        "costophrenic angle blunting", "hydropneumothorax", "pleural thickening", "other pleural abnormality",
    ),
    "costophrenic angle blunting": ("hydropneumothorax", "pleural thickening", "other pleural abnormality"),
    "pneumothorax": ("hydropneumothorax", "other pleural abnormality", "bulla"),
    "other pleural abnormality": (
        "hydropneumothorax", "pleural thickening", "pleural plaque", "pleural mass",
    ),
    "pleural thickening": ("pleural plaque", "pleural mass", "scarring"),
    "consolidation": ("infiltrate", "ground glass opacity"),
    "airspace opacity": ("infiltrate", "ground glass opacity"),
    "infiltrate": ("ground glass opacity", "interstitial opacity"),
    "edema": ("vascular congestion", "interstitial opacity", "prominent bronchovascular markings"),
    "vascular congestion": ("interstitial opacity", "prominent bronchovascular markings"),
    "interstitial opacity": (
        "prominent bronchovascular markings", "pulmonary fibrosis", "scarring", "miliary pattern",
    ),
    "pulmonary fibrosis": ("scarring",),
    "atelectasis": ("volume loss", "low lung volumes"),
    "volume loss": ("low lung volumes", "hemidiaphragm elevation", "mediastinal shift"),
    "hemidiaphragm elevation": ("low lung volumes", "diaphragmatic eventration"),
    "lung lesion": ("granuloma", "pseudonodule", "cavitation", "lung cyst"),
    "nodule or mass": ("granuloma", "pseudonodule"),
    "nodule": ("granuloma", "pseudonodule", "miliary pattern"),
    "granuloma": ("pseudonodule", "calcification"),
    "calcification": ("pleural plaque", "aortic atherosclerosis", "lymph node calcification"),
    "cavitation": ("lung cyst", "bulla", "air-fluid level"),
    "bulla": ("lung cyst", "emphysema", "lung lesion"),
    "emphysema": ("hyperinflation", "flattened diaphragm"),
    "hyperinflation": ("flattened diaphragm",),
    "cardiomegaly": ("enlarged cardiomediastinum", "pericardial effusion"),
    "enlarged cardiomediastinum": (
        "pericardial effusion", "mediastinal mass", "mediastinal lipomatosis", "lymphadenopathy", "goiter",
        "aortic elongation", "aortic enlargement", "aortic aneurysm",
    ),
    "aortic elongation": ("aortic enlargement", "aortic aneurysm"),
    "aortic enlargement": ("aortic aneurysm",),
    "hilar enlargement": ("lymphadenopathy", "pulmonary artery enlargement"),
    "mediastinal mass": ("lymphadenopathy", "goiter", "hiatal hernia", "esophageal dilatation"),
    "hernia": ("hiatal hernia",),
    "vertebral compression": ("fracture", "degenerative spine changes", "kyphosis"),
    "postsurgical change": ("surgical material", "sternal wires", "orthopedic hardware"),
    "surgical material": ("sternal wires", "orthopedic hardware"),
    "foreign body": tuple(sorted(DEVICES - {"foreign body"})),
}  # fmt: skip
# What reports deny most often for each time that they state it, in this order (CheXpert's explicit labels).
# Present options prefer them and absent ones do not: what is hardly ever denied would be right anyway.
# Not so in a scene, which denies all findings alike.
OFTEN_DENIED = (
    "pneumothorax", "enlarged cardiomediastinum", "consolidation", "pleural effusion", "cardiomegaly",
    "edema", "fracture",
)  # fmt: skip
MOST = 4  # options of one side: right or wrong
# "None of these" is to be right in 1 of n choices of n options that offer it: NONE_RIGHT of n where something
# is present, and the rest in a share of the studies where nothing is (measured: test_choices.py).
NONE_RIGHT = 0.75
NORMAL_SHARE = 0.01
NAMES = list(FINDINGS)


def _matrix(groups) -> np.ndarray:
    """bool (V, V) from {name: names}; V names in the order of the vocabulary."""
    matrix = np.zeros((len(NAMES), len(NAMES)), dtype=bool)
    for name, others in groups.items():
        matrix[NAMES.index(name), [NAMES.index(other) for other in others]] = True
    return matrix


def _overlaps() -> np.ndarray:
    matrix = _matrix({name: related([name]) for name in NAMES}) | _matrix(OVERLAPPING)
    return matrix | matrix.T


OVERLAPS = _overlaps()  # bool (V, V), symmetric: may the two not stand beside each other?
IMPLIES = _matrix({name: ancestors(name) for name in NAMES})  # bool (V, V): is the second a general form?


def touched(known: pl.DataFrame, relation: np.ndarray) -> pl.Series:
    """bool (N,): whether a present or uncertain finding of the study stands in the relation to the row's.

    known     rows sorted by i (Evidence.known)
    relation  bool (V, V): from the present or uncertain finding to the row's
    """
    packed = np.packbits(relation, axis=1)
    study = known["i"].to_numpy().astype(np.int64)
    finding = known["finding"].to_physical().to_numpy().astype(np.int64)
    claimed = (known["status"] != "absent").to_numpy()
    unions = np.zeros((int(study.max(initial=-1)) + 1, packed.shape[1]), dtype=np.uint8)
    starts = np.flatnonzero(np.diff(study[claimed], prepend=-1))
    if len(starts):
        unions[study[claimed][starts]] = np.bitwise_or.reduceat(packed[finding[claimed]], starts, axis=0)
    return pl.Series(
        (unions[study, finding >> 3] >> (7 - (finding & 7)).astype(np.uint8)) & 1, dtype=pl.Boolean
    )


def apart(study: np.ndarray, finding: np.ndarray, drawn: np.ndarray, n_studies: int) -> np.ndarray:
    """Rows of each study in the order of `drawn`, none overlapping one before: (n_studies, MOST); else -1.

    study, finding, drawn  int (N,): the study's number, the finding's place in NAMES, what the rows sort by
    """
    alive = np.lexsort((drawn, study))
    picked = np.full((n_studies, MOST), -1)
    for place in range(MOST):
        if not len(alive):
            break
        first = np.diff(study[alive], prepend=-1) != 0
        chosen = alive[first]
        picked[study[chosen], place] = chosen
        alive = alive[~OVERLAPS[finding[chosen][np.cumsum(first) - 1], finding[alive]]]
    return picked


def choices(known: pl.DataFrame, n_studies: int, templates: Templates) -> list[pl.DataFrame]:
    """Question rows of the templates "one", "absent" and "several", in ranks 2 to 4.

    known  Evidence.known, with i below n_studies
    one      which is present: 1 right of 2-5 options, or "none of these"
    absent   which is ruled out: 1 right of 2-5 options
    several  which are present: as often r right and w wrong as w right and r wrong, 3-5 options
    """
    study = known["i"].to_numpy().astype(np.int64)
    handle = known.select("i", "key").filter(pl.Series(np.diff(study, prepend=-1) != 0))
    present, absent = (side[handle["i"].to_numpy()] for side in _candidates(known, n_studies))
    p, a = (present >= 0).sum(axis=1), (absent >= 0).sum(axis=1)
    # "One" and "absent" would be the same question in other words: one of the two is drawn.
    keys = handle["key"].to_numpy()
    heads = draws.uniforms(keys, "stage2/one or absent") < 0.5
    normal = (p == 0) & (a > 1) & (draws.uniforms(keys, "stage2/normal") < NORMAL_SHARE)
    mixed = (p > 0) & (a > 0)
    frames = []
    for rank, name, options_of, chosen in (
        (2, "one", _one, (mixed & heads) | normal),
        (3, "absent", _absent, mixed & ~heads),
        (4, "several", _several, mixed & (p + a > 2)),
    ):
        frame = with_bits(templates[name], handle.filter(pl.Series(chosen)))
        options, right = options_of(frame["bits"].to_numpy(), present[chosen], absent[chosen])
        frame = _worded(templates[name], frame, known, options, right)
        if name == "several":
            frame = frame.with_columns(qtype=_qtypes(frame))
        frames.append(question_rows(templates[name], frame, rank))
    return frames


def _candidates(known: pl.DataFrame, n_studies: int) -> tuple[np.ndarray, np.ndarray]:
    """int (n_studies, MOST) twice: rows of `known` that may be options, present and absent ones; else -1."""
    usable = ~known["name"].is_in(list(DIAGNOSES))
    present = usable & (known["status"] == "present") & known["balanced"]
    absent = usable & (known["status"] == "absent") & (known["tier"] == 1) & ~touched(known, OVERLAPS)
    often = np.full(len(NAMES), len(OFTEN_DENIED), dtype=np.uint64)
    often[[NAMES.index(name) for name in OFTEN_DENIED]] = np.arange(len(OFTEN_DENIED))
    study = known["i"].to_numpy().astype(np.int64)
    finding = known["finding"].to_physical().to_numpy().astype(np.int64)
    # What a finding's balance thins out is what is nearly always absent: it stands back as a wrong option.
    rare = (~known["balanced"]).to_numpy().astype(np.uint64)
    simulated = (known["evidence"] == "simulated").to_numpy()
    tables = []
    for wanted, preference in ((present, often), (absent, often.max() - often)):
        rows = np.flatnonzero(wanted.to_numpy())
        drawn = draw(known[rows], "finding", "stage2/options") >> np.uint64(8)
        order = np.where(simulated[rows], 0, preference[finding[rows]]).astype(np.uint64)
        drawn |= (order << np.uint64(56)) | (rare[rows] << np.uint64(63))
        picked = apart(study[rows], finding[rows], drawn, n_studies)
        tables.append(np.append(rows, -1)[picked])
    return tables[0], tables[1]


# The options of a choice: int (N, K) rows of `known`, -1 where there is no option, NONE for "none of these";
# and which of them are right, bool (N, K). From bits (N,), present and absent candidates, int (N, MOST).
NONE = -2
Options = tuple[np.ndarray, np.ndarray]


def _one(bits: np.ndarray, present: np.ndarray, absent: np.ndarray) -> Options:
    """Which is present? "None of these" is offered where its being right or wrong could both be drawn."""
    a, shown = (absent >= 0).sum(axis=1), present[:, 0] >= 0
    offered = ~shown | ((a > 1) & (draws.uniforms(bits, "none offered") < 0.5))
    n = np.where(offered, 3, 2) + draws.picks(bits, "number", np.maximum(a - offered, 1))
    none = offered & (~shown | (draws.uniforms(bits, "none right") * n < NONE_RIGHT))
    wrong = _first(absent, n - 1 - (offered & ~none))
    options = np.column_stack([np.where(none, -1, present[:, 0]), wrong, np.where(offered, NONE, -1)])
    right = np.zeros(options.shape, dtype=bool)
    right[:, 0], right[:, -1] = ~none, none
    return options, right


def _absent(bits: np.ndarray, present: np.ndarray, absent: np.ndarray) -> Options:
    """Which is ruled out?"""
    p = (present >= 0).sum(axis=1)
    options = np.column_stack([absent[:, 0], _first(present, 1 + draws.picks(bits, "number", p))])
    return options, np.broadcast_to(np.arange(MOST + 1) == 0, options.shape)


def _several(bits: np.ndarray, present: np.ndarray, absent: np.ndarray) -> Options:
    """Which are present? r right and w wrong; the pair (r, w) is drawn from those that MIXES allows."""
    p, a = (present >= 0).sum(axis=1), (absent >= 0).sum(axis=1)
    drawn = MIXES[p, a, draws.picks(bits, "number", N_MIXES[p, a])]
    options = np.column_stack([_first(present, drawn[:, 0]), _first(absent, drawn[:, 1])])
    return options, np.broadcast_to(np.arange(2 * MOST) < MOST, options.shape)


def _mixes() -> tuple[np.ndarray, np.ndarray]:
    """Pairs (r, w) by numbers of candidates, int (5, 5, most pairs, 2), and how many there are, int (5, 5).

    Where (r, w) is allowed, (w, r) is too, so no number of options speaks for more right ones; but (2, 1)
    and (1, 2) may stand without the other, for studies that have only one of a side.
    """
    sizes = range(1, MOST + 1)
    pairs = [(r, w) for r in sizes for w in sizes if 3 <= r + w <= 5]
    table = np.zeros((MOST + 1, MOST + 1, len(pairs), 2), dtype=np.int64)
    number = np.ones((MOST + 1, MOST + 1), dtype=np.int64)
    for p in sizes:
        for a in sizes:
            least = min(p, a)
            fit = [(r, w) for r, w in pairs if r <= p and w <= a and (max(r, w) <= least or r + w == 3)]
            table[p, a, : len(fit)] = fit or 0
            number[p, a] = max(len(fit), 1)
    return table, number


MIXES, N_MIXES = _mixes()


def _first(candidates: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The first n (N,) of each row, -1 for the others."""
    return np.where(np.arange(candidates.shape[1]) < n[:, None], candidates, -1)


def _worded(
    template: Template, frame: pl.DataFrame, known: pl.DataFrame, options: np.ndarray, right: np.ndarray
) -> pl.DataFrame:
    """Rows with options in words, and with the facts and the columns that the answer rests on."""
    finding = np.append(known["finding"].to_physical().to_numpy().astype(np.int64), (len(NAMES), -1))
    codes = finding[options]  # the last two entries of `finding` are those of NONE and -1
    named = options >= 0
    # That none of these is present is a fact about each of them.
    stated = named & (right | (right & (options == NONE)).any(axis=1)[:, None])
    place = np.full(options.shape, -1)
    columns, place[named] = coded(known["evidence"].gather(options[named]))
    frame = frame.with_columns(
        fact=_listed(np.where(stated, codes, -1), [f"{name}|presence" for name in NAMES]),
        evidence=_listed(place, columns),
    )
    words = [*NAMES, template.answers["none"]] if "none" in template.answers else NAMES
    return lay_out(frame, words, codes, right)


def _listed(codes: np.ndarray, words: list[str]) -> pl.Series:
    """The words of each row, int (N, K) with -1 for none, without repetition, joined by "; "."""
    texts = pl.Series([*words, None], dtype=pl.String)
    columns = []
    for place in range(codes.shape[1]):
        seen = (codes[:, :place] == codes[:, place : place + 1]).any(axis=1)
        columns.append(texts.gather(np.where(seen | (codes[:, place] < 0), len(words), codes[:, place])))
    named = [column.alias(str(place)) for place, column in enumerate(columns)]
    return pl.DataFrame(named).select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)).to_series()


def _qtypes(frame: pl.DataFrame) -> pl.Series:
    """ "multi-choice" or "multi-choice-N", N the number of options, by the draw."""
    plain = pl.Series(draws.uniforms(frame["bits"].to_numpy(), "qtype") < 0.5)
    with_number = pl.concat_str(pl.lit("multi-choice-"), pl.col("option_list").list.len())
    return frame.select(pl.when(plain).then(pl.lit("multi-choice")).otherwise(with_number)).to_series()
