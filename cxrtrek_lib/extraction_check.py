"""How well text_findings.py reads reports: Open-i reports as written against the MeSH tags that readers gave.

The tags were given to the same reports by people, and a finding that a report only suspects mostly has none.
"""

import numpy as np
import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib.inference_stats import cluster_weights, interval, patient_sums
from cxrtrek_lib.text_findings import findings_in

SOURCE = "openi"
FEWEST = 10  # tagged reports, below which a share says little
_SHARES = ("precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high")
_COLUMNS = {"finding": pl.String} | dict.fromkeys(("n_reports", "n_tagged", "n_read"), pl.Int64)
_COLUMNS |= dict.fromkeys(_SHARES, pl.Float64)


def against_tags(studies: pl.DataFrame, findings: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """One row per finding with at least `FEWEST` tagged reports, the most common first.

    studies, findings  tables of the whole dataset; only reports of Open-i with text are used
    Returns finding, n_reports, n_tagged, n_read (reports that are read as saying it is present), precision
    (of those read, the share tagged) and recall (of those tagged, the share read as present or uncertain),
    each with a 95 % patient-cluster bootstrap interval. No row when the dataset holds no such report.
    """
    text = pl.concat_str("findings_text", "impression_text", separator=" ", ignore_nulls=True)
    reports = studies.filter(source=SOURCE).select("sample_id", "patient_id", text=text.str.strip_chars())
    reports = reports.filter(pl.col("text") != "")
    said = [findings_in(report) for report in tqdm(reports["text"], desc="reports", unit="report", delay=1)]
    tags = findings.filter(pl.col("status") != "absent").join(reports, on="sample_id", how="semi")
    tagged = {name: set(ids) for name, ids in tags.group_by("finding").agg("sample_id").iter_rows()}
    names, columns = [], []
    for name, sample_ids in tagged.items():
        has_tag = np.array([sample_id in sample_ids for sample_id in reports["sample_id"]])
        if has_tag.sum() < FEWEST:
            continue
        read = np.array([found.get(name) == "present" for found in said])
        heard = np.array([found.get(name) in ("present", "uncertain") for found in said])
        names.append(name)
        columns += [read & has_tag, read, heard & has_tag, has_tag]
    if not names:
        return pl.DataFrame(schema=_COLUMNS)
    values = patient_sums(np.stack(columns, 1), reports["patient_id"])[0]
    draws = [_rates(w @ values) for w in cluster_weights(len(values), n_boot, seed)]
    totals, drawn, table = values.sum(0, keepdims=True), np.concatenate(draws), []
    for name, (precision, recall), counts, draw in zip(
        names, _rates(totals)[0], totals.reshape(-1, 4), drawn.swapaxes(0, 1), strict=True
    ):
        shares = (precision, *interval(draw[:, 0]), recall, *interval(draw[:, 1]))
        n_tagged, n_read = int(counts[3]), int(counts[1])
        table.append(
            dict(zip(_COLUMNS, (name, len(said), n_tagged, n_read, *map(float, shares)), strict=True))
        )
    frame = pl.DataFrame(table, schema=_COLUMNS).fill_nan(None)
    return frame.sort("n_tagged", "finding", descending=[True, False])


def _rates(totals: np.ndarray) -> np.ndarray:
    """Totals (B, 4 F) of F findings -> precision and recall (B, F, 2); NaN where none was read or tagged."""
    totals = totals.reshape(len(totals), -1, 4)
    with np.errstate(invalid="ignore"):
        return totals[..., [0, 2]] / totals[..., [1, 3]]
