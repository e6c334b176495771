"""Pretrain the image encoder on scene truth: heat maps, presence, severity, boxes, projection, exposure."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from cxrtrek_lib import images, muon, resume, tables
from cxrtrek_lib.encoder import PROJECTIONS, CxrEncoder, CxrEncoderConfig, FilmReading
from cxrtrek_lib.tables import CORNERS, EXPOSURES, SEVERITIES

HEAT = 28
# Of convolutions; AdamW has the rest. Same films, 4 passes: mean AUROC 0.84 with Muon, 0.75 without. Of films
# kept apart, 3 passes: 0.891 at this rate, 0.882 at twice, 0.832 at six times.
MUON_RATE = 0.01


@dataclass
class Truth:
    """What is known of F films: NaN or -1 where nothing is known, so that unknown is never taught as absent.

    presence, severity float/int (F, K); side int (F, P), index into SIDES; finding_boxes (F, K, 4) and
    region_boxes (F, R, 4) as fractions of the film; projection, exposure int (F,)
    """

    presence: Tensor
    severity: Tensor
    side: Tensor
    finding_boxes: Tensor
    region_boxes: Tensor
    projection: Tensor
    exposure: Tensor

    def rows(self, index: Tensor) -> "Truth":
        return Truth(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def films(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Every film of a cohort once, and its truth: (films, findings, boxes), joined by sample_id and image_id.

    films: sample_id, image_id, split, path (absolute), projection, exposure; a prior film has the split of
    its case, since both are of one patient. findings and boxes: schema columns and image_id.
    """
    scenes = pl.read_parquet(folder / "scenes.parquet")
    cases = tables.read_table("studies", folder / "studies.parquet")
    split = pl.concat([
        cases.select("sample_id", "split"),
        cases.select("split", sample_id="prior_study_id").drop_nulls().select("sample_id", "split"),
    ]).unique()  # fmt: skip
    one = pl.lit(1, dtype=pl.Int16).alias("image_id")
    each = scenes.join(split, on="sample_id").sort("sample_id").select(
        "sample_id", one, "split", pl.concat_str(pl.lit(f"{folder}/"), "film").alias("path"),
        pl.col("view").alias("projection"), "exposure",
    )  # fmt: skip
    findings = tables.read_table("findings", folder / "findings.parquet").with_columns(one)
    boxes = tables.read_table("boxes", folder / "boxes.parquet").filter(pl.col("image_id") == 1)
    return each, findings, boxes


def channels(findings: pl.DataFrame, boxes: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Names of the finding channels (boxed ones, one per side where they have sides) and the regions."""
    boxed = boxes["target"].unique().to_list()
    known = findings.filter(pl.col("status") == "present", pl.col("finding").is_in(boxed))
    names = []
    for finding in sorted(known["finding"].unique()):
        sides = known.filter(pl.col("finding") == finding)["laterality"].drop_nulls()
        names += [f"{finding}|left", f"{finding}|right"] if len(sides) else [finding]
    regions = boxes.filter(~pl.col("target").is_in(known["finding"].unique().to_list()))
    return names, sorted(regions["target"].unique())


def truth(
    films: pl.DataFrame, findings: pl.DataFrame, boxes: pl.DataFrame, config: CxrEncoderConfig
) -> Truth:
    """Truth of the films, row by row.

    films     sample_id, image_id, projection (PA | AP), exposure: one row per film
    findings  sample_id, image_id, finding, status, laterality, severity
    boxes     sample_id, image_id, target, laterality, x1, y1, x2, y2 (percent)
    """
    n, n_findings, n_regions = len(films), len(config.findings), len(config.regions)
    row = {key: i for i, key in enumerate(films.select("sample_id", "image_id").iter_rows())}
    presence = np.full((n, n_findings), np.nan, np.float32)
    severity = np.full((n, n_findings), -1, np.int64)
    finding_boxes = np.full((n, n_findings, 4), np.nan, np.float32)
    region_boxes = np.full((n, n_regions, 4), np.nan, np.float32)
    channel_of = {name: k for k, name in enumerate(config.findings)}
    region_of = {name: k for k, name in enumerate(config.regions)}

    def channels_of(finding: str, laterality: str | None) -> list[tuple[int, bool]]:
        """(channel, is this side named) for every channel of the finding."""
        if finding in channel_of:
            return [(channel_of[finding], True)]
        return [
            (channel_of[f"{finding}|{side}"], laterality in (side, "bilateral", None))
            for side in ("left", "right")
            if f"{finding}|{side}" in channel_of
        ]

    columns = ("sample_id", "image_id", "finding", "status", "laterality", "severity")
    for sample_id, image_id, finding, status, laterality, grade in findings.select(columns).iter_rows():
        i = row.get((sample_id, image_id))
        if i is None or status == "uncertain":
            continue
        for k, named in channels_of(finding, laterality):
            here = status == "present" and named
            # Two rows may name the two sides of one finding: a side once seen present stays present.
            presence[i, k] = np.fmax(presence[i, k], float(here))
            if here and grade is not None:
                severity[i, k] = SEVERITIES.index(grade)
    columns = ("sample_id", "image_id", "target", "laterality", *CORNERS)
    for sample_id, image_id, target, laterality, *corners in boxes.select(columns).iter_rows():
        i = row.get((sample_id, image_id))
        if i is None:
            continue
        if target in region_of:
            region_boxes[i, region_of[target]] = corners
        for k, named in channels_of(target, laterality):
            if named:
                finding_boxes[i, k] = corners
    left, right = (torch.from_numpy(presence[:, channels]) for channels in config.pairs)
    return Truth(
        presence=torch.from_numpy(presence),
        severity=torch.from_numpy(severity),
        # Left, right or both of them; -1 where it is on none, and where (NaN) one of them is not known.
        side=(left + 2 * right - 1).nan_to_num(-1).long(),
        finding_boxes=torch.from_numpy(finding_boxes / 100),
        region_boxes=torch.from_numpy(region_boxes / 100),
        projection=torch.tensor([PROJECTIONS.index(v) for v in films["projection"]]),
        exposure=torch.tensor([EXPOSURES.index(v) for v in films["exposure"]]),
    )


def load_films(paths: Sequence[Path | str], size: int) -> Tensor:
    """Films as uint8 [F, 1, size, size]: eight bits hold all a display shows, at a quarter of the memory."""
    stack = np.empty((len(paths), 1, size, size), np.uint8)
    for i, path in enumerate(paths):
        stack[i, 0] = np.round(images.resize(images.read(path), size) * 255)
    return torch.from_numpy(stack)


def as_pixels(films: Tensor) -> Tensor:
    """uint8 [B, 1, S, S] -> float [B, 3, S, S] in [-1, 1], as the checkpoint's image processor makes them."""
    return (films.float() / 127.5 - 1).expand(-1, 3, -1, -1)


def heat_targets(boxes: Tensor) -> Tensor:
    """Soft ellipses that fill each box: [B, K, 4] fractions -> [B, K, 28, 28] in [0, 1]; no box, all 0."""
    axis = (torch.arange(HEAT, dtype=boxes.dtype) + 0.5) / HEAT
    x1, y1, x2, y2 = boxes.unbind(-1)
    # A box narrower than a cell still has to light one cell.
    half_width = ((x2 - x1) / 2).clamp_min(0.6 / HEAT).unsqueeze(-1)
    half_height = ((y2 - y1) / 2).clamp_min(0.6 / HEAT).unsqueeze(-1)
    dx = (axis - ((x1 + x2) / 2).unsqueeze(-1)) / half_width
    dy = (axis - ((y1 + y2) / 2).unsqueeze(-1)) / half_height
    return torch.exp(-1.5 * (dx.square().unsqueeze(-2) + dy.square().unsqueeze(-1))).nan_to_num(0.0)


def rarity(known: Truth) -> Tensor:
    """Weight of a present finding against an absent one, float [K]: the root of absent / present, 1 to 5.5.

    Half way to balance: a finding on one film in thirty must move the features too.
    """
    absent, present = (known.presence == 0).sum(0), (known.presence == 1).sum(0)
    return (absent / present.clamp_min(1)).clamp(1, 30).sqrt()


def loss(reading: FilmReading, known: Truth, weight: Tensor) -> dict[str, Tensor]:
    """The parts of the pretraining loss, each a mean over what is known; `weight` as `rarity` gives it.

    Heat maps take a focal loss normalised per finding, else small lesions drown (Lin et al. 2017).
    """
    seen = known.presence.isfinite()
    present = known.presence == 1
    target = (
        heat_targets(known.finding_boxes)
        * (present & known.finding_boxes.isfinite().all(-1))[..., None, None]
    )
    probability = reading.heat.sigmoid()
    hit = target * (1 - probability).square() * F.softplus(-reading.heat)
    miss = (1 - target).pow(4) * probability.square() * F.softplus(reading.heat) * seen[..., None, None]
    mass = target.sum((0, 2, 3)).clamp_min(1.0)
    heat = ((hit + miss).sum((0, 2, 3)) / mass).mean()

    presence = F.binary_cross_entropy_with_logits(
        reading.presence[seen], known.presence[seen], pos_weight=weight.expand_as(seen)[seen]
    )
    graded = known.severity >= 0
    sided = known.side >= 0
    boxed = present & known.finding_boxes.isfinite().all(-1)
    zero = reading.presence.sum() * 0.0
    parts = {
        "heat": heat,
        "presence": presence,
        "severity": F.cross_entropy(reading.severity[graded], known.severity[graded])
        if graded.any()
        else zero,
        "side": F.cross_entropy(reading.side[sided], known.side[sided]) if sided.any() else zero,
        "finding_boxes": (
            F.smooth_l1_loss(reading.finding_boxes[boxed], known.finding_boxes[boxed], beta=0.05)
            if boxed.any()
            else zero
        ),
        "projection": F.cross_entropy(reading.projection, known.projection),
        "exposure": F.cross_entropy(reading.exposure, known.exposure),
    }
    regions = known.region_boxes.isfinite().all(-1)
    parts["region_boxes"] = (
        F.smooth_l1_loss(reading.region_boxes[regions], known.region_boxes[regions], beta=0.05)
        if regions.any()
        else zero
    )
    return parts


WEIGHTS = {
    "heat": 1.0,
    "presence": 1.3,
    "severity": 0.5,
    "side": 0.1,
    "finding_boxes": 8.0,
    "region_boxes": 8.0,
    "projection": 0.3,
    "exposure": 0.3,
}


def shift(films: Tensor, known: Truth, dx: int, dy: int) -> tuple[Tensor, Truth]:
    """Move a batch of films by whole pixels (`moved`), boxes with it."""
    offset = torch.tensor([dx, dy, dx, dy]) / films.shape[-1]
    rows = known.rows(torch.arange(len(films)))
    rows.finding_boxes = (rows.finding_boxes + offset).clamp(0, 1)
    rows.region_boxes = (rows.region_boxes + offset).clamp(0, 1)
    return moved(films, dx, dy), rows


def moved(films: Tensor, dx: int, dy: int) -> Tensor:
    """float [B, 1, S, S]: films moved by whole pixels; what comes in at the edge repeats the border."""
    size = films.shape[-1]
    padded = F.pad(films.float(), (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)), mode="replicate")
    return padded[..., max(-dy, 0) : max(-dy, 0) + size, max(-dx, 0) : max(-dx, 0) + size]


def fit(
    encoder: CxrEncoder,
    films: Tensor,
    known: Truth,
    *,
    epochs: int,
    batch: int = 8,
    learning_rate: float = 2e-3,
    precision: str = "fp32",
    seed: int,
    checkpoint: Path | None = None,
    key: str = "",
) -> list[dict]:
    """Train the encoder in place on films uint8 [F, 1, S, S]; returns one row of mean losses per epoch.

    precision        fp32 or bf16, of convolutions and matrix products; the loss is fp32
    checkpoint, key  file that keeps the state after each epoch; a state of the same key there is taken up
    Deterministic for a seed and a thread count, with or without an interruption. Raises FloatingPointError
    when the loss is not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder.train().to(memory_format=torch.channels_last)
    kernels = [p for p in muon.matrices(encoder) if p.ndim == 4]
    of_muon = {id(p) for p in kernels}
    rest = [p for p in encoder.parameters() if id(p) not in of_muon]
    decay = {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.02}
    plain = {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}
    optimisers = (torch.optim.AdamW([decay, plain], lr=learning_rate), muon.Muon(kernels, lr=MUON_RATE))
    steps_per_epoch = -(-len(films) // batch)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=optimiser.param_groups[0]["lr"],
            total_steps=epochs * steps_per_epoch,
            pct_start=0.15,
            cycle_momentum=False,
        )
        for optimiser in optimisers
    ]
    weights = rarity(known)
    curve: list[dict] = []
    saved = resume.read(checkpoint, key) if checkpoint is not None else None
    if saved is not None:
        encoder.load_state_dict(saved["weights"])
        for name, parts in (("optimisers", optimisers), ("schedules", schedules)):
            for part, state in zip(parts, saved[name], strict=True):
                part.load_state_dict(state)
        generator.set_state(saved["generator"])
        curve = saved["curve"]
    total_steps, done = epochs * steps_per_epoch, len(curve) * steps_per_epoch
    bar = tqdm(total=total_steps, initial=done, desc="pretraining the encoder", unit="step")
    for epoch in range(len(curve), epochs):
        sums: dict[str, float] = {}
        for index in torch.randperm(len(films), generator=generator).split(batch):
            dx, dy = torch.randint(-12, 13, (2,), generator=generator).tolist()
            moved, rows = shift(films[index], known.rows(index), dx, dy)
            pixels = as_pixels(moved).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                reading, *_ = encoder.read(pixels)
            parts = loss(reading.float(), rows, weights)
            total = sum(WEIGHTS[name] * value for name, value in parts.items())
            if not total.isfinite():
                raise FloatingPointError(
                    f"encoder loss is {total.item()} in epoch {epoch}; lower learning_rate ({learning_rate})"
                )
            encoder.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            for part in (*optimisers, *schedules):
                part.step()
            for name, value in {**parts, "loss": total}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(index) / len(films)
            bar.update()
        curve.append({"epoch": epoch + 1, **sums})
        bar.set_postfix(loss=f"{sums['loss']:.3f}")
        if checkpoint is not None:
            state = {"weights": encoder.state_dict(), "curve": curve, "generator": generator.get_state()}
            state |= {"optimisers": [part.state_dict() for part in optimisers]}
            state |= {"schedules": [part.state_dict() for part in schedules]}
            resume.write(state, checkpoint, key)
    bar.close()
    encoder.eval()
    return curve


def fingerprint(how: dict, folder: Path, films: pl.DataFrame) -> str:
    """What an encoder depends on: how it is trained, the cohort's tables, its films (`path`), code."""
    code = [inspect.getfile(CxrEncoder), *(module.__file__ for module in (images, muon, resume, tables))]
    return resume.fingerprint(how, [*sorted(folder.glob("*.parquet")), *films["path"], __file__, *code])


def encoder_for(
    films: pl.DataFrame,
    findings: pl.DataFrame,
    boxes: pl.DataFrame,
    *,
    epochs: int,
    precision: str,
    seed: int,
    work: Path,
    key: str,
) -> tuple[CxrEncoder, list[dict]]:
    """A frozen encoder for these films and its learning curve; tables as in `truth`, films with `path` too.

    precision  fp32 or bf16, see `fit`
    work, key  what an interrupted run with the same key (`resume.fingerprint`) left in `work` is taken up:
               the state after its last whole epoch, or the finished encoder
    """
    torch.manual_seed(seed)
    names, regions = channels(findings, boxes)
    encoder = CxrEncoder(CxrEncoderConfig(findings=names, regions=regions))
    finished = resume.read(work / "encoder.pt", key)
    if finished is not None:
        encoder.load_state_dict(finished["weights"])
        return encoder.eval(), finished["curve"]
    pixels = load_films(films["path"].to_list(), encoder.config.image_size)
    known = truth(films, findings, boxes, encoder.config)
    epoch = work / "encoder_epoch.pt"
    curve = fit(
        encoder, pixels, known, epochs=epochs, precision=precision, seed=seed, checkpoint=epoch, key=key
    )
    encoder.fit_standardisation(as_pixels(part) for part in pixels.split(64))
    resume.write({"weights": encoder.state_dict(), "curve": curve}, work / "encoder.pt", key)
    epoch.unlink()
    return encoder, curve
