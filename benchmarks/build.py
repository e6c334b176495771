"""How fast the dataset is built, against the same templates through `datasets.map`.

    PYTHONPATH=. python benchmarks/build.py [--small]

Four tables from one run: the full build with 1, 2 and 4 worker processes (seconds, Q&A/s, peak memory of all
processes, SHA-256); other shard sizes; the cost at growing numbers of patients; and Q&A per second of a
per-example function under `datasets.map`, which makes the same rows for only the cheapest kinds of question
(view, yes/no and list); beside it the same kinds, and all stages, built here. About five minutes on two
cores; --small reads 3,000 patients a source.
"""

import argparse
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import datasets
import polars as pl
import psutil

from cxrtrek_lib import build, conversations, corpus, draws, params, paths, tables
from cxrtrek_lib.stages import identification, question_rows, wording

SETTINGS = params.load(paths.PROFILES / "default.yaml").groups()["dataset"]


class Peak(threading.Thread):
    """Peak memory of this process and its children, bytes: unique set sizes added up, 10 times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.done = 0, threading.Event()

    def run(self):
        me = psutil.Process()
        while not self.done.wait(0.1):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue  # it ended while we counted
            self.bytes = max(self.bytes, total)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


def reader(scale):
    """What reads the tables of the default parameters at another scale."""
    inputs = {name: SETTINGS[name] for name in ("roles", "split", "folders")}
    return partial(corpus.read_sources, **inputs, scale=scale)


def built(scale, workers: int, shard: int = corpus.SHARD) -> dict:
    """One build from packaged tables to Parquet: its metrics, seconds and peak bytes."""
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        start = time.perf_counter()
        metrics = corpus.write(
            reader(scale),
            Path(folder),
            0,
            yes_no_ratio=SETTINGS["yes_no_ratio"],
            workers=workers,
            shard=shard,
        )
        seconds = time.perf_counter() - start
    return {**metrics, "seconds": seconds, "bytes": peak.bytes}


def row(label: str, run: dict) -> None:
    print(
        f"{label:<28}{run['n_studies']:>9,}{run['n_qa']:>11,}{run['seconds']:>8.1f}"
        f"{run['n_qa'] / run['seconds']:>10,.0f}{1e6 * run['seconds'] / run['n_studies']:>11.0f}"
        f"{run['bytes'] / 2**30:>8.2f}  {run['sha256'][:12]}"
    )


def ask(example: dict, templates: dict) -> dict:
    """Rows of tables.QA of one study, as a per-example function makes them: view, yes/no and list only."""
    bits = draws.key(0, example["sample_id"])
    n_images, rows = len(example["views"]), []

    def add(template: wording.Template, about: str, answer: str, fact: str, evidence: str, **slots):
        phrasings = [f"{ask} {style}".strip() for ask in template.ask for style in template.style]
        question = phrasings[draws.key(bits, template.name, about) % len(phrasings)].format(**slots)
        films = "" if rows else conversations.PLACEHOLDER * n_images + "\n"
        row = dict.fromkeys(tables.QA) | {
            "sample_id": example["sample_id"], "turn": len(rows), "stage": template.stage,
            "task_type": template.task_type, "qtype": template.qtype, "image_input_count": n_images,
            "question": films + question, "answer": answer, "fact": fact, "evidence": evidence,
            "target": template.target.format(**slots, kind="abnormality"),
        }  # fmt: skip
        rows.append(row)

    view, presence, listing = templates[1]["view"], templates[2]["presence"], templates[2]["list"]
    said = "; ".join(view.answers.get(name, name) for name in example["views"])
    add(view, "", said, "view", "view")
    present, columns = [], []
    for name, status, column in zip(
        example["finding"], example["status"], example["source_column"], strict=True
    ):
        if status != "uncertain":
            add(presence, name, presence.answers[status], f"{name}|presence", column, finding=name)
        if status == "present":
            present.append(name)
            columns.append(column)
    if present:
        answer = listing.answers["some"].format(findings=", ".join(present))
        add(listing, "", answer, "composite|list", "; ".join(columns))
    return {column: [row[column] for row in rows] for column in tables.QA}


def by_map(annotations) -> float:
    """Q&A per second of `datasets.map` over the studies, one process."""
    said = annotations.findings.group_by("sample_id").agg("finding", "status", "source_column")
    studies = annotations.studies.select("sample_id", "views").join(said, on="sample_id")
    table = datasets.Dataset(studies.to_arrow())
    empty = pl.DataFrame(schema=tables.QA).to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = datasets.Features.from_arrow_schema(empty.schema)
    features = datasets.Features({name: datasets.List(column) for name, column in columns.items()})
    templates = wording.load()
    start = time.perf_counter()
    done = table.map(
        lambda example: ask(example, templates), remove_columns=table.column_names, features=features
    )
    seconds = time.perf_counter() - start
    return sum(map(len, done["question"])) / seconds


def by_build(annotations, same: bool) -> float:
    """Q&A per second over the same studies, this process alone: the same kinds of question, or all stages."""
    start = time.perf_counter()
    templates, n = wording.load(), 0
    for piece in build.parts(*annotations[:3], corpus.SHARD):
        if same:
            evidence = build.gather(*piece, 0)
            known = evidence.known
            present = question_rows.listed(known.filter(status="present"))
            certain = known.filter(pl.col("status") != "uncertain")
            rows = [
                *identification._projection(evidence.studies, templates[1]),
                identification._presence(templates[2]["presence"], certain),
                identification._list(templates[2]["list"], present, present.clear(), 7),
            ]
            n += build._conversations(pl.concat(rows), evidence.studies).height
        else:
            n += build.questions(*piece, 0, templates=templates).height
    return n / (time.perf_counter() - start)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--small", action="store_true", help="3,000 patients a source instead of all")
    full = 3000 if arguments.parse_args().small else "full"
    head = f"{'build':<28}{'studies':>9}{'Q&A':>11}{'s':>8}{'Q&A/s':>10}{'us/study':>11}{'GiB':>8}  SHA-256"
    print(head)
    runs = {}
    for workers in (1, 2, 4):
        runs[workers] = built(full, workers)
        row(f"{workers} workers", runs[workers])
    for shard in (5_000, 50_000):
        runs[f"shard {shard}"] = built(full, 2, shard)
        row(f"2 workers, shard {shard:,}", runs[f"shard {shard}"])
    same = len({run["sha256"] for run in runs.values()}) == 1
    print(f"the same rows in all {len(runs)} builds: {'yes' if same else 'NO'}\n")
    print(head)
    for patients in (1_500, 6_000, 24_000):
        row(f"{patients:,} patients a source", built(patients, 2))
    print()
    annotations = reader(3000)()
    datasets.disable_progress_bars()
    ratios = {"the same kinds": [], "all stages": []}
    for _ in range(3):
        theirs = by_map(annotations)
        for name in ratios:
            ours = by_build(annotations, name == "the same kinds")
            ratios[name].append(ours / theirs)
            print(
                f"Q&A/s: build, {name:<15}{ours:>10,.0f}   datasets.map {theirs:>8,.0f}   {ours / theirs:.1f}"
            )
    for name, found in ratios.items():
        print(f"median ratio, {name}: {statistics.median(found):.1f}")
    if not same:
        raise SystemExit("the builds differ")


if __name__ == "__main__":
    main()
