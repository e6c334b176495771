"""Which systems lead at each stage: the highest mean, and every system not shown to be lower than it.

Tables print leaders in bold, so that no system is set apart by a difference that chance explains.
"""

import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib.evaluation import scores, sums
from cxrtrek_lib.inference_stats import holm, paired_difference

LEVEL = 0.05  # of the paired test, after Holm's correction over the systems of a row


def leaders(systems: dict[str, pl.DataFrame], *, n_boot: int, seed: int) -> pl.DataFrame:
    """Every system against the highest mean, stage by stage and overall.

    systems  name -> scored answers (metrics.score_answers), the same questions each
    Columns stage (1-8, null = overall), system, n (answers), score, leader (the highest mean; of equal ones
    the first), difference (system less leader, at most 0), low, high (95 %, patients resampled), p (paired
    patient-level randomisation test), p_holm (over the systems of the row), leads: not shown to be lower.
    """
    layouts = {name: sums(rows) for name, rows in systems.items()}
    first = next(iter(layouts.values()))
    rows = next(iter(systems.values()))
    parts = []
    for stage in tqdm([*sorted({stage for stage, _ in first.cells}), None], "paired tests", delay=5):

        def score(totals, stage=stage):
            _, stages, overall = scores(totals, first)
            return overall if stage is None else stages[:, stage - 1]

        found = {name: float(score(layout.values.sum(0)[None])[0]) for name, layout in layouts.items()}
        best = max(found, key=found.get)
        n = rows.height if stage is None else rows.filter(pl.col("stage") == stage).height
        tested = {
            name: paired_difference(layout.values, layouts[best].values, score, n_boot=n_boot, seed=seed)
            for name, layout in layouts.items()
            if name != best
        }
        p_holm = dict(zip(tested, holm([test["p"] for test in tested.values()]), strict=True))
        itself = {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
        for name in layouts:
            p = p_holm.get(name, 1.0)
            about = {"stage": stage, "system": name, "n": n, "score": found[name], "leader": best}
            parts.append(about | tested.get(name, itself) | {"p_holm": p, "leads": p >= LEVEL})
    return pl.DataFrame(parts, schema_overrides={"stage": pl.Int8})
