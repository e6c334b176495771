"""How fast the dataset is built, against the same templates through `datasets.map`.

    PYTHONPATH=. python benchmarks/build.py [--small]

Four tables from one run: the full build with 1, 2 and 4 worker processes (seconds, Q&A/s, peak memory of all
processes, SHA-256); other shard sizes; the cost at growing numbers of patients; and Q&A per second of a
per-example function under `datasets.map`, which asks only the cheapest kinds of question (view, yes/no,
list), so the ratio flatters it. About five minutes on two cores; --small reads 3,000 patients a source.
"""

import argparse
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import datasets
import psutil

from cxrtrek_lib import build, corpus, draws, params, paths
from cxrtrek_lib.stages import wording

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
    """The cheapest questions of one study as a per-example function would ask them."""
    bits = draws.key(0, example["sample_id"])

    def phrase(template: wording.Template, about: str, **slots: str) -> str:
        phrasings = [f"{ask} {style}".strip() for ask in template.ask for style in template.style]
        return phrasings[draws.key(bits, template.name, about) % len(phrasings)].format(**slots)

    view, presence, listing = templates[1]["view"], templates[2]["presence"], templates[2]["list"]
    asked = [(phrase(view, ""), "; ".join(view.answers.get(name, name) for name in example["views"]))]
    for name, status in zip(example["finding"], example["status"], strict=True):
        if status != "uncertain":
            asked.append((phrase(presence, name, finding=name), presence.answers[status]))
    present = [
        name
        for name, status in zip(example["finding"], example["status"], strict=True)
        if status == "present"
    ]
    if present:
        asked.append((phrase(listing, ""), listing.answers["some"].format(findings=", ".join(present))))
    return {"question": [question for question, _ in asked], "answer": [answer for _, answer in asked]}


def by_map(annotations) -> float:
    """Q&A per second of `datasets.map` over the studies, one process."""
    said = annotations.findings.group_by("sample_id").agg("finding", "status")
    studies = annotations.studies.select("sample_id", "views").join(said, on="sample_id")
    table = datasets.Dataset(studies.to_arrow())
    texts = datasets.List(datasets.Value("string"))
    features = datasets.Features({"question": texts, "answer": texts})
    templates = wording.load()
    start = time.perf_counter()
    done = table.map(
        lambda example: ask(example, templates), remove_columns=table.column_names, features=features
    )
    seconds = time.perf_counter() - start
    return sum(map(len, done["question"])) / seconds


def by_build(annotations) -> float:
    """Q&A per second of `build.questions` over the same studies, this process alone."""
    start = time.perf_counter()
    pieces = build.parts(*annotations[:3], corpus.SHARD)
    n = sum(build.questions(*piece, 0).height for piece in pieces)
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
    ratios = []
    for _ in range(3):
        ours, theirs = by_build(annotations), by_map(annotations)
        ratios.append(ours / theirs)
        print(f"Q&A/s: build {ours:>10,.0f}   datasets.map {theirs:>9,.0f}   ratio {ratios[-1]:.1f}")
    print(f"median ratio {statistics.median(ratios):.1f}")
    if not same:
        raise SystemExit("the builds differ")


if __name__ == "__main__":
    main()
