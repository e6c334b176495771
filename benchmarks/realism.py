"""Realism of the simulated radiograph: grey levels and power spectrum against a folder of real films.

    PYTHONPATH=. python benchmarks/realism.py --real ../shared/nih_sample [--films 120] [--ap-share 0.5]

Writes a table and a figure of statistics to reports/simulation/ and, to a temporary folder outside the
repository, a sheet of real and simulated films side by side: it shows real films and must not be committed.
The detector's constants (simulate/detector.py) were set by hand on the 381 NIH films of ../shared/nih_sample:
a comparison with those says how near they could be brought, one with other films how far that carries.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from cxrtrek_lib import draws, figures, images, paths
from cxrtrek_lib.film_statistics import BINS, OCTAVES, SIDE, Looks, compare, looks
from cxrtrek_lib.simulate import RENDERABLE, film

COLOURS = {"real": figures.BLUE, "simulated": figures.ORANGE}
SHEET_PAIRS = 20


def study(number: int, ap_share: float) -> dict:
    """A study by hash: two of five without a finding, the others with one to three that films can show."""

    def draw(question: str) -> float:
        return draws.uniform(0, "realism", f"{number}/{question}")

    names = sorted(RENDERABLE, key=draw)[: 1 + int(3 * draw("how many"))] if draw("healthy") > 0.4 else []
    return {
        "sample_id": f"realism/{number}/1",
        "patient_id": f"realism/{number}",
        "view": "AP" if (number * 0.618) % 1 < ap_share else "PA",  # spread evenly
        "findings": [{"finding": name, "status": "present"} for name in names],
    }


def read(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """The films of a folder at SIDE pixels; a file's patient is its name up to the first underscore."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in images.SUFFIXES)
    films, patients, failed = [], [], []
    for path in tqdm(found, desc="real films", unit="film"):
        try:
            films.append(images.resize(images.read(path), SIDE))
            patients.append(path.stem.split("_")[0])
        except ValueError as error:
            failed.append(str(error))
    if failed:
        print(f"left out {len(failed)} of {len(found)} files; the first: {failed[0]}")
    if not films:
        raise SystemExit(f"{folder}: no readable film; give a folder of {', '.join(images.SUFFIXES)} files")
    return films, patients


@figures.styled
def drawing(real: Looks, simulated: Looks, table: pl.DataFrame) -> figures.Drawing:
    """(a) grey levels, (b) power spectra, (c) simulated against real per octave beside real against real."""
    figure, (grey, spectrum, octaves) = plt.subplots(1, 3, figsize=(figures.PAGE, 2.2))
    levels, cycles = (np.arange(BINS) + 0.5) / BINS, np.arange(2, SIDE // 2 + 1)
    rows = []

    def note(panel: str, name: str, x: np.ndarray, value: np.ndarray, low=None, high=None) -> None:
        bounds = (low, high) if low is not None else (np.full(len(x), np.nan),) * 2
        for values in zip(x, value, *bounds, strict=True):
            rows.append((panel, name, *map(float, values)))

    for name, films in (("real", real), ("simulated", simulated)):
        density = BINS * films.histograms.mean(axis=0)
        grey.stairs(density, np.linspace(0, 1, BINS + 1), color=COLOURS[name], label=name, lw=1)
        note("a", name, levels, density)
        power = 10 * np.log10(np.maximum(films.spectra[:, 2:], 1e-12))
        low, middle, high = np.percentile(power, (10, 50, 90), axis=0)
        spectrum.fill_between(cycles, low, high, color=COLOURS[name], alpha=0.2, lw=0)
        spectrum.plot(cycles, middle, color=COLOURS[name], lw=1)
        note("b", name, cycles, middle, low, high)
    grey.set(xlabel="grey level, 1 = white", ylabel="density of pixels", xlim=(0, 1), ylim=(0, None))
    grey.legend(loc="upper left")
    figures.letter(grey, "a", "Grey levels")
    spectrum.set(xscale="log", xlabel="cycles per film width", ylabel="power (dB)")
    spectrum.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    spectrum.minorticks_off()
    figures.letter(spectrum, "b", "Power spectrum")

    bands = table.filter(pl.col("statistic").str.ends_with("cycles"))
    at, gap, limit = np.arange(bands.height), bands["difference"].to_numpy(), bands["baseline"].to_numpy()
    error = np.abs(np.stack([gap - bands["low"].to_numpy(), bands["high"].to_numpy() - gap]))
    octaves.bar(at, 2 * limit, bottom=-limit, width=0.8, color=figures.GREY, alpha=0.3, label="real halves")
    octaves.errorbar(at, gap, yerr=error, fmt="o", color=COLOURS["simulated"], capsize=2, lw=1)
    octaves.axhline(0, color=figures.BLACK, lw=0.6)
    octaves.set_xticks(at, [f"{low}-{min(high, SIDE // 2)}" for low, high in OCTAVES], rotation=30)
    octaves.set(xlabel="cycles per film width", ylabel="simulated - real (dB)")
    reach = 1.6 * max(limit.max(), np.abs(bands.select("low", "high").to_numpy()).max())
    octaves.set_ylim(-reach, reach)
    octaves.legend(loc="upper right")
    figures.letter(octaves, "c", "Difference per octave")
    note("c", "simulated - real", at, gap, bands["low"].to_numpy(), bands["high"].to_numpy())
    note("c", "real halves", at, np.zeros(len(at)), -limit, limit)

    distance, low, high, within = table.select("difference", "low", "high", "baseline").row(0)
    counts = " and ".join(
        f"{len(films.patients):,} {name} films of {len(set(films.patients)):,} patients"
        for name, films in (("real", real), ("simulated", simulated))
    )
    caption = (
        f"How films look: {counts}, all at {SIDE} pixels. (a) Pooled grey levels; Wasserstein distance "
        f"{distance:.3f} (95 % interval {low:.3f} to {high:.3f}) of a range of 1; 95 % of random halves of "
        f"the real films, by patient, are within {within:.3f}. (b) Median over films and 10th to 90th "
        "percentile. (c) Difference of medians with 95 % interval (bootstrap of patients); grey: 95 % of the "
        "differences between random halves of the real films."
    )
    data = pl.DataFrame(rows, schema=["panel", "series", "x", "value", "low", "high"], orient="row")
    return figure, data.with_columns(pl.col("low", "high").fill_nan(None)), caption


def sheet(real: list[np.ndarray], simulated: list[np.ndarray], columns: int = 5) -> Image.Image:
    """Real and simulated films in turn, row by row, each marked with what it is."""
    rows = []
    for start in range(0, min(len(real), len(simulated)), columns):
        for name, films in (("REAL", real), ("SIMULATED", simulated)):
            tiles = [
                Image.fromarray(np.round(255 * one).astype(np.uint8))
                for one in films[start : start + columns]
            ]
            for tile in tiles:
                ImageDraw.Draw(tile).text((4, SIDE - 14), name, fill=255, stroke_width=2, stroke_fill=0)
            tiles += [Image.new("L", (SIDE, SIDE))] * (columns - len(tiles))
            rows.append(np.concatenate([np.asarray(tile) for tile in tiles], axis=1))
    return Image.fromarray(np.concatenate(rows))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True, help="folder of real frontal films")
    parser.add_argument("--films", type=int, default=120, help="simulated films")
    parser.add_argument("--ap-share", type=float, default=0.5, help="share of AP films among the simulated")
    parser.add_argument("--out", type=Path, default=paths.REPORTS / "simulation", help="statistics")
    parser.add_argument("--sheet", type=Path, default=Path(tempfile.gettempdir()) / "cxrtrek-realism")
    asked = parser.parse_args(arguments)

    films, patients = read(asked.real)
    facts = [study(number, asked.ap_share) for number in range(asked.films)]
    made = [film(each, SIDE)[0] for each in tqdm(facts, desc="simulated films", unit="film")]
    real, simulated = looks(films, patients), looks(made, [each["patient_id"] for each in facts])
    table = compare(real, simulated)
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, float_precision=3, tbl_hide_dataframe_shape=True
    ):
        print(table)

    paths.FIGURES = paths.TABLES = asked.out
    figure, data, caption = drawing(real, simulated, table)
    healthy = sum(not each["findings"] for each in facts)
    caption += (
        f" Of the simulated films {sum(each['view'] == 'AP' for each in facts)} are AP, {healthy} healthy."
    )
    figures.save(figure, "film_statistics", data, caption)
    figures.save_table("comparison", table, caption)
    print(f"{caption}\n{asked.out}: film_statistics (pdf, png, csv, txt), comparison (csv, txt)")

    asked.sheet.mkdir(parents=True, exist_ok=True)
    chosen = sorted(range(len(films)), key=lambda i: draws.uniform(0, "realism", f"sheet/{i}"))[:SHEET_PAIRS]
    path = asked.sheet / "real_and_simulated.png"
    sheet([films[i] for i in chosen], made[:SHEET_PAIRS]).save(path)
    print(f"{path}: real and simulated films side by side; it holds real films, keep it out of git")


if __name__ == "__main__":
    main()
