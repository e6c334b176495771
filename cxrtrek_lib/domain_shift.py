"""Which factor of how a film is taken moves the score: simulated scenes, one factor changed at a time.

Only simulation can do this: two real films of a patient differ in all of it at once. The scene, its patient
and lesions stay; so do all draws of the acquisition but the one that is changed. Truth is that of the
unchanged film.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from cxrtrek_lib import (
    chat,
    draws,
    files,
    images,
    metrics,
    paths,
    pools,
    prediction_run,
    tables,
    transfer_questions,
)
from cxrtrek_lib.inference_stats import interval
from cxrtrek_lib.simulate import acquisition, detector, geometry, patient, phantom, plan, scene, truth_tables
from cxrtrek_lib.simulate.acquisition import FIELD_MM, SCATTER, SOURCE_MM, Acquisition
from cxrtrek_lib.simulate.catalogue import RENDERABLE
from cxrtrek_lib.simulate.patient import Body
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.transfer_scores import ranking, resampled

UNCHANGED = "unchanged"


def _other_view(shot: Acquisition) -> Acquisition:
    """PA as AP and the other way round: tube distance, field and scatter; the patient stands as before."""
    to = "AP" if shot.view == "PA" else "PA"
    (low, high), (new_low, new_high) = SCATTER[shot.view], SCATTER[to]
    scatter = new_low + (shot.scatter - low) / (high - low) * (new_high - new_low)
    return shot._replace(view=to, source_mm=SOURCE_MM[to], field_mm=FIELD_MM[to], scatter=scatter)


# Factor -> (group, what it does in words, shot -> shot, changes of the body, share of the pixels' side).
# Strengths are at or a little beyond the ends of what the training films have.
FACTORS: dict[str, tuple[str, str, Callable[[Acquisition], Acquisition], dict[str, float], float]] = {
    UNCHANGED: ("", "as it was taken", lambda s: s, {}, 1.0),
    "other view": ("view", "PA as AP, AP as PA: distance, field, scatter", _other_view, {}, 1.0),
    "rotated": ("view", "turned by 6 degrees more", lambda s: s._replace(rotation=s.rotation + 6), {}, 1.0),
    "shallow breath": ("view", "lungs lower by 0.15 of their height",
                       lambda s: s._replace(inspiration=s.inspiration - 0.15), {}, 1.0),
    "underexposed": ("exposure", "tone +0.21, 40,000 quanta/mm²",
                     lambda s: s._replace(brightness=0.21, dose=4e4), {}, 1.0),
    "overexposed": ("exposure", "tone -0.21, 600,000 quanta/mm²",
                    lambda s: s._replace(brightness=-0.21, dose=6e5), {}, 1.0),
    "flat": ("exposure", "contrast x 0.6", lambda s: s._replace(contrast=0.6 * s.contrast), {}, 1.0),
    "noisy": ("noise", "a twentieth of the quanta", lambda s: s._replace(dose=s.dose / 20), {}, 1.0),
    "half size": ("size", "half as many pixels a side", lambda s: s, {}, 0.5),
    "motion": ("size", "blurred by 2.4 mm along the body", lambda s: s._replace(motion_mm=2.4), {}, 1.0),
    "dense vessels": ("texture", "vessels and bronchi x 1.6", lambda s: s, {"vessels": 1.6}, 1.0),
    "dense lungs": ("texture", "all inside the lung x 1.25", lambda s: s, {"lung": 1.25}, 1.0),
}  # fmt: skip


def studies(n: int, *, seed: int) -> list[dict]:
    """What scene.film needs of n test cases of the training cohort (all there are if fewer), drawn by hash.

    A film of theirs shows what the cohort's film shows; a lesion that the annotation had placed lies at a
    drawn place here.
    """
    folder = paths.FILMS / "training"
    cases = tables.read_table("studies", folder / "studies.parquet").filter(pl.col("split") == "test")
    drawn = draws.uniforms(draws.keys(seed, cases["sample_id"].to_list()), "domain shift")
    cases = cases.with_columns(drawn=pl.Series(drawn)).sort("drawn").head(n)
    findings = tables.read_table("findings", folder / "findings.parquet").filter(
        pl.col("status") == "present",
        pl.col("source_column") == "simulated",
        pl.col("finding").is_in(RENDERABLE),
    )
    columns = ["finding", "status", "laterality", "severity"]
    rows = findings.join(cases, on="sample_id", how="semi").partition_by("sample_id", as_dict=True)
    about = cases.select("sample_id", "patient_id", "views", "sex")
    return [
        {
            "sample_id": sample_id, "patient_id": patient_id, "view": views[0], "sex": sex,
            "findings": rows[sample_id,].select(columns).to_dicts() if (sample_id,) in rows else [],
        }
        for sample_id, patient_id, views, sex in about.iter_rows()
    ]  # fmt: skip


def films(study: dict, *, size_px: int, seed: int) -> tuple[dict[str, np.ndarray], dict]:
    """Factor -> film, float32 (size_px, size_px) in [0, 1]; and the truth of the unchanged one."""
    with threadpool_limits(limits=1):  # as scene.film: the same bits for any number of processes
        return _films(study, size_px, seed)


def _films(study: dict, size_px: int, seed: int) -> tuple[dict[str, np.ndarray], dict]:
    image, truth = scene.film(study, size_px, seed)
    body = patient.body(seed, study["patient_id"], study["sex"])
    shot = acquisition.acquisition(seed, study["sample_id"], study["view"])
    lesions = [
        lesion for one in plan.resolve(study, seed) for lesion in plan.lesions(one, study["patient_id"], seed)
    ]
    source, built, made = phantom.load(), {}, {UNCHANGED: image}
    for name, (_, _, change, of_body, share) in FACTORS.items():
        if name == UNCHANGED:
            continue
        own = _bodied(body, of_body)
        if (key := tuple(of_body)) not in built:
            built[key] = scene.build(lesions, own)
        new = change(shot)
        geo = geometry.geometry(own, new, source.hu.shape, source.spacing)
        size = round(size_px * share)
        film = detector.develop(scene.water(built[key], geo, size), new._replace(field_mm=geo.field))
        made[name] = film if size == size_px else images.resize(film, size_px)
    return made, truth


def _bodied(body: Body, gains: dict[str, float]) -> Body:
    if "lung" in gains:
        body = body._replace(lung=tuple(gains["lung"] * each for each in body.lung))
    return body._replace(vessels=gains["vessels"] * body.vessels) if "vessels" in gains else body


def make(cases: list[dict], folder: Path, *, processes: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Write every case's films as <folder>/<factor>/<number>.png; (studies, questions) of all of them.

    Films are as large as the training cohort's and do not depend on the number of processes.

    studies    tables.STUDIES: sample_id is "<sample_id>, <factor>"
    questions  is it there? (transfer_questions): what is, and as much that is not
    """
    size_px = json.loads((paths.FILMS / "training" / "summary.json").read_text(encoding="utf-8"))["size_px"]
    told, rows = {}, []
    with pools.spawned(processes) as pool:
        found = list(tqdm(pool.map(partial(films, size_px=size_px, seed=seed), cases), "films", len(cases)))
    for number, (case, (made, truth)) in enumerate(zip(cases, found, strict=True)):
        told[case["sample_id"]] = truth
        for factor, film in made.items():
            name = f"{factor.replace(' ', '_')}/{number:04}.png"
            with files.whole(folder / name) as temporary:
                Image.fromarray(np.round(film * 255).astype(np.uint8)).save(temporary, format="PNG")
            rows.append({
                **dict.fromkeys(tables.STUDIES), "sample_id": case["sample_id"], "source": factor,
                "patient_id": case["patient_id"], "study_id": factor, "order": 0, "split": "test",
                "views": [case["view"]], "images": [name], "image_origin": "simulated",
            })  # fmt: skip
    shown = tables.conform("studies", pl.DataFrame(rows, schema_overrides=tables.STUDIES))
    once = shown.filter(pl.col("source") == UNCHANGED)
    truth = truth_tables.findings({name: truth_tables.spoken(each, set()) for name, each in told.items()}, {})
    asked = transfer_questions.presence(once, truth, RENDERABLE, seed=seed)
    asked = transfer_questions.evened(asked, seed=seed).with_columns(
        turn=pl.int_range(pl.len(), dtype=pl.Int16).over("sample_id")
    )
    named = pl.concat_str("sample_id", pl.lit(", "), "study_id")
    each = pl.concat([
        asked.join(part.select("sample_id", new=named), on="sample_id", maintain_order="left")
        .with_columns(sample_id="new").drop("new")
        for part in shown.partition_by("study_id", maintain_order=True)
    ])  # fmt: skip
    shown = shown.with_columns(sample_id=named).join(each, on="sample_id", how="semi", maintain_order="left")
    return shown, each


def answer(shown: pl.DataFrame, asked: pl.DataFrame, folder: Path, *, work: Path, **how: int) -> pl.DataFrame:
    """Answers (tables.PREDICTIONS) to `make`'s questions, each asked alone; how: as prediction_run.run."""
    cases = chat.cases(shown, asked, folder)
    return prediction_run.run(paths.MODELS / "trained", cases, context="none", work=work, **how)


def scores(
    shown: pl.DataFrame, asked: pl.DataFrame, answers: pl.DataFrame, *, n_boot: int, seed: int
) -> pl.DataFrame:
    """One row per factor, as in FACTORS: how well presence is told, and how far that is from unchanged films.

    Columns factor, group, change, n (answers), n_patients, balanced_accuracy and auroc (of P(yes), over all
    findings), each with _low and _high, and _difference, _difference_low, _difference_high to the unchanged
    films of the same patients (null in their own row). 95 % patient-cluster bootstrap, paired. An unreadable
    answer is wrong.
    """
    rows = asked.join(shown.select("sample_id", "patient_id", factor="study_id"), on="sample_id")
    rows = rows.join(answers, on=KEYS, how="left", suffix="_said")
    rows = rows.sort("factor", "sample_id", "turn")
    drawn = {
        factor: _drawn(rows.filter(pl.col("factor") == factor), n_boot=n_boot, seed=seed)
        for factor in FACTORS
    }
    table = []
    for factor, (group, change, *_) in FACTORS.items():
        part = rows.filter(pl.col("factor") == factor)
        row: dict[str, Any] = {
            "factor": factor, "group": group, "change": change, "n": part.height,
            "n_patients": part["patient_id"].n_unique(),
        }  # fmt: skip
        for place, name in enumerate(("balanced_accuracy", "auroc")):
            own, plain = drawn[factor][:, place], drawn[UNCHANGED][:, place]
            for key, values in ((name, own), (f"{name}_difference", own - plain)):
                low, high = interval(values[1:])
                known = factor != UNCHANGED or key == name
                found = (float(values[0]), low, high) if known else (None, None, None)
                row |= dict(zip((key, f"{key}_low", f"{key}_high"), found, strict=True))
        table.append(row)
    return pl.DataFrame(table, infer_schema_length=None)


def _drawn(part: pl.DataFrame, *, n_boot: int, seed: int) -> np.ndarray:
    """(1 + B, 2): balanced accuracy and AUROC of one factor's answers."""
    names, owner = np.unique(part["patient_id"].to_numpy(), return_inverse=True)
    there = part["answer"].str.starts_with("Yes").to_numpy()
    said = np.array([metrics.yes_no(text or "") or "" for text in part["answer_said"]])
    right = np.where(there, said == "yes", said == "no").astype(np.float64)
    order = ranking(there, part["prob_yes"].fill_null(0.5).to_numpy(), owner, None)

    def both(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, owner]
        with np.errstate(invalid="ignore"):
            halves = [(drawn[:, which] @ right[which]) / drawn[:, which].sum(1) for which in (there, ~there)]
        return np.stack([np.mean(halves, axis=0), order(weights)[:, 0]], axis=1)

    return resampled(both, len(names), n_boot=n_boot, seed=seed)


def as_json(table: pl.DataFrame) -> dict[str, Any]:
    """The content of reports/metrics/domain_shift.json: factor -> its row."""
    return {row.pop("factor"): row for row in table.to_dicts()}
