"""Normalised tables -> Q&A, column-wise and deterministic; patient splits; the dataset's own numbers."""

import hashlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl

from cxrtrek_lib import draws, schema, tables, wording
from cxrtrek_lib.findings import DEVICES, FINDINGS, REGIONS
from cxrtrek_lib.question_rows import FINDING, Evidence
from cxrtrek_lib.schema import PLACEHOLDER
from cxrtrek_lib.sources.common import Annotations
from cxrtrek_lib.stages import BUILDERS

SOURCES = ("chexpert", "padchest", "nih", "openi")
CHUNK = 25_000  # studies whose questions are built at a time: about 0.4 GB


def read_sources(
    train: list[str], external: list[str], split: dict[str, float], max_patients: int | None = None
) -> Annotations:
    """Read the tables and split their patients; all sources in one set of frames.

    train, external  names in SOURCES; patients of `external` sources are only ever tested on
    split            {"validate": share, "test": share} of the patients of `train` sources
    max_patients     per source, in hash order
    Returns studies sorted by patient and order, findings and boxes sorted by sample, and the sums of excluded
    and unmapped, whose keys begin with the source. Raises ValueError for an unknown or repeated source.
    """
    names = [*train, *external]
    for name in names:
        if name not in SOURCES or names.count(name) > 1:
            raise ValueError(
                f"dataset source {name!r} is unknown or named twice; known: {', '.join(SOURCES)}"
            )
    tables = {name: import_module(f"cxrtrek_lib.sources.{name}").read(None, max_patients) for name in names}
    studies = [
        table.studies.with_columns(split=split_of(table.studies["patient_id"], name in external, split))
        for name, table in tables.items()
    ]
    return Annotations(
        pl.concat(studies).sort("patient_id", "order"),
        pl.concat([table.findings for table in tables.values()]).sort(
            "sample_id", "finding", "source_column"
        ),
        pl.concat([table.boxes for table in tables.values()]).sort(
            "sample_id", "image_id", "target", "x1", "y1"
        ),
        {reason: count for table in tables.values() for reason, count in table.excluded.items() if count},
        {f"{name}: {label}": n for name, table in tables.items() for label, n in table.unmapped.items()},
    )


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


def questions(
    studies: pl.DataFrame,
    findings: pl.DataFrame,
    boxes: pl.DataFrame,
    seed: int,
    templates: dict[int, dict[str, wording.Template]] | None = None,
) -> pl.DataFrame:
    """The Q&A of the studies (tables.QA), sorted by patient, order and turn.

    Prior and next studies are compared only when they are rows of `studies` too. The current images come
    first: one placeholder per entry of `views`, in the first question; the first image of the prior study is
    shown in the first question of stage 5. The result does not depend on row order, nor on which other
    patients are in the frames. Raises ValueError (one line) for a finding, region or value that is unknown.
    """
    evidence = gather(studies, findings, boxes, seed)
    templates = wording.load() if templates is None else templates
    rows = pl.concat(
        [frame for stage, builder in BUILDERS.items() for frame in builder(evidence, templates[stage])]
    )
    return _conversations(rows, evidence.studies)


def gather(studies: pl.DataFrame, findings: pl.DataFrame, boxes: pl.DataFrame, seed: int) -> Evidence:
    """One chunk of the tables as Evidence: rows numbered, several rows about a finding put together."""
    _reject_unknown(findings, "finding", set(FINDINGS), "findings")
    _reject_unknown(boxes, "target", set(FINDINGS) | set(REGIONS), "boxes")
    studies = studies.sort("patient_id", "order", "sample_id").with_row_index("i")
    keys = draws.keys(seed, studies["sample_id"].to_list())
    numbers = studies.select("sample_id", other="i")
    studies = (
        studies.with_columns(
            pl.Series("key", keys, dtype=pl.UInt64), n_images=pl.col("views").list.len().cast(pl.Int16)
        )
        .join(numbers.rename({"other": "prior"}), left_on="prior_study_id", right_on="sample_id", how="left")
        .join(numbers.rename({"other": "next"}), left_on="next_study_id", right_on="sample_id", how="left")
        .sort("i")
    )
    handle = studies.select("sample_id", "i", "key", "n_images")
    return Evidence(
        studies, _known(findings.join(handle, on="sample_id")), boxes.join(handle, on="sample_id")
    )


def _reject_unknown(frame: pl.DataFrame, column: str, known: set[str], table: str) -> None:
    unknown = sorted(set(frame[column].unique()) - known)
    if unknown:
        raise ValueError(f"table {table}: unknown {column} {unknown[0]!r}; add it to cxrtrek_lib/findings.py")


def _known(findings: pl.DataFrame) -> pl.DataFrame:
    """One row per study and finding, from all rows about it; absences at tier 3 say nothing and are dropped.

    Present wins over uncertain, uncertain over absent. Sides of several present rows are united; a present
    row without a side leaves the side unknown. Severity and place are kept when all present rows agree.
    """
    findings = findings.filter((pl.col("status") != "absent") | (pl.col("evidence_tier") <= 2))
    rank = pl.col("status").replace_strict({"present": 0, "uncertain": 1, "absent": 2}, return_dtype=pl.Int8)
    findings = findings.with_columns(finding=pl.col("finding").cast(FINDING), rank=rank)
    findings = findings.filter(pl.col("rank") == pl.col("rank").min().over("i", "finding"))
    single = findings.filter(pl.len().over("i", "finding") == 1)
    several = findings.filter(pl.len().over("i", "finding") > 1)
    side = pl.col("laterality")
    columns = {"side": side, "severity": pl.col("severity"), "place": pl.col("location")}

    def agreed(column: pl.Expr) -> pl.Expr:
        return pl.when((column.n_unique() == 1) & column.is_not_null().all()).then(column.first())

    several = several.sort("i", "finding", "source_column").group_by("i", "finding").agg(
        pl.first("key", "status"),
        tier=pl.col("evidence_tier").min(),
        side=pl.when(side.is_null().any()).then(None).when(side.n_unique() == 1).then(side.first())
        .otherwise(pl.lit("bilateral")),
        severity=agreed(pl.col("severity")),
        place=agreed(pl.col("location")),
        certainty=agreed(pl.col("certainty")),
        evidence=pl.col("source_column").unique(maintain_order=True).str.join("; "),
    )  # fmt: skip
    single = single.select(
        "i",
        "finding",
        "key",
        "status",
        "certainty",
        tier="evidence_tier",
        evidence="source_column",
        **columns,
    )
    known = pl.concat([single.select(several.columns), several])
    present = pl.col("status") == "present"
    return known.with_columns(
        *(pl.when(present).then(column).alias(column) for column in ("side", "severity", "place")),
        name=pl.col("finding").cast(pl.String),
        kind=pl.when(pl.col("finding").cast(pl.String).is_in(list(DEVICES)))
        .then(pl.lit("foreign_body"))
        .otherwise(pl.lit("abnormality")),
        balanced=pl.lit(True),
    ).sort("i", "finding")


def _conversations(rows: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """Question rows in conversation order, with turns and image placeholders (tables.QA)."""
    rows = rows.sort("i", "stage", "rank", "bits").join(
        studies.select("i", "sample_id", "n_images"), on="i", how="left", maintain_order="left"
    )
    turn = pl.int_range(pl.len(), dtype=pl.Int16).over("i")
    fifth = pl.col("stage") == 5
    first_fifth = fifth & (fifth.cum_sum().over("i") == 1)
    rows = rows.with_columns(turn=turn, first_fifth=first_fifth, compared=fifth.any().over("i"))
    prior_shown = pl.col("compared") & (pl.col("stage") >= 5)
    current = pl.when(pl.col("turn") == 0).then(pl.lit(PLACEHOLDER).repeat_by("n_images").list.join(""))
    prior = pl.when(pl.col("first_fifth")).then(pl.lit(PLACEHOLDER))
    films = pl.concat_str(current, prior, ignore_nulls=True)
    rows = rows.with_columns(
        question=pl.when(films != "")
        .then(pl.concat_str(films, pl.lit("\n"), "question"))
        .otherwise("question"),
        image_input_count=pl.col("n_images") + prior_shown.cast(pl.Int16),
        is_joint_sent=pl.when(pl.col("qtype") == "captioning").then(pl.lit(False)),
    )
    return rows.select(pl.col(c).cast(dtype) for c, dtype in tables.QA.items())


def chunks(
    studies: pl.DataFrame, findings: pl.DataFrame, boxes: pl.DataFrame, seed: int, size: int = CHUNK
) -> Iterator[pl.DataFrame]:
    """The Q&A in pieces of about `size` studies, whole patients, in order of patient_id.

    Put together they are exactly `questions` of everything, whatever the size.
    """
    templates = wording.load()
    studies = studies.sort("patient_id", "order", "sample_id")
    ends = studies.with_row_index("row").group_by("patient_id").agg(pl.col("row").max() + 1)["row"].sort()
    start = 0
    while start < studies.height:
        end = int(ends[min(ends.search_sorted(start + size), len(ends) - 1)])
        part = studies[start:end]
        ids = part.select("sample_id")
        yield questions(
            part,
            findings.join(ids, on="sample_id", how="semi"),
            boxes.join(ids, on="sample_id", how="semi"),
            seed,
            templates,
        )
        start = end


def dataset_metrics(
    studies: pl.DataFrame,
    qa: Iterable[pl.DataFrame],
    excluded: dict[str, int],
    unmapped: dict[str, int],
) -> dict:
    """The numbers of reports/metrics/dataset.json.

    qa  the Q&A in one or more pieces, in the order of `chunks`
    n_facts counts different facts asked about (per study); answers composed of facts that have questions of
    their own (lists, descriptions, summaries, comparisons) add none. sha256 covers every Q&A row.
    """
    digest, counts = hashlib.sha256(), []
    n_facts = 0
    for part in qa:
        digest.update(canonical_bytes(part))
        counts.append(part.group_by("stage", "qtype").len())
        facts = part.filter(~pl.col("fact").str.starts_with("composite|")).select("sample_id", "fact")
        facts = facts.with_columns(pl.col("fact").str.split("; ")).explode("fact")
        n_facts += facts.n_unique()
    total = pl.concat(counts).group_by("stage", "qtype").agg(pl.col("len").sum())
    n_qa = int(total["len"].sum())
    stages = dict(total.group_by("stage").agg(pl.col("len").sum()).rows())
    formats = total.with_columns(format=pl.col("qtype").replace_strict(schema.FORMATS))
    formats = dict(formats.group_by("format").agg(pl.col("len").sum()).rows())
    return {
        "n_studies": studies.height,
        "n_patients": studies["patient_id"].n_unique(),
        "n_qa": n_qa,
        "n_facts": n_facts,
        "qa_per_study": round(n_qa / studies.height, 4),
        "stages": {str(stage): stages.get(stage, 0) for stage in schema.STAGES},
        "formats": {name: formats.get(name, 0) for name in dict.fromkeys(schema.FORMATS.values())},
        "sources": _counts(studies["source"]),
        "splits": _counts(studies["split"]),
        "sha256": digest.hexdigest(),
        "excluded": dict(sorted(excluded.items())),
        "unmapped_labels": {"different": len(unmapped), "mentions": sum(unmapped.values())},
    }


def _counts(column: pl.Series) -> dict[str, int]:
    return dict(sorted(column.value_counts().rows()))


def canonical_bytes(qa: pl.DataFrame) -> bytes:
    """The rows as text, one line each, in their order; control characters part columns and list items."""
    lists = [pl.col(c).list.join("\x1e") for c in ("option_list", "answer_list")]
    boxes = (
        pl.col("bbox_list").list.eval(pl.element().cast(pl.List(pl.String)).list.join(",")).list.join("\x1e")
    )
    done = {"option_list", "answer_list", "bbox_list"}
    plain = [pl.col(c).cast(pl.String) for c in tables.QA if c not in done]
    columns = [expression.fill_null("\x00") for expression in (*plain, *lists, boxes)]
    if not qa.height:
        return b""
    return (qa.select(pl.concat_str(columns, separator="\x1f").str.join("\n")).item() + "\n").encode()


def write(annotations: Annotations, folder: Path, seed: int) -> dict:
    """Write the four tables of the dataset and return its metrics; nothing is replaced until all is built."""
    folder = Path(folder)
    tables.write_chunks("qa", chunks(*annotations[:3], seed), folder / "qa.parquet")
    for name in ("studies", "findings", "boxes"):
        tables.write_table(name, getattr(annotations, name), folder / f"{name}.parquet")
    pieces = tables.read_chunks("qa", folder / "qa.parquet")
    return dataset_metrics(annotations.studies, pieces, annotations.excluded, annotations.unmapped)
