"""The dataset on disk: sources read by role, patients split, Q&A built in worker processes; its numbers."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib import authors, build, conversations, draws, paths, pools, tables
from cxrtrek_lib.sources import chexpert_plus, imagenome, mimic
from cxrtrek_lib.sources.common import Annotations, first_patients

# Tables inside an installed package; every other source needs a folder of the user's.
PACKAGED = ("chexpert", "padchest", "nih", "vindr", "openi", "rsna", "siim")
TABLES = ("studies", "findings", "boxes")
SHARD = 10_000  # studies whose questions are built at a time


class Prepared(NamedTuple):
    """What is told of annotations that lie in files: shards, balance, and what their readers counted."""

    n_shards: int
    balance: pl.DataFrame | None
    excluded: dict[str, int]
    unmapped: dict[str, int]
    corrected: dict[str, int]


# Columns of tables.QA that the digest covers.
DIGESTED = (
    "sample_id", "turn", "stage", "task_type", "qtype", "image_input_count", "question", "answer", "target",
    "fact", "evidence",
)  # fmt: skip
_STUDY = "\x1d"  # parts the studies in the text that is digested


class Numbers(NamedTuple):
    """What is counted of one shard's Q&A.

    counts   rows (stage, qtype, len)
    n_facts  different facts asked about, per study
    digests  16 bytes per study, in row order: BLAKE2b of its rows as text
    """

    counts: pl.DataFrame
    n_facts: int
    digests: bytes


def read_sources(
    roles: dict[str, str],
    scale: str | int,
    split: dict[str, float],
    folders: dict[str, str | None],
) -> Annotations:
    """Read the tables whose role is not off and split their patients; all sources in one set of frames.

    roles    source -> train, external (patients only ever tested on) or off
    scale    "full", or the number of patients per source, the first ones in hash order
    split    {"validate": share, "test": share} of the patients of train sources; a source that publishes a
             split of its own (MIMIC-CXR) keeps it
    folders  where files lie that no package carries (dataset.folders of params.yaml); relative to the root
    Returns studies sorted by patient and order, findings and boxes sorted by sample, and excluded, unmapped
    and corrected of all sources, with keys that begin with the source.
    """
    limit = None if scale == "full" else scale
    used = [name for name, role in roles.items() if role != "off"]
    found = {}
    for name in tqdm(used, desc="tables", unit="table"):
        table = _read(name, folders, limit)
        mine = split_of(table.studies["patient_id"], roles[name] == "external", split)
        if roles[name] == "train" and not (table.studies["split"] == "external").all():
            mine = table.studies["split"]
        found[name] = table._replace(studies=table.studies.with_columns(mine.alias("split")))
    sort_by = {
        "studies": ("patient_id", "order"),
        "findings": ("sample_id", "finding", "source_column"),
        "boxes": ("sample_id", "image_id", "target", "x1", "y1"),
    }
    frames = {
        name: pl.concat([getattr(table, name) for table in found.values()]).sort(keys)
        for name, keys in sort_by.items()
    }
    return Annotations(
        **frames,
        excluded={reason: n for table in found.values() for reason, n in table.excluded.items() if n},
        unmapped={
            f"{name}: {label}": n for name, table in found.items() for label, n in table.unmapped.items()
        },
        corrected={reason: n for table in found.values() for reason, n in table.corrected.items() if n},
    )


def _read(name: str, folders: dict[str, str | None], limit: int | None) -> Annotations:
    """One source; relative folders start at the repository's root."""
    if name in PACKAGED:
        return import_module(f"cxrtrek_lib.sources.{name}").read(None, limit)
    place = {key: None if folder is None else paths.ROOT / folder for key, folder in folders.items()}
    if name == "chexpert_plus":
        return chexpert_plus.read(place[name], limit)
    if name == "mimic":
        table = mimic.read(place["mimic"], limit, place["mimic_reports"])
        return (
            table if place["imagenome"] is None else imagenome.add(table, place["imagenome"], place["mimic"])
        )
    if place["authors"] is None:
        raise FileNotFoundError("the JSON of the dataset's authors is not named; set dataset.folders.authors")
    studies = pl.concat([batch.studies.drop("extra") for batch in authors.read_batches(place["authors"])])
    nothing = [pl.DataFrame(schema=tables.TABLES[table]) for table in ("findings", "boxes")]
    studies = first_patients(studies, limit)
    return Annotations(studies, *nothing, excluded={}, unmapped={}, corrected={})


def split_of(patient_ids: pl.Series, external: bool, shares: dict[str, float]) -> pl.Series:
    """Split of each row by the hash of its patient: no seed, so that a test patient stays one for ever.

    shares {"validate": v, "test": t}; the rest is train. Raises ValueError unless 0 <= v, t and v + t < 1.
    """
    test, validate = shares["test"], shares["validate"]
    if min(test, validate) < 0 or test + validate >= 1:
        raise ValueError(f"dataset.split: validate {validate} and test {test} must be >= 0 and sum to < 1")
    if external:
        return pl.repeat("external", len(patient_ids), eager=True).alias("split")
    patients = patient_ids.unique()
    place = np.array([draws.key("split", patient) for patient in patients], dtype=np.uint64) / 2.0**64
    split = np.select([place < test, place < test + validate], ["test", "validate"], "train")
    return patient_ids.replace_strict(patients, pl.Series(split), return_dtype=pl.String).alias("split")


def write(
    read: Callable[[], Annotations],
    folder: Path,
    seed: int,
    *,
    yes_no_ratio: float | None,
    authors_json: str | None = None,
    workers: int = 1,
    shard: int = SHARD,
) -> dict:
    """Write the four tables of the dataset and return its metrics; nothing is replaced until all is built.

    read           makes the annotations, in a process of its own: partial(read_sources, ...); the memory that
                   raw tables need is free again before questions are built
    authors_json   the authors' JSON, whose Q&A are taken as they are for the studies that `read` gives
    Questions are built shard by shard (`shard` studies) in `workers` processes; neither number changes a row
    of the tables or the metrics. An error in a process is raised here.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers: list[Numbers] = []
    with TemporaryDirectory(dir=folder, prefix=".shards-") as scratch:
        with _pool(1) as pool:
            told = pool.submit(_prepare, read, Path(scratch), yes_no_ratio, shard).result()
        studies = pl.read_ipc(f"{scratch}/all.studies")
        built = _build_all(Path(scratch), told, seed, workers, numbers)
        given = _given(authors_json, studies, numbers)
        tables.write_chunks("qa", chain(built, given), folder / "qa.parquet")
        for name in TABLES:
            tables.write_table(name, pl.read_ipc(f"{scratch}/all.{name}"), folder / f"{name}.parquet")
        return metrics(studies, told, numbers)


def _prepare(
    read: Callable[[], Annotations], scratch: Path, yes_no_ratio: float | None, shard: int
) -> Prepared:
    """Read the annotations into `scratch`: all.{table}, and shard by shard 0.{table}, 1.{table}, ..."""
    annotations = read()
    balance = build.yes_no_balance(annotations.studies, annotations.findings, yes_no_ratio)
    n_shards, pieces = 0, build.parts(*annotations[:3], shard)
    for n_shards, piece in enumerate(tqdm(pieces, desc="shards", unit="shard", delay=1), 1):
        for name, frame in zip(TABLES, piece, strict=True):
            frame.write_ipc(f"{scratch}/{n_shards - 1}.{name}")
    for name in TABLES:
        getattr(annotations, name).write_ipc(f"{scratch}/all.{name}")
    return Prepared(n_shards, balance, annotations.excluded, annotations.unmapped, annotations.corrected)


def _given(path: str | None, studies: pl.DataFrame, numbers: list[Numbers]) -> Iterator[pl.DataFrame]:
    """The Q&A of the authors' JSON about these studies; their numbers are appended to `numbers`."""
    for batch in [] if path is None else authors.read_batches(paths.ROOT / path):
        qa = batch.qa.drop("extra").join(studies.select("sample_id"), on="sample_id", how="semi")
        numbers.append(count(qa))
        yield qa


def _build_all(
    scratch: Path, told: Prepared, seed: int, workers: int, numbers: list[Numbers]
) -> Iterator[pl.DataFrame]:
    """The Q&A shard by shard, in order; their numbers are appended to `numbers`."""
    with _pool(workers) as pool:
        jobs = [scratch / str(n) for n in range(told.n_shards)]
        waiting = [pool.submit(_build_shard, job, seed, told.balance) for job in jobs]
        for job, done in tqdm(
            zip(jobs, waiting, strict=True),
            total=len(jobs),
            desc="questions",
            unit="shard",
            mininterval=0.5,
        ):
            numbers.append(done.result())
            yield pl.read_ipc(f"{job}.qa")
            Path(f"{job}.qa").unlink()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that share the cores: Polars sizes its threads once, when a process imports it."""
    before = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        with pools.spawned(workers) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ["POLARS_MAX_THREADS"]
        else:
            os.environ["POLARS_MAX_THREADS"] = before


def _build_shard(job: Path, seed: int, balance: pl.DataFrame | None) -> Numbers:
    """Build the Q&A of one shard from the files job.{studies,findings,boxes} into job.qa."""
    frames = [pl.read_ipc(f"{job}.{name}") for name in TABLES]
    qa = build.questions(*frames, seed, balance=balance)
    qa.write_ipc(f"{job}.qa", compression="lz4")
    return count(qa)


def count(qa: pl.DataFrame) -> Numbers:
    """The numbers of a piece of Q&A that holds whole studies.

    n_facts counts different facts asked about (per study); answers composed of facts that have questions of
    their own (lists, descriptions, summaries, comparisons) add none.
    """
    facts = pl.DataFrame({"study": qa["sample_id"].rle_id(), "fact": qa["fact"]})
    facts = facts.filter(~pl.col("fact").str.starts_with("composite|"))
    several = pl.col("fact").str.contains("; ", literal=True)
    listed = facts.filter(several).with_columns(pl.col("fact").str.split("; ")).explode("fact")
    n_facts = pl.concat([facts.filter(~several), listed]).n_unique()
    begins = pl.when(pl.col("turn") == 0).then(pl.lit(_STUDY)).otherwise(pl.lit("\n"))
    text = qa.select(pl.concat_str(begins, _text()).str.join("")).item().encode()
    digests = [hashlib.blake2b(part, digest_size=16).digest() for part in text.split(_STUDY.encode())[1:]]
    return Numbers(qa.group_by("stage", "qtype").len(), n_facts, b"".join(digests))


def _text() -> pl.Expr:
    """A row as text, parted by a control character; null is another.

    Options, right options and boxes stand in question and answer: their lists would say nothing more.
    """
    columns = [pl.col(column).cast(pl.String).fill_null("\x00") for column in DIGESTED]
    return pl.concat_str(columns, separator="\x1f")


def metrics(studies: pl.DataFrame, told: Prepared, numbers: list[Numbers]) -> dict:
    """The numbers of reports/metrics/dataset.json.

    numbers  `count` of every piece of the Q&A, in the order of `build.parts`
    sha256 is that of the studies' digests in row order: it covers every Q&A row, whatever the pieces.
    """
    total = pl.concat([each.counts for each in numbers]).group_by("stage", "qtype").agg(pl.col("len").sum())
    n_qa = int(total["len"].sum())
    stages = dict(total.group_by("stage").agg(pl.col("len").sum()).rows())
    formats = total.with_columns(format=pl.col("qtype").replace_strict(conversations.FORMATS))
    formats = dict(formats.group_by("format").agg(pl.col("len").sum()).rows())
    return {
        "n_studies": studies.height,
        "n_patients": studies["patient_id"].n_unique(),
        "n_images": int(studies["images"].list.len().sum()),
        "n_qa": n_qa,
        "n_facts": sum(each.n_facts for each in numbers),
        "qa_per_study": round(n_qa / studies.height, 4),
        "stages": {str(stage): stages.get(stage, 0) for stage in conversations.STAGES},
        "formats": {name: formats.get(name, 0) for name in conversations.KINDS},
        "sources": _counts(studies["source"]),
        "splits": _counts(studies["split"]),
        "sha256": hashlib.sha256(b"".join(each.digests for each in numbers)).hexdigest(),
        "excluded": dict(sorted(told.excluded.items())),
        "corrected": dict(sorted(told.corrected.items())),
        "unmapped": told.unmapped,
    }


def _counts(column: pl.Series) -> dict[str, int]:
    return dict(sorted(column.value_counts().rows()))
