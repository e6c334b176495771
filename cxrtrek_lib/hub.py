"""A cohort as a folder for Hugging Face `datasets`: Parquet shards with explicit Features, a dataset card."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import polars as pl
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from pyarrow import parquet
from tqdm.auto import tqdm

from cxrtrek_lib import dataset_card, documents, tables
from cxrtrek_lib.conversations import KINDS, STAGES, batches, format_of, splits
from cxrtrek_lib.terms import TERMS

SHARD = 500_000  # rows of a Parquet file
FILMS = 200  # studies whose films are in memory at a time
_VALUES = {
    pl.String: "string", pl.Boolean: "bool", pl.Int8: "int8", pl.Int16: "int16", pl.Int32: "int32",
    pl.Float32: "float32", pl.Float64: "float64",
}  # fmt: skip


def _feature(dtype: pl.DataType):
    if isinstance(dtype, pl.List):
        return datasets.List(_feature(dtype.inner))
    return datasets.Value(_VALUES[dtype if isinstance(dtype, type) else type(dtype)])


# Explicit, because a column that is all null in one shard would otherwise get another type there.
QUESTIONS = datasets.Features({column: _feature(dtype) for column, dtype in tables.QA.items()})
STUDIES = datasets.Features(
    {column: _feature(dtype) for column, dtype in tables.STUDIES.items()}
    | {"films": datasets.List(datasets.Image())}
)


def write(folder: Path, out: Path, name: str) -> None:
    """Write the cohort of `folder` into `out` so that `datasets.load_dataset(str(out))` reads it.

    questions/<split>-*.parquet  tables.QA, the default configuration
    studies/<split>-*.parquet    tables.STUDIES of all studies, and `films`: where they are simulated, the
                                 image files of `images`; radiographs of a source are never copied
    README.md                    card: splits, Features, counts, licences, limits; `name` is its title
    Raises ValueError, one line, when a film is missing.
    """
    studies = tables.read_table("studies", folder / "studies.parquet")
    counts: Counter = Counter()
    infos = DatasetInfosDict()
    for config, features in (("questions", QUESTIONS), ("studies", STUDIES)):
        there = SplitDict()
        for split in splits(folder):
            if config == "questions":
                rows = _questions(folder, split, counts)
            else:
                rows = _studies(folder, studies.filter(pl.col("split") == split))
            n, n_bytes = _write_shards(rows, features, out / config, split)
            there.add(SplitInfo(split, num_bytes=n_bytes, num_examples=n))
        infos[config] = datasets.DatasetInfo(
            config_name=config,
            features=features,
            splits=there,
            download_size=sum(file.stat().st_size for file in (out / config).iterdir()),
            dataset_size=sum(info.num_bytes for info in there.values()),
        )
    (out / "README.md").write_text(_card(name, studies, counts, infos), encoding="utf-8")


def _questions(folder: Path, split: str, counts: Counter) -> Iterator[pl.DataFrame]:
    """The Q&A of a split; counts them by (split, stage, format), and studies by (split, "asked")."""
    for part in batches(folder, split):
        for stage, qtype, n in part.qa.group_by("stage", "qtype").len().rows():
            counts[split, stage, format_of(qtype)] += n
        counts[split, "asked"] += part.studies.height
        yield part.qa


def _studies(folder: Path, studies: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The studies with the image files of simulated films."""
    films = pl.List(pl.Struct({"bytes": pl.Binary, "path": pl.String}))
    for part in studies.iter_slices(FILMS):
        held = [
            [_film(folder / image) for image in images] if origin == "simulated" else None
            for images, origin in part.select("images", "image_origin").rows()
        ]
        yield part.with_columns(pl.Series("films", held, dtype=films))


def _film(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path}: no such film; run `dvc repro` to render the cohort again")
    return {"bytes": path.read_bytes(), "path": path.name}


def _write_shards(
    rows: Iterable[pl.DataFrame], features: datasets.Features, out: Path, split: str
) -> tuple[int, int]:
    """Write files of about SHARD rows, at least one; returns how many rows, and their bytes in memory."""
    out.mkdir(exist_ok=True)
    schema = features.arrow_schema
    n = n_bytes = n_files = 0
    frames = iter(rows)
    with tqdm(desc=f"{out.name}: {split}", unit="row", delay=1) as bar:
        while (frame := next(frames, None)) is not None or not n_files:
            with parquet.ParquetWriter(
                out / f"{split}-{n_files:05d}.parquet", schema, compression="zstd"
            ) as writer:
                n_files += 1
                while frame is not None:
                    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
                    writer.write_table(table)
                    bar.update(table.num_rows)
                    n, n_bytes = n + table.num_rows, n_bytes + table.nbytes
                    frame = next(frames, None) if n < n_files * SHARD else None
    return n, n_bytes


def _card(name: str, studies: pl.DataFrame, counts: Counter, infos: DatasetInfosDict) -> str:
    """The dataset card: a YAML header that `datasets` reads, and text for people."""
    files = {
        config: {
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in info.splits],
            **({"default": True} if config == "questions" else {}),
        }
        for config, info in infos.items()
    }
    header = dataset_card.header(name)
    MetadataConfigs(files).to_dataset_card_data(header)
    infos.to_dataset_card_data(header)
    per_split = studies.group_by("split").agg(pl.len(), pl.col("patient_id").n_unique()).rows()
    numbers = {split: (n, patients) for split, n, patients in per_split}
    formats = KINDS
    rows = []
    for split, info in infos["questions"].splits.items():
        asked, n = counts[split, "asked"], info.num_examples
        rows.append((split, *numbers[split], n, f"{n / asked:.2f}" if asked else "-"))
    stages = [
        (f"{stage} {title}", [sum(counts[split, stage, each] for split in numbers) for each in formats])
        for stage, (title, _) in STAGES.items()
    ]
    origins = dict(studies["image_origin"].value_counts(sort=True).rows())
    sources = studies["source"].value_counts().sort("source").rows()
    return documents.template("dataset_card.md.j2").render(
        header=header.to_yaml(),
        name=name,
        splits=rows,
        formats=formats,
        stages=[(title, cells, sum(cells)) for title, cells in stages],
        origins=origins,
        sources=[(source, n, TERMS.get(source, "ask the source")) for source, n in sources],
    )
