"""Real NIH films: an encoder frozen or tuned on them, pretrained on simulated films or not, in patient folds.

Two questions, to which the table of NIH ChestX-ray14 has an answer for each film taken: is it labelled
pneumonia, or no finding; and is it an AP or a PA film. Nothing is chosen on a film that is scored: of each
fold's training films a part, of other patients, decides about strength of the penalty, epochs and rate.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm.auto import tqdm

from cxrtrek_lib import draws, image_folder, leakage, model, paths, pretrain, tables
from cxrtrek_lib.encoder import PROJECTIONS, CxrEncoder
from cxrtrek_lib.real_tuning import Parts, features, tune_all
from cxrtrek_lib.sources import nih

TASKS = ("pneumonia", "AP view")
SIMULATED, SCRATCH = "simulated films", "scratch"  # on what the encoder was pretrained; scratch: on nothing
UNTOUCHED, FROZEN, TUNED = "as it is", "frozen", "tuned"  # the encoder, on the real training films
NO_ENCODER, GREY_LEVELS = "no encoder", "grey levels alone"  # a baseline: what exposure and framing give away
LEVELS = 32  # bins of a film's histogram of grey levels
FOLDS = 5  # outer folds; of the inner ones the first validates
MOST = 600  # films, half of them with pneumonia: more would take longer than the step should
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the linear probe
SHOWN_AS = "consolidation"  # what simulated films show for pneumonia (signs.SEEN_AS)
NOT_RUN = "not run: needs images.roots.nih in params.yaml, a folder of real films of NIH ChestX-ray14"
FOREIGN = "not run: the checkpoint has no image encoder that was pretrained on simulated films"
NEITHER = "labelled neither pneumonia nor no finding"
NOT_NEEDED = f"more than {MOST // 2} films with the same label"


class Films(NamedTuple):
    """Real films with known answers.

    table     image, patient_id, view, fold (0 to FOLDS - 1; a patient is in one), and a boolean column for
              each of TASKS
    pixels    uint8 [N, 1, S, S], row by row
    left_out  reason -> number of films; unreadable  why, one line for each such film
    """

    table: pl.DataFrame
    pixels: Tensor
    left_out: dict[str, int]
    unreadable: list[str]


class TooFewError(ValueError):
    """A folder holds too few patients for the folds."""


def load(root: str | None, checkpoint: Path, *, seed: int) -> tuple[str, CxrEncoder | None, Films | None]:
    """("run", encoder, films), or what is said instead of any number, and None twice.

    root  images.roots.nih; checkpoint  whose image encoder was pretrained on simulated films
    Raises as `films` does for a folder that is of no use at all.
    """
    if root is None:
        return NOT_RUN, None, None
    tower = model.vision_tower(model.load(checkpoint, dtype=torch.float32)[0])
    if not isinstance(tower, CxrEncoder):
        return FOREIGN, None, None
    try:
        return "run", tower, films(root, size=tower.config.image_size, seed=seed)
    except TooFewError as error:
        return f"not run: {error}", None, None


def films(root: str, *, size: int, seed: int) -> Films:
    """The films of ChestX-ray14 in a folder that are labelled pneumonia, or no finding; at most MOST.

    root  images.roots.nih. Raises FileNotFoundError or ValueError, one line: no folder, no film with a name
    of the table, or patients that the model was trained on; TooFewError when the folds cannot be filled.
    """
    listed = nih.films()
    found = image_folder.find(root, listed["image"].to_list(), "nih")
    listed = listed.filter(pl.col("image").is_in(list(found.files)))
    training = tables.read_table("studies", paths.FILMS / "training" / "studies.parquet")
    mine = listed.select("patient_id", source=pl.lit("nih"), images=pl.concat_list("image"))
    leakage.refuse_shared(mine, training)
    pneumonia, none = pl.col("labels").list.contains("Pneumonia"), pl.col("labels") == ["No Finding"]
    clear = listed.filter(pneumonia | none).with_columns(
        pneumonia.alias(TASKS[0]), (pl.col("view") == "AP").alias(TASKS[1])
    )
    drawn = pl.Series("drawn", draws.mix(draws.keys(seed, clear["image"].to_list()), "real films"))
    table = clear.with_columns(drawn).sort("drawn").filter(pl.int_range(pl.len()).over(TASKS[0]) < MOST // 2)
    rows, pixels, unreadable = [], [], []
    for image in tqdm(table.sort("image")["image"], desc="real films", unit="film"):
        try:
            pixels.append(pretrain.load_films([found.files[image]], size))
            rows.append(image)
        except ValueError as error:
            unreadable.append(str(error).replace(f"{paths.ROOT / root}/", ""))
    table = table.filter(pl.col("image").is_in(rows)).sort("image").drop("labels", "drawn")
    strata = _strata(table)
    least = min((table.filter(strata == value)["patient_id"].n_unique() for value in range(4)), default=0)
    if least < 2 * FOLDS:
        raise TooFewError(
            f"images.roots.nih: {root}: {least} patients with one of pneumonia or none on an AP or PA film; "
            f"{FOLDS} folds need at least {2 * FOLDS} of each of the four"
        )
    fold = np.zeros(table.height, dtype=np.int8)
    for number, (_, test) in enumerate(_split(strata, table["patient_id"], seed)):
        fold[test] = number
    left_out = {
        NEITHER: listed.height - clear.height,
        NOT_NEEDED: clear.height - len(rows) - len(unreadable),
        "several different films of one name": len(found.several),
        "film that cannot be read": len(unreadable),
        "name that is not in the table": found.n_strangers,
    }
    return Films(table.with_columns(fold=fold), torch.cat(pixels), left_out, unreadable)


def _strata(table: pl.DataFrame) -> pl.Series:
    """0 to 3: which of TASKS a film answers with yes."""
    return 2 * table[TASKS[0]].cast(pl.Int8) + table[TASKS[1]].cast(pl.Int8)


def _split(strata, patients, seed: int):
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return folds.split(np.zeros(len(strata)), np.asarray(strata), np.asarray(patients))


def parts(table: pl.DataFrame, fold: int, seed: int) -> Parts:
    """One outer fold; of the other films the first inner fold of patients validates."""
    outside = np.flatnonzero((table["fold"] != fold).to_numpy())
    rest = table[outside]
    train, validate = next(iter(_split(_strata(rest), rest["patient_id"], seed + 1 + fold)))
    return Parts(outside[train], outside[validate], np.flatnonzero((table["fold"] == fold).to_numpy()))


def answers(
    encoder: CxrEncoder, real: Films, *, seed: int, workers: int | None = None
) -> tuple[pl.DataFrame, list[dict]]:
    """What every arm says of every film, when it was not trained on its patient; and what each arm chose.

    Returns answers (image, patient_id, fold, task, label, start, adapted, score: higher = more likely) and
    choices (start, adapted, fold, task, and penalty or rate and epoch). Starts are SIMULATED and SCRATCH;
    `adapted` is FROZEN (a linear probe on mean and maximum of its features), TUNED (encoder and linear layer)
    and, of the pretrained one, UNTOUCHED (its own answer, no real film seen). With NO_ENCODER there are
    GREY_LEVELS, the same probe on the film's histogram.
    workers  processes of one thread each, None = one per core; the answers do not depend on their number
    """
    labels = real.table.select(TASKS).to_numpy()
    rows, chosen = [], []
    encoders = {SIMULATED: encoder.eval(), SCRATCH: _untrained(encoder, seed)}
    for task, score in _own_answers(encoder, real.pixels).items():
        rows.append(_rows(real, task, SIMULATED, UNTOUCHED, np.arange(len(labels)), score))
    split = [parts(real.table, fold, seed) for fold in range(FOLDS)]
    probed = {(start, FROZEN): features(each, real.pixels) for start, each in encoders.items()}
    for (start, adapted), seen in {**probed, (NO_ENCODER, GREY_LEVELS): histograms(real.pixels)}.items():
        for fold, part in enumerate(split):
            for column, task in enumerate(TASKS):
                score, penalty = probe(seen, labels[:, column], part, seed)
                rows.append(_rows(real, task, start, adapted, part.test, score))
                chosen.append(
                    {"start": start, "adapted": adapted, "fold": fold, "task": task, "penalty": penalty}
                )
    tuned = tune_all(encoders, real.pixels, labels, split, seed=seed, workers=workers)
    for (start, fold, column), best in tuned.items():
        rows.append(_rows(real, TASKS[column], start, TUNED, split[fold].test, best.logits))
        chosen.append(
            {"start": start, "adapted": TUNED, "fold": fold, "task": TASKS[column]}
            | {"rate": best.rate, "epoch": best.epoch}
        )
    return pl.concat(rows), chosen


def _untrained(encoder: CxrEncoder, seed: int) -> CxrEncoder:
    torch.manual_seed(seed)
    return CxrEncoder(encoder.config).eval()


def _rows(
    real: Films, task: str, start: str, adapted: str, index: np.ndarray, score: np.ndarray
) -> pl.DataFrame:
    known = real.table[index].select("image", "patient_id", "fold", label=task)
    return known.with_columns(
        task=pl.lit(task),
        start=pl.lit(start),
        adapted=pl.lit(adapted),
        score=pl.Series(np.asarray(score, dtype=np.float64)),
    )


@torch.inference_mode()
def _own_answers(encoder: CxrEncoder, pixels: Tensor) -> dict[str, np.ndarray]:
    """Task -> what the encoder says by itself (logits), as far as it was taught to."""
    shown = [i for i, name in enumerate(encoder.config.findings) if name.split("|")[0] == SHOWN_AS]
    readings = [encoder.read(pretrain.as_pixels(part))[0] for part in pixels.split(32)]
    view = torch.cat([each.projection for each in readings])
    own = {TASKS[1]: (view[:, PROJECTIONS.index("AP")] - view[:, PROJECTIONS.index("PA")]).numpy()}
    if shown:
        own[TASKS[0]] = torch.cat([each.presence for each in readings])[:, shown].amax(1).numpy()
    return own


def histograms(pixels: Tensor) -> np.ndarray:
    """float32 [N, LEVELS]: share of each film's pixels in equal bins of grey level."""
    levels = (pixels.flatten(1).long() * LEVELS) // 256
    return torch.stack([torch.bincount(film, minlength=LEVELS) / film.numel() for film in levels]).numpy()


def probe(seen: np.ndarray, label: np.ndarray, part: Parts, seed: int) -> tuple[np.ndarray, float]:
    """(scores of the test films, penalty) of a logistic regression, of the penalties the best validated."""
    fitted = {}
    for penalty in PENALTIES:
        one = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000, random_state=seed))
        one.fit(seen[part.train], label[part.train])
        given = one.predict_proba(seen[part.validate])[:, 1]
        fitted[penalty] = log_loss(label[part.validate], given, labels=[False, True]), one
    best = min(PENALTIES, key=lambda penalty: fitted[penalty][0])
    return fitted[best][1].decision_function(seen[part.test]), best
