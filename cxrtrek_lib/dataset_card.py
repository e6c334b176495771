"""The dataset card of the whole dataset, from tables of counts; hub.py writes one beside exported data."""

from typing import Any

import polars as pl
from huggingface_hub import DatasetCardData

from cxrtrek_lib import documents
from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.terms import TERMS

NAME = "cxrtrek-rebuilt"


def header(name: str) -> DatasetCardData:
    """What Hugging Face reads at the head of a card."""
    return DatasetCardData(
        language="en",
        license="other",
        license_name="terms-of-each-source",
        task_categories=["visual-question-answering", "image-text-to-text"],
        tags=["chest-x-ray", "radiology", "medical"],
        pretty_name=name,
    )


def card(summary: pl.DataFrame, by_format: pl.DataFrame, found: dict[str, Any]) -> str:
    """The card as Markdown.

    summary    reports/tables/dataset_summary.csv: patients, studies and questions by source and split
    by_format  reports/tables/stage_format_source.csv: questions by stage and format
    found      the content of dataset.json
    """
    splits = summary.group_by("split").agg(pl.col("studies", "patients", "qa").sum()).sort("split")
    count = {(stage, kind): n for stage, kind, n in by_format.select("stage", "format", "total").rows()}
    stages = [
        (f"{stage} {title}", [count.get((stage, kind), 0) for kind in KINDS])
        for stage, (title, _) in STAGES.items()
    ]
    return documents.template("dataset_card.md.j2").render(
        header=header(NAME).to_yaml(),
        name=NAME,
        splits=[(*row, f"{row[3] / row[1]:.2f}") for row in splits.rows()],
        formats=KINDS,
        stages=[(title, cells, sum(cells)) for title, cells in stages],
        origins={"none": found["n_studies"]},
        sources=[
            (name, n, TERMS.get(name, "ask the source")) for name, n in sorted(found["sources"].items())
        ],
    )
