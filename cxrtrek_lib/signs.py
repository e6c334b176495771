"""What a simulated film shows for what an annotation says, where the two do not share a name.

A film shows the findings of simulate.catalogue.SHOWN. An annotation also names others, which are shown in two
ways:
- a general finding is *realised* as a special one (REALISED_AS). Where the study states a special one anyway,
  that one is it: there is no second lesion. Else one is drawn, by patient, so that every study of the patient
  that leaves it open shows the same one.
- a diagnosis makes the film show the findings by which it is seen (SEEN_AS). It is never concluded from the
  film: consolidation does not prove pneumonia. One that is absent, only possible or not mentioned puts
  nothing on the film.
"""

import numpy as np
import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import ancestors
from cxrtrek_lib.simulate.catalogue import RENDERABLE

# General finding -> {special finding that a film can show: share of the draws}, in the order in which they
# are realised: what stands further down finds what stands above it in the study.
REALISED_AS: dict[str, dict[str, float]] = {
    # The alveoli are filled: that is consolidation (Fleischner Society glossary, Hansell et al. 2008).
    "airspace opacity": {"consolidation": 1.0},
    # Shares as in PadChest, which tells the two apart: 2,533 and 592 studies.
    "nodule or mass": {"nodule": 0.8, "mass": 0.2},
    # Words that CheXpert's labeler counts as a lung lesion: nodule, mass, nodular opacity, tumor.
    "lung lesion": {"nodule": 0.8, "mass": 0.2},
    # "Infiltrate" is any ill-defined opacity, hazy or dense (the glossary advises against the word).
    "infiltrate": {"lung opacity": 0.5, "consolidation": 0.5},
    # CheXpert's labeler counts pleural thickening, fibrosis and scars as "pleural other".
    "other pleural abnormality": {"pleural thickening": 1.0},
    # Most hernias that a chest film shows are hiatal; NIH has only the general word.
    "hernia": {"hiatal hernia": 1.0},
    # The labeler counts lines, tubes, drains and pacemakers, no sternal wires. Shares as in PadChest.
    "support devices": {
        "central venous catheter": 0.35, "enteric tube": 0.32, "pacemaker": 0.15, "endotracheal tube": 0.15,
        "chest tube": 0.03,
    },
}  # fmt: skip
# Diagnosis -> the findings by which a film shows it, as far as the study does not deny them: our own choice.
SEEN_AS: dict[str, tuple[str, ...]] = {
    "pneumonia": ("consolidation",),
    "heart failure": ("cardiomegaly", "edema"),
    "copd": ("hyperinflation",),
}
# Diagnoses whose signs are there even where the diagnosis itself is only possible: PadChest's label is "COPD
# signs", which its reader makes a possible copd.
SIGNS_STATED = ("copd",)
NAMED = (*RENDERABLE, *REALISED_AS, *SEEN_AS)  # every other finding puts a study out when it is present


def specials(name: str) -> tuple[str, ...]:
    """The findings of a film that a general name may stand for: those drawn, and its special cases."""
    return tuple(shown for shown in RENDERABLE if shown in REALISED_AS[name] or name in ancestors(shown))


def shown_as(findings: pl.DataFrame, studies: pl.DataFrame, seed: int) -> pl.DataFrame:
    """What a film of each study shows for the present and uncertain findings that the annotation states.

    findings  tables.FINDINGS; studies  sample_id, patient_id: of their studies
    Returns the rows of findings that are present or uncertain and in NAMED, with `shown`, the finding of the
    film, and `as_status`, its status; one row per sign of a diagnosis. `shown` is null when the study denies
    all that could be shown, and when a diagnosis is only possible.
    """
    findings = findings.join(studies.select("sample_id", "patient_id"), on="sample_id")
    stated = pl.col("status") != "absent"
    denied = findings.filter(~stated & pl.col("finding").is_in(RENDERABLE))
    denied = denied.select("sample_id", shown="finding").unique()
    claimed = findings.filter(stated & pl.col("finding").is_in(NAMED))
    plain = claimed.filter(pl.col("finding").is_in(RENDERABLE))
    known = [plain.with_columns(shown="finding", as_status="status"), _signs(claimed, denied)]
    for name in REALISED_AS:
        rows = claimed.filter(pl.col("finding") == name)
        known.append(_realised(rows, name, pl.concat(known), denied, seed))
    return pl.concat(known).drop("patient_id")


def _signs(claimed: pl.DataFrame, denied: pl.DataFrame) -> pl.DataFrame:
    """The rows of diagnoses: one per sign that the study does not deny, or one without any."""
    rows = claimed.filter(pl.col("finding").is_in(list(SEEN_AS)))
    seen = (pl.col("status") == "present") | pl.col("finding").is_in(SIGNS_STATED)
    pairs = [(name, sign) for name, signs in SEEN_AS.items() for sign in signs]
    pairs = pl.DataFrame(pairs, schema=["finding", "shown"], orient="row")
    signs = rows.filter(seen).join(pairs, on="finding").join(denied, on=["sample_id", "shown"], how="anti")
    signs = signs.with_columns(as_status=pl.lit("present"))
    without = rows.join(signs, on=["sample_id", "finding"], how="anti")
    return pl.concat([
        signs,
        without.with_columns(shown=pl.lit(None, dtype=pl.String), as_status="status").select(signs.columns),
    ])  # fmt: skip


def _realised(
    rows: pl.DataFrame, name: str, known: pl.DataFrame, denied: pl.DataFrame, seed: int
) -> pl.DataFrame:
    """The rows of one general finding: as what the study shows anyway, present before uncertain, or drawn."""
    order = {shown: place for place, shown in enumerate(specials(name))}
    there = known.filter(pl.col("shown").is_in(list(order))).with_columns(
        uncertain=pl.col("as_status") == "uncertain", order=pl.col("shown").replace_strict(order)
    )
    there = there.sort("sample_id", "uncertain", "order").unique("sample_id", keep="first")
    rows = rows.join(there.select("sample_id", "shown"), on="sample_id", how="left")

    # A race: each form runs at its share, the first that the study allows wins. So a study that rules one out
    # does not change what the patient's other studies show.
    forms = REALISED_AS[name]
    patients = rows.filter(pl.col("shown").is_null()).select("patient_id").unique().sort("patient_id")
    keys = draws.keys(seed, patients["patient_id"].to_list())
    times = pl.concat(
        patients.with_columns(
            drawn=pl.lit(form), time=pl.Series(-np.log1p(-draws.uniforms(keys, f"{name}/{form}")) / share)
        )
        for form, share in forms.items()
    )
    # A hazy opacity beside a special one would be taken for that one.
    opacities = [shown for shown in RENDERABLE if "lung opacity" in ancestors(shown)]
    swallowed = known.filter(pl.col("shown").is_in(opacities)).select(
        "sample_id", drawn=pl.lit("lung opacity")
    )
    ruled_out = pl.concat([denied.rename({"shown": "drawn"}), swallowed.unique()])
    open_to = rows.filter(pl.col("shown").is_null()).select("sample_id", "patient_id").unique()
    open_to = open_to.join(times, on="patient_id").join(ruled_out, on=["sample_id", "drawn"], how="anti")
    first = open_to.sort("sample_id", "time").unique("sample_id", keep="first").select("sample_id", "drawn")
    rows = rows.join(first, on="sample_id", how="left")
    return rows.with_columns(
        shown=pl.coalesce("shown", "drawn"), as_status="status"
    ).drop("drawn").select(known.columns)  # fmt: skip
