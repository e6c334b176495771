"""An external cohort of real films from the user's own folder, its truth that of the annotation.

Nothing is known here but what readers or reports said: a finding that nobody mentions is neither present nor
absent, sides and grades are open where they were left open, and boxes are those that readers drew. So every
`source_column` and `reader` names the source's table, and none says "simulated".
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from cxrtrek_lib import boxes as reader_boxes
from cxrtrek_lib import build, cohort, draws, files, image_folder, images, paths, selection, tables
from cxrtrek_lib.sources import vindr
from cxrtrek_lib.tables import CORNERS

CONSENSUS = "vindr: consensus"  # reader of the boxes that are asked about, beside the three readers' own
# Released as square films of 1024 px, to which the tables' boxes refer: one that is not square is another.
SQUARE = ("nih", "rsna")
NO_FILM = "no film in the folder"
SEVERAL = "several different films of its name in the folder"
UNREADABLE = "film that cannot be read"
NOT_SQUARE = "film that is not square, as those of this release are"


class Chosen(NamedTuple):
    """Studies of which there is a film.

    cases     tables.STUDIES in the order in which they were taken; one frontal view each
    findings  their annotated findings (tables.FINDINGS)
    files     sample_id -> file of the first image
    left_out  sample_id, image, reason: films that were looked for in vain
    excluded  reason -> number of studies; with the cases they are all studies of the source
    counts    split, finding (or "no finding"), cases, available
    root, n_files, n_strangers  the folder, films in it, and those that no study names
    """

    cases: pl.DataFrame
    findings: pl.DataFrame
    files: dict[str, Path]
    left_out: pl.DataFrame
    excluded: dict[str, int]
    counts: pl.DataFrame
    root: str
    n_files: int
    n_strangers: int


def choose(name: str, sizes: dict, root: str, *, seed: int) -> Chosen:
    """The first sizes["external"][name] studies, by hash, of which `root` holds the film; all if fewer.

    name  an external source; sizes  the `cohort` group; root  its folder (images.roots)
    Unlike simulated cases they are not balanced: prevalence is that of the source. Of NIH ChestX-ray14, the
    films that radiologists adjudicated come first. Raises FileNotFoundError or ValueError, one line, when the
    folder is of no use (image_folder.find), no film in it can be a case, or the source is trained on.
    """
    if name not in sizes["external"]:
        known = ", ".join(sizes["external"])
        raise ValueError(f"cohort {name!r} cannot be of real films; params.yaml sizes {known}")
    dataset = {
        each: tables.read_table(each, paths.DATASET / f"{each}.parquet") for each in ("studies", "findings")
    }
    studies, findings = selection.external(dataset["studies"], name), dataset["findings"]
    findings = findings.join(studies, on="sample_id", how="semi")
    first = pl.col("images").list.first()
    found = image_folder.find(root, studies.select(first).to_series().to_list(), name)
    there = first.is_in(list(found.files))
    reason = (
        pl.when(first.is_in(list(found.several))).then(pl.lit(SEVERAL))
        .when(~there).then(pl.lit(NO_FILM))
        .when(~pl.col("views").list.first().is_in(selection.FRONTAL)).then(pl.lit(selection.NOT_FRONTAL))
        .when(~pl.col("sample_id").is_in(findings["sample_id"].unique().implode())).then(pl.lit(selection.NOTHING_STATED))
        .otherwise(pl.lit(""))
    )  # fmt: skip
    marked = studies.with_columns(reason=reason)
    eligible = marked.filter(pl.col("reason") == "").drop("reason")
    if not eligible.height:
        why = ", ".join(f"{reason} ({n:,})" for reason, n in _counted(marked["reason"]).items())
        raise ValueError(f"images.roots.{name}: no study of {name} can be a case: {why}")
    drawn = draws.mix(draws.keys(seed, eligible["sample_id"].to_list()), "cohort/order")
    eligible = eligible.with_columns(drawn=pl.Series(drawn))
    if name == "nih":
        panel = selection.adjudicated(eligible, findings)["sample_id"].implode()
        eligible = eligible.sort(~pl.col("sample_id").is_in(panel), "drawn").drop("drawn")
    else:
        eligible = eligible.sort("drawn").drop("drawn")
    cases = eligible.head(sizes["external"][name])
    excluded = _counted(marked.filter(pl.col("reason") != "")["reason"])
    if eligible.height > cases.height:
        excluded[selection.NOT_NEEDED] = eligible.height - cases.height
    told = pl.col("image").replace_strict(found.several, default=pl.col("reason"), return_dtype=pl.String)
    left_out = marked.filter(pl.col("reason").is_in([NO_FILM, SEVERAL])).select(
        "sample_id", image=first, reason="reason"
    )
    return Chosen(
        cases.with_columns(views=pl.col("views").list.head(1), images=pl.col("images").list.head(1)),
        findings.join(cases, on="sample_id", how="semi"),
        {sample_id: found.files[image] for sample_id, image in cases.select("sample_id", first).iter_rows()},
        left_out.with_columns(reason=told),
        excluded,
        _counts(_per_finding(eligible, findings), _per_finding(cases, findings)),
        root,
        found.n_files,
        found.n_strangers,
    )


def make(
    name: str, chosen: Chosen, *, size_px: int, seed: int, workers: int, folder: Path | None = None
) -> dict:
    """Write the films, tables and questions of a cohort under data/films/<name>/ (or `folder`).

    png/<film>.png     the films, grey, 8 bits, size_px a side (aspect ratio not kept)
    studies, findings, boxes, qa (parquet)  as cohort.make, image_origin "real"; boxes in percent of the film.
                       Of VinDr-CXR the three readers' boxes, and those they agree on (reader CONSENSUS),
                       which are the ones asked about
    films.parquet      sample_id, film, file (in the user's folder), width_px, height_px as found
    left_out.csv       sample_id, image, reason: films missing, of doubtful name, or that cannot be read
    summary.json       what was chosen and left out, by reason; also returned
    Raises ValueError, one line, when no film can be read, or when VinDr's boxes do not fit its films.
    """
    folder = paths.FILMS / name if folder is None else Path(folder)
    films, failed = _copied(chosen, folder, name, size_px, workers)
    if not films.height:
        raise ValueError(
            f"images.roots.{name}: none of {failed.height} films can be used; "
            f"the first: {failed['reason'][0]}"
        )
    cases = chosen.cases.join(films.select("sample_id", "film"), on="sample_id", maintain_order="left")
    cases = cases.with_columns(images=pl.concat_list("film"), image_origin=pl.lit("real")).drop("film")
    findings = chosen.findings.join(cases, on="sample_id", how="semi", maintain_order="left")
    marked = _boxes(name, films)
    asked = marked.filter(pl.col("reader") == CONSENSUS) if name == "vindr" else marked
    balance = build.yes_no_balance(cases, findings, cohort.YES_NO_RATIO["external"])
    qa = build.questions(cases, findings, asked, seed, balance=balance)
    for table, frame in {"findings": findings, "boxes": marked, "qa": qa, "studies": cases}.items():
        tables.write_table(table, frame, folder / f"{table}.parquet")
    summary = _summary(name, chosen, cases, failed, size_px)
    left_out = pl.concat([chosen.left_out, failed.drop("kind")]).sort("sample_id")
    with files.whole(folder / "films.parquet") as temporary:
        films.write_parquet(temporary)
    with files.whole(folder / "left_out.csv") as temporary:
        left_out.write_csv(temporary)
    with files.whole(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    cohort.clear(folder, [*films["film"], "films.parquet", "left_out.csv"])
    return summary


def _copied(
    chosen: Chosen, folder: Path, name: str, size_px: int, workers: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(films.parquet, films that cannot be used: sample_id, image, reason, kind), both in case order."""
    (folder / "png").mkdir(parents=True, exist_ok=True)
    root = paths.ROOT / chosen.root
    good, bad = [], []
    rows = chosen.cases.select("sample_id", pl.col("images").list.first()).rows()
    with ThreadPoolExecutor(workers) as pool:  # decoding is C code, which lets threads run side by side
        sizes = pool.map(lambda row: _copy(chosen.files[row[0]], row[0], folder, size_px), rows)
        for (sample_id, image), size in tqdm(
            zip(rows, sizes, strict=True), total=len(rows), desc="real films", unit="film", mininterval=0.5
        ):
            file = str(chosen.files[sample_id].relative_to(root))
            if isinstance(size, str):
                bad.append((sample_id, image, size.replace(f"{root}/", ""), UNREADABLE))
            elif name in SQUARE and size[0] != size[1]:
                bad.append((sample_id, image, f"{file}: {size[0]} x {size[1]} pixels", NOT_SQUARE))
            else:
                good.append((sample_id, _name(sample_id), file, *size))
    films = ["sample_id", "film", "file", "width_px", "height_px"]
    return (
        pl.DataFrame(
            good,
            schema=dict.fromkeys(films[:3], pl.String) | dict.fromkeys(films[3:], pl.Int32),
            orient="row",
        ),
        pl.DataFrame(
            bad, schema=dict.fromkeys(("sample_id", "image", "reason", "kind"), pl.String), orient="row"
        ),
    )


def _copy(file: Path, sample_id: str, folder: Path, size_px: int) -> tuple[int, int] | str:
    """Write one film; (width, height) of the original in pixels, or why it is no film."""
    try:
        image = images.read(file)
    except (ValueError, FileNotFoundError) as error:  # one line that says what is wrong; the others go on
        return str(error)
    text = PngInfo()
    text.add_text("image_origin", "real")
    text.add_text("sample_id", sample_id)
    picture = Image.fromarray(np.round(images.resize(image, size_px) * 255).astype(np.uint8))
    with files.whole(folder / _name(sample_id)) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text, compress_level=4)
    return image.shape[1], image.shape[0]


def _name(sample_id: str) -> str:
    return f"png/{sample_id.replace('/', '_')}.png"


def _boxes(name: str, films: pl.DataFrame) -> pl.DataFrame:
    """tables.BOXES of these films, in percent; of VinDr-CXR those of each reader and those they agree on."""
    if name != "vindr":
        annotated = tables.read_table("boxes", paths.DATASET / "boxes.parquet")
        return annotated.join(films, on="sample_id", how="semi").filter(pl.col("image_id") == 1)
    marked = vindr.pixel_boxes().join(
        films.select("sample_id", "file", "width_px", "height_px"), on="sample_id", maintain_order="left"
    )
    outside = marked.filter((pl.col("x2") > pl.col("width_px")) | (pl.col("y2") > pl.col("height_px")))
    if outside.height:
        row = outside.row(0, named=True)
        raise ValueError(
            f"images.roots.vindr: {row['file']} has {row['width_px']} x {row['height_px']} pixels and a box "
            f"to {row['x2']:.0f}, {row['y2']:.0f} ({outside['sample_id'].n_unique()} such films): resized "
            "copies, or another release; give the original DICOM films"
        )
    percent = [
        (100 * pl.col(corner) / pl.col("width_px" if corner[0] == "x" else "height_px"))
        .round(2)
        .alias(corner)
        for corner in CORNERS
    ]
    marked = marked.with_columns(percent).select(list(tables.BOXES))
    return pl.concat([marked, reader_boxes.consensus(marked, CONSENSUS)])


def _per_finding(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """split, finding, studies: how many have each finding, or NO_FINDING, present."""
    present = findings.filter(pl.col("status") == "present").select("sample_id", "finding").unique()
    rows = studies.select("sample_id", "split").join(present, on="sample_id", how="left")
    rows = rows.with_columns(pl.col("finding").fill_null(selection.NO_FINDING))
    return rows.group_by("split", "finding").agg(studies=pl.len().cast(pl.Int64))


def _counts(available: pl.DataFrame, cases: pl.DataFrame) -> pl.DataFrame:
    """split, finding, cases, available, from `_per_finding` of all eligible studies and of the cases."""
    counts = available.rename({"studies": "available"}).join(
        cases.rename({"studies": "cases"}), on=["split", "finding"], how="left"
    )
    counts = counts.with_columns(pl.col("cases").fill_null(0))
    return counts.select("split", "finding", "cases", "available").sort("split", "finding")


def _counted(reasons: pl.Series) -> dict[str, int]:
    counts = reasons.value_counts(sort=True, name="n").sort("n", reasons.name, descending=[True, False])
    return dict(counts.iter_rows())


def _summary(name: str, chosen: Chosen, cases: pl.DataFrame, failed: pl.DataFrame, size_px: int) -> dict:
    available = chosen.counts.select("split", "finding", studies="available")
    return {
        "cohort": name,
        "size_px": size_px,
        "image_origin": "real",
        "n_cases": cases.height,
        "n_cases_with_prior": 0,
        "n_cases_with_next_study": 0,
        "n_films": cases.height,
        "n_files_in_folder": chosen.n_files,
        "n_files_without_study": chosen.n_strangers,
        "excluded": dict(sorted((chosen.excluded | _counted(failed["kind"])).items())),
        "cases_per_split_and_finding": _counts(available, _per_finding(cases, chosen.findings)).to_dicts(),
    }
