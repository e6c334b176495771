"""The simulated radiograph, measured: speed, what a small network reads in the films, and whether boxes hold.

    PYTHONPATH=. python benchmarks/simulate.py speed [--films 120] [--workers 2] [--size 224]
    PYTHONPATH=. python benchmarks/simulate.py findings [--train 2400] [--test 600] [--epochs 10]
        [--steps 1500] [--out CSV]
    PYTHONPATH=. python benchmarks/simulate.py boxes [--films 10] [--out CSV]

`speed` prints films per minute, CPU-seconds per film, the price of a second view, peak memory and, when the
diffdrr package can be imported, its renderer at the same geometry in the same run. `findings` trains the
study's own image encoder (1.1 million weights) on simulated patients and prints its AUROC per finding on
others, with n and a 95 % interval; for focal findings also that of a small detector with local features
(local_detector.py), which the targets of nodule and mass are about. `boxes` projects films with and without
each finding, apart from the code that tells the truth, and prints the share of the change inside its box.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from cxrtrek_lib import draws, inference_stats, packages
from cxrtrek_lib.simulate import (
    acquisition,
    detector,
    film,
    geometry,
    patient,
    phantom,
    projector,
    render,
    scene,
    strokes,
    truth_tables,
)
from cxrtrek_lib.simulate.catalogue import RENDERABLE

# AUROC that a film must allow (issue "The simulated radiograph").
TARGETS = {
    **dict.fromkeys(
        ("pleural effusion", "pneumothorax", "cardiomegaly", "edema", "emphysema", "hemidiaphragm elevation",
         "scoliosis", "pacemaker", "AP against PA"), 0.95),
    **dict.fromkeys(
        ("consolidation", "aortic enlargement", "aortic elongation", "central venous catheter",
         "enteric tube", "chest tube"), 0.85),
    **dict.fromkeys(("nodule", "mass", "atelectasis", "interstitial opacity", "endotracheal tube"), 0.75),
}  # fmt: skip
# Findings that move anatomy: the truth needs the scene once more without each of them.
MOVERS = [
    "scoliosis", "hemidiaphragm elevation", "emphysema", "pneumothorax", "consolidation", "cardiomegaly",
    "edema", "aortic elongation",
]  # fmt: skip
SHARE = 0.1  # of the films show each finding, independently of the others


def study(number: int, names: list[str]) -> dict:
    """A study of a patient of its own with these findings."""
    return {
        "sample_id": f"bench/{number}/1",
        "patient_id": f"bench/{number}",
        "view": ("PA", "AP")[number % 2],
        "findings": [{"finding": name, "status": "present"} for name in names],
    }


def mixed(number: int) -> dict:
    """A study in which every finding is present by its own draw; about one in fifteen shows none."""
    return study(number, [name for name in RENDERABLE if draws.uniform(0, f"bench/{number}", name) < SHARE])


def measure_speed(asked: argparse.Namespace) -> None:
    start = time.perf_counter()
    phantom.build(packages.data_dir("diffdrr"))
    print(f"phantom built from the CT in {time.perf_counter() - start:.1f} s (once per machine)")
    facts = [mixed(i) for i in range(asked.films)]
    film(facts[0], asked.size)
    for size in sorted({128, asked.size, 512, 1024}):
        few = facts[: max(12, asked.films // (2 if size == asked.size else 10))]
        each = []
        for one in few:
            cpu = time.process_time()
            film(one, size)
            each.append(time.process_time() - cpu)
        print(
            f"{size:5d} px: {statistics.median(each):.3f} CPU-s per film (median of {len(few)}; "
            f"mean {statistics.mean(each):.3f}, slowest {max(each):.3f})"
        )
    second_view(facts[: max(12, asked.films // 3)], asked.size)
    for size in (asked.size, 1024):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(peak_of, facts[:20], size).result()
        print(f"{size:5d} px: {peak:.0f} MB at most in one process, a scene with all MOVERS included")
    with threadpool_limits(limits=1):
        against_diffdrr(asked.size)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(one, Path(folder) / f"{i}.png") for i, one in enumerate(facts)]
        start = time.perf_counter()
        render.render_all(jobs, size_px=asked.size, seed=0, workers=asked.workers)
        wall = time.perf_counter() - start
    rate = 60 * len(facts) / wall
    print(f"{asked.size:5d} px, {asked.workers} workers, all in: {rate:.0f} films/min")


def second_view(facts: list[dict], size: int, rounds: int = 3) -> None:
    """CPU-seconds of a lateral film after the frontal one of the same scene.

    The least of a few rounds: the price is a difference of two runs, which a busy machine blurs.
    """
    seconds = np.full((len(facts), 2), np.inf)
    for i, one_study in enumerate(facts):
        for _ in range(rounds):
            for k, views in enumerate((("PA",), ("PA", "LATERAL"))):
                cpu = time.process_time()
                scene.films(one_study, views, size)
                seconds[i, k] = min(seconds[i, k], time.process_time() - cpu)
    more, first = np.diff(seconds)[:, 0], seconds[:, 0].mean()
    print(
        f"{size:5d} px, lateral after frontal: {more.mean():.3f} CPU-s (median {np.median(more):.3f}), "
        f"{100 * more.mean() / first:.0f} % of a mean film of {first:.3f} (n = {len(facts)})"
    )


def peak_of(facts: list[dict], size: int) -> float:
    """Peak memory, MB, of this process over `facts` and a scene with all MOVERS, two views of each."""
    for one in (*facts, study(0, MOVERS)):
        scene.films(one, ("PA", "LATERAL"), size)
    # Not getrusage: what it says of a new process begins with what its parent held when it started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def against_diffdrr(size: int, rounds: int = 3) -> None:
    """Line integrals of one straight PA film: our matrices, and the rays of diffdrr's Siddon renderer.

    Only its module `renderers` is imported, which needs torch alone; rays that both know end on the film.
    """
    import torch
    from diffdrr.renderers import Siddon

    scales = ("width", "depth", "height", "left", "right", "mediastinum", "spine", "upper", "lower", "wall")
    body = patient.body(0, "bench/straight")._replace(
        **dict.fromkeys(scales, 1.0), heart_shift=0.0, lean=0.0, bend=np.zeros((2, 2, 5, 5))
    )
    shot = acquisition.acquisition(0, "bench/straight/1", "PA")._replace(
        rotation=0.0, tilt=0.0, roll=0.0, shift=(0.0, 0.0), inspiration=1.0, cut={}
    )
    anatomy = phantom.load()
    volume, spacing = 1 + anatomy.hu / np.float32(1000), anatomy.spacing
    geo = geometry.geometry(body, shot, volume.shape, spacing)
    axis = (np.arange(size) + 0.5 - size / 2) * geo.field / size
    # Where body coordinates are 0 in the phantom, and how far the source and the detector are from there.
    middle = np.interp(0, geo.across_mm[0], geo.across_knots), np.interp(0, geo.up_mm[0], geo.up_knots)
    near = shot.source_mm / geo.zoom[0]
    source = np.array([geo.depth_mm[0] - near, middle[1], middle[0]])
    down, right = np.meshgrid(axis, axis, indexing="ij")
    target = np.stack([np.full(down.size, source[0] + shot.source_mm), middle[1] - down.ravel(),
                       middle[0] + right.ravel()], axis=1)  # fmt: skip
    length = torch.from_numpy(np.linalg.norm(target - source, axis=1)).float()[None, None]
    voxels = [torch.from_numpy(mm / spacing).float()[None] for mm in (source[None], target)]
    tensor, siddon = torch.from_numpy(volume), Siddon()
    torch.set_num_threads(1)

    def theirs() -> np.ndarray:
        with torch.no_grad():
            parts = zip(voxels[1].split(4096, 1), length.split(4096, 2), strict=True)
            return torch.cat([siddon(tensor, voxels[0], v, n)[0, 0] for v, n in parts]).numpy()

    def ours() -> np.ndarray:
        samples = round(size * projector.MARGIN)
        plane = projector.project(volume, projector.weights(geo, volume.shape, samples))
        return projector.to_film(geo, plane, size).ravel()

    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(rounds):
        for name, run in (("theirs", theirs), ("ours", ours)):
            start = time.process_time()
            image = run()
            seconds[name].append(time.process_time() - start)
            if name == "theirs":
                reference = image
    # Below and above the CT our last slice goes on, a ray through air does not: compare where both have it.
    inside = np.abs(down.ravel()) < 0.3 * geo.field
    error = np.median(np.abs(image - reference)[inside] / reference[inside].clip(20))
    ratio = [one / other for one, other in zip(seconds["theirs"], seconds["ours"], strict=True)]
    print(
        f"{size:5d} px, line integrals: {statistics.median(seconds['ours']):.3f} CPU-s, diffdrr (Siddon) "
        f"{statistics.median(seconds['theirs']):.2f} CPU-s: {statistics.median(ratio):.0f} times "
        f"({min(ratio):.0f}-{max(ratio):.0f}) as fast; median difference {100 * error:.2f} %"
    )


def rendered(numbers: range, folder: Path, size: int, workers: int) -> tuple[pl.DataFrame, ...]:
    """Films of mixed studies and their truth: the tables that pretrain.encoder_for reads."""
    facts = [mixed(i) for i in numbers]
    jobs = [(one, folder / f"{i}.png") for i, one in zip(numbers, facts, strict=True)]
    told = render.render_all(jobs, size_px=size, seed=0, workers=workers)
    told = {one["sample_id"]: truth for one, truth in zip(facts, told, strict=True)}
    scenes = truth_tables.scenes(told, [str(path) for _, path in jobs])
    one = pl.lit(1, dtype=pl.Int16).alias("image_id")
    films = scenes.select("sample_id", one, "exposure", path="film", projection="view")
    return films, truth_tables.findings(told, {}).with_columns(one), truth_tables.boxes(told)


def measure_findings(asked: argparse.Namespace) -> None:
    import torch

    from cxrtrek_lib import pretrain

    torch.set_num_threads(asked.workers)
    asked.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    train = rendered(range(asked.train), asked.folder, asked.size, asked.workers)
    others = range(1_000_000, 1_000_000 + asked.test)
    films, findings, _ = rendered(others, asked.folder, asked.size, asked.workers)
    print(f"{asked.train} + {asked.test} films in {time.perf_counter() - start:.0f} s")
    start, cpu = time.perf_counter(), time.process_time()
    key = f"{render.code_version()}-{asked.train}-{asked.epochs}"
    encoder, curve = pretrain.encoder_for(
        *train, epochs=asked.epochs, precision="fp32", seed=0, work=asked.folder, key=key
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"encoder: {asked.epochs} epochs in {wall:.0f} s ({cpu:.0f} CPU-s), loss {curve[-1]['loss']:.3f}")

    pixels = pretrain.load_films(films["path"].to_list(), encoder.config.image_size)
    with torch.no_grad():
        read = [encoder.read(pretrain.as_pixels(part))[0] for part in pixels.split(64)]
    presence = torch.cat([each.presence for each in read]).double().numpy()
    samples = films["sample_id"].to_numpy()
    rows = []
    status = {
        (sample, finding): state
        for sample, finding, state in findings.select("sample_id", "finding", "status").iter_rows()
    }
    told = {
        name: np.array([status.get((sample, name), "uncertain") for sample in samples]) for name in RENDERABLE
    }
    for name in RENDERABLE:
        columns = [k for k, channel in enumerate(encoder.config.findings) if channel.split("|")[0] == name]
        rows.append(_area(name, "encoder", told[name], presence[:, columns].max(1), samples))
    for name, score in local_scores(train, pixels, encoder.config, asked).items():
        rows.append(_area(name, "local detector", told[name], score, samples))
    projection = torch.cat([each.projection for each in read]).double().numpy()
    portable = np.where(films["projection"] == "AP", "present", "absent")
    rows.append(_area("AP against PA", "encoder", portable, projection[:, 1] - projection[:, 0], samples))
    _show(pl.DataFrame(rows), asked.out)


def local_scores(train: tuple, pixels, config, asked: argparse.Namespace) -> dict[str, np.ndarray]:
    """Finding of local_detector.FOCAL -> its score on every film of `pixels`, by a detector of its own."""
    import local_detector

    from cxrtrek_lib import pretrain

    start, cpu = time.perf_counter(), time.process_time()
    films = pretrain.load_films(train[0]["path"].to_list(), config.image_size)
    status, boxes = local_detector.known_of(pretrain.truth(*train, config), config.findings)
    net = local_detector.fit(films, status, boxes, steps=asked.steps, seed=0)
    found = local_detector.scores(net, pixels)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"local detector: {asked.steps} steps in {wall:.0f} s ({cpu:.0f} CPU-s)")
    return dict(zip(local_detector.FOCAL, found.T.astype(float), strict=True))


def _area(name: str, reader: str, told: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> dict:
    """A row of the table; told (F,): a finding that the film hides is asserted neither way and left out."""
    kept = told != "uncertain"
    labels = told[kept] == "present"
    value, low, high = inference_stats.auroc(labels, scores[kept], patients[kept], n_boot=1000, seed=0)
    target = TARGETS.get(name)
    return {
        "finding": name, "reader": reader, "AUROC": round(value, 3), "low": round(low, 3),
        "high": round(high, 3), "films": len(labels), "with it": int(labels.sum()), "target": target,
        "met": None if target is None else value >= target,
    }  # fmt: skip


def measure_boxes(asked: argparse.Namespace) -> None:
    rows = []
    for name in RENDERABLE:
        shares, loose, n = [], 0, 0
        for i in range(asked.films):
            one = study(i, [name])
            truth = film(one, 128)[1]
            boxes = [
                box
                for row in truth["findings"]
                if row["finding"] == name and row["status"] == "present"
                for box in row["boxes"].values()
            ]
            if not boxes:
                continue  # too faint to be asserted
            n += 1
            change = np.abs(_water(one, asked.size) - _water(study(i, []), asked.size))
            shares.append(_share_inside(change, boxes))
            loose += any(_loose_sides(change, box) for box in boxes)
        rows.append({
            "finding": name, "films": asked.films, "asserted": n,
            "share inside, median": round(statistics.median(shares), 3) if shares else None,
            "lowest": round(min(shares), 3) if shares else None,
            "films with 90 %": sum(share >= 0.9 for share in shares), "films with a loose side": loose,
        })  # fmt: skip
    _show(pl.DataFrame(rows), asked.out)


def _water(one: dict, size: int) -> np.ndarray:
    """The film as mm of water, before noise and tone."""
    with mock.patch.object(detector, "develop", lambda water_mm, shot: water_mm):
        return film(one, size)[0]


def _pixels(box: list[float], n: int) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (value * n / 100 for value in box)
    return slice(int(y1), int(np.ceil(y2))), slice(int(x1), int(np.ceil(x2)))


def _share_inside(change: np.ndarray, boxes: list[list[float]]) -> float:
    inside = np.zeros(change.shape, dtype=bool)
    for box in boxes:
        inside[_pixels(box, len(change))] = True
    return float(change[inside].sum() / change.sum())


def _loose_sides(change: np.ndarray, box: list[float]) -> int:
    """Sides of a box that could move in by 5 % of the image without losing anything above 5 % of the peak."""
    strip = len(change) // 20
    part = np.minimum(change, strokes.CLEAR_MM)[_pixels(box, len(change))]  # a generator hides no lead
    strong = part > 0.05 * part.max()
    edges = (strong[:strip], strong[-strip:], strong[:, :strip], strong[:, -strip:])
    return sum(not edge.any() for edge in edges)


def _show(table: pl.DataFrame, out: Path | None) -> None:
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=140, tbl_hide_column_data_types=True):
        print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.write_csv(out)
        print(f"written to {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run, films in (
        ("speed", measure_speed, 120), ("findings", measure_findings, None), ("boxes", measure_boxes, 10),
    ):  # fmt: skip
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--size", type=int, default=224, help="pixels")
        command.add_argument("--workers", type=int, default=os.cpu_count())
        command.add_argument("--out", type=Path, help="write the table to this CSV file")
        if films is not None:
            command.add_argument("--films", type=int, default=films)
        else:
            command.add_argument("--train", type=int, default=2400, help="patients")
            command.add_argument("--test", type=int, default=600, help="other patients")
            command.add_argument("--epochs", type=int, default=10)
            command.add_argument("--steps", type=int, default=1500, help="of the local detector")
            command.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cxrtrek-films")
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
