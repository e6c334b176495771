"""Speed of validation: seconds for 100,000 cases, against a plain loop over cases with the same core rules.

    PYTHONPATH=. python benchmarks/validate.py [--cases 100000] [--loop 5000] [--patients 1500]

A small real build is repeated under new ids until there are enough cases. The loop checks fewer rules and
none about studies, so the ratio flatters it. Both must find the same 200 questions, broken beforehand. Times
are the fastest of three runs.
"""

import argparse
import re
import resource
import time

import polars as pl

from cxrtrek_lib import build, conversations, corpus, params, paths, schema

CORE = (
    "turns do not count 0, 1, 2, ...", "task_type is unknown at its stage", "qtype is unknown",
    "a {template} word is not filled", "image_input_count is not the number of placeholders so far",
    "answer_list is not among the options", "option repeated", "box outside 0-100 or inverted",
    "boxes in the text are not bbox_list", "yes_no without target",
)  # fmt: skip


def cases(n: int, patients: int) -> schema.Cases:
    """n cases: those of a small build, again and again."""
    settings = params.load(paths.PROFILES / "default.yaml").groups()["dataset"]
    small = corpus.read_sources(settings["roles"], patients, settings["split"], settings["folders"])
    qa = build.questions(small.studies, small.findings, small.boxes, 0)
    studies = small.studies.join(qa, on="sample_id", how="semi")
    copies = range(-(-n // studies.height))
    links = ("sample_id", "patient_id", "prior_study_id", "next_study_id")
    again = [studies.with_columns(pl.col(c) + f"~{i}" for c in links) for i in copies]
    studies = pl.concat(again)[:n]
    qa = pl.concat([qa.with_columns(pl.col("sample_id") + f"~{i}") for i in copies])
    return schema.Cases(studies, qa.join(studies, on="sample_id", how="semi"), "benchmark")


def broken(given: schema.Cases, n: int) -> tuple[schema.Cases, set[tuple[str, int]]]:
    """The same with n answers that hold an unfilled word, and where they are."""
    rows = pl.int_range(pl.len()) % (given.qa.height // n) == 0
    answer = pl.when(rows).then(pl.col("answer") + " {side}").otherwise("answer")
    places = given.qa.filter(rows).select("sample_id", "turn").rows()
    return given._replace(qa=given.qa.with_columns(answer=answer)), set(places)


def check(turns: list[dict]) -> list[tuple[int, str]]:
    """(turn, rule) of one conversation, by a plain loop; checks CORE."""
    found, shown = [], 0
    for n, turn in enumerate(turns):
        texts = " ".join([turn["question"], turn["answer"], *(turn["option_list"] or ())])
        shown += turn["question"].count("<image>")
        options, answers, boxes = turn["option_list"], turn["answer_list"], turn["bbox_list"]
        kind = conversations.FORMATS.get(turn["qtype"])
        said = conversations.parse_boxes(turn["answer"]) or conversations.parse_boxes(turn["question"])
        wrong = [
            turn["turn"] != n,
            turn["task_type"] not in conversations.TASK_TYPES.get(turn["stage"], ()),
            kind is None,
            re.search(r"\{[A-Za-z_][^{}]*\}", texts) is not None,
            turn["image_input_count"] != shown,
            kind == "choice" and turn["qtype"] != "single-choice" and not set(answers) <= set(options),
            kind == "choice" and len(set(options)) != len(options),
            boxes is not None and not all(conversations.is_box(box) for box in boxes),
            boxes is not None and not _same(boxes, said),
            kind == "close-ended" and turn["target"] is None,
        ]
        found += [(turn["turn"], rule) for rule, is_wrong in zip(CORE, wrong, strict=True) if is_wrong]
    return found


def looped(qa: pl.DataFrame) -> set[tuple[str, int]]:
    """(case, turn) of every question that breaks a rule, row by row from the table."""
    conversations: dict[str, list[dict]] = {}
    for row in qa.sort("sample_id", "turn").iter_rows(named=True):
        conversations.setdefault(row["sample_id"], []).append(row)
    return {(case, turn) for case, turns in conversations.items() for turn, _ in check(turns)}


def timed(work) -> tuple[float, object]:
    """(seconds, result) of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def _same(boxes: list[list[float]], said: list[list[float]]) -> bool:
    pairs = zip(sum(boxes, []), sum(said, []), strict=False)
    return len(said) == len(boxes) and all(abs(a - b) <= 0.0051 for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--loop", type=int, default=5_000)
    parser.add_argument("--patients", type=int, default=1_500)
    asked = parser.parse_args()

    given, places = broken(cases(asked.cases, asked.patients), 200)
    size = given.qa.estimated_size() + given.studies.estimated_size()
    print(f"{given.studies.height:,} cases, {given.qa.height:,} questions, {size / 2**20:.0f} MB of tables")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, report = timed(lambda: schema.validate(given))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = given.studies.height / seconds
    memory = f"peak memory {before:.0f} -> {peak:.0f} MB"
    print(f"validate, every rule: {seconds:.1f} s, {rate:,.0f} cases/s, {memory}")
    assert set(report.violations.select("case", "turn").rows()) == places, report.lines()[:5]

    some = given.studies[: asked.loop]
    qa = given.qa.join(some, on="sample_id", how="semi")
    seconds, found = timed(lambda: looped(qa))
    loop = some.height / seconds
    print(f"plain loop, {len(CORE)} rules: {seconds:.2f} s for {some.height:,} cases, {loop:,.0f} cases/s")
    asked_about = set(some["sample_id"])
    assert found == {place for place in places if place[0] in asked_about}
    print(f"validate checks {rate / loop:.1f} times the cases per second")


if __name__ == "__main__":
    main()
