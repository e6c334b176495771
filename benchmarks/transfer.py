"""Speed of scoring an external dataset as large as NIH ChestX-ray14, beside scikit-learn draw by draw.

    PYTHONPATH=. python benchmarks/transfer.py [--films 112120] [--draws 1000]

Real film and patient numbers of the NIH table (30,805 patients), made-up labels and P(yes) of one finding.
AUROC, AP and F1 with their patient-cluster intervals, in the stage flow and alone with the paired difference,
as notebook 07 does. The alternative resamples the same patients with scikit-learn's functions; it is timed
on a few draws and extrapolated. One process.
"""

import argparse
import resource
import time

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cxrtrek_lib import transfer_scores, transfer_tasks
from cxrtrek_lib.inference_stats import cluster_weights
from cxrtrek_lib.sources import nih

DRAWS_OF_OTHER = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=nih.ENTRIES_SIZE[0])
    parser.add_argument("--draws", type=int, default=1000)
    asked = parser.parse_args()
    studies = nih.read().studies.head(asked.films)
    _, owner = np.unique(studies["patient_id"].to_numpy(), return_inverse=True)
    random = np.random.default_rng(0)
    labels = random.random(len(owner)) < 0.05
    chances = {
        run: 1 / (1 + np.exp(-(random.standard_normal(len(owner)) + labels))) for run in transfer_tasks.ASKED
    }
    start = time.process_time()
    limits = {run: transfer_scores.best_threshold(labels[:5000], p[:5000]) for run, p in chances.items()}
    scores = [transfer_scores.ranking(labels, values, owner, limits[run]) for run, values in chances.items()]
    both = transfer_scores.resampled(
        lambda weights: np.stack([score(weights) for score in scores], 1),
        owner.max() + 1,
        n_boot=asked.draws,
        seed=0,
    )
    draws = {run: both[:, place] for place, run in enumerate(chances)}
    rows = transfer_tasks.compared("AUROC", {run: drawn[:, 0] for run, drawn in draws.items()})
    took = time.process_time() - start
    print(f"{len(owner):,} films, {owner.max() + 1:,} patients, {asked.draws} draws: {took:.1f} CPU-s "
          "for both ways of asking")  # fmt: skip
    print(f"AUROC {rows[0]['score']:.4f} ({rows[0]['low']:.4f} to {rows[0]['high']:.4f})")

    start = time.process_time()
    weights = np.concatenate(list(cluster_weights(owner.max() + 1, DRAWS_OF_OTHER, 0)))
    worst = 0.0
    for place, row in enumerate(weights, start=1):
        drawn, values = row[owner], chances[transfer_tasks.FLOW]
        other = (
            roc_auc_score(labels, values, sample_weight=drawn),
            average_precision_score(labels, values, sample_weight=drawn),
            f1_score(labels, values >= limits[transfer_tasks.FLOW], sample_weight=drawn),
        )
        worst = max(worst, np.abs(draws[transfer_tasks.FLOW][place] - other).max())
    other_took = (time.process_time() - start) / DRAWS_OF_OTHER * asked.draws
    ratio = other_took / (took / len(draws))
    print(f"scikit-learn on the same draws: {other_took:.0f} CPU-s, {ratio:.1f} times as long; largest "
          f"difference of a draw {worst:.1e}")  # fmt: skip
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
