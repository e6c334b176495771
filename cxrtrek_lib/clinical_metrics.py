"""RadGraph-F1, CheXbert-F1, RaTEScore and GREEN of reports, by their authors' packages and local weights.

Each package wants other versions of torch and transformers than this study, so each runs in an interpreter of
its own (evaluate.clinical in params.yaml), offline:

    metric        package      weights, as the package keeps them in its cache
    RadGraph-F1   radgraph     RadGraph-XL; entities and whether they are related ("partial")
    CheXbert-F1   f1chexbert   CheXbert; micro-F1 over 14 labels, uncertain counted as present
    RaTEScore     RaTEScore    RaTE-NER-Deberta and BioLORD-2023-C
    GREEN         green-score  GREEN-radllama2-7b; needs a GPU

`weights` names a folder that served as HF_HOME and XDG_CACHE_HOME when the package ran once with a network.
The calls follow the interfaces that the packages document. They have NOT been run here with real weights: the
tests put stand-ins of these interfaces in their place.

    PYTHON clinical_metrics.py METRIC PAIRS.json SCORES.json

is what such an interpreter runs, so this file imports nothing but the standard library.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Pair = tuple[str, str]  # (annotated report, answer)
Parts = tuple[float, float]  # a score is the sum of the first over the sum of the second


def radgraph(pairs: Sequence[Pair]) -> list[Parts]:
    """Delbrouck et al. 2024, RadGraph-XL; reward level "partial" as in Delbrouck et al. 2022."""
    from radgraph import F1RadGraph

    gold, said = map(list, zip(*pairs, strict=True))
    _, rewards, *_ = F1RadGraph(reward_level="partial", model_type="radgraph-xl")(hyps=said, refs=gold)
    return [(float(reward), 1.0) for reward in rewards]


def chexbert(pairs: Sequence[Pair]) -> list[Parts]:
    """Smit et al. 2020: twice the labels in common over the labels of both, which sums to micro-F1."""
    from f1chexbert import F1CheXbert

    labeller = F1CheXbert()
    texts = dict.fromkeys(text for pair in pairs for text in pair)
    labels = {text: labeller.get_label(text) for text in texts}
    return [
        (
            2.0 * sum(a and b for a, b in zip(labels[gold], labels[said], strict=True)),
            float(sum(labels[gold]) + sum(labels[said])),
        )
        for gold, said in pairs
    ]


def ratescore(pairs: Sequence[Pair]) -> list[Parts]:
    """Zhao et al. 2024. A pair of which one text names no entity scores 0.5: the package's rule."""
    import torch
    from RaTEScore import RaTEScore

    gold, said = map(list, zip(*pairs, strict=True))
    return [(float(s), 1.0) for s in RaTEScore(use_gpu=torch.cuda.is_available()).compute_score(said, gold)]


def green(pairs: Sequence[Pair]) -> list[Parts]:
    """Ostmeier et al. 2024: a language model counts matched findings and significant errors."""
    from green_score import GREEN

    gold, said = map(list, zip(*pairs, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        _, _, found, *_ = GREEN("StanfordAIMI/GREEN-radllama2-7b", output_dir=folder)(gold, said)
    return [(float(score), 1.0) for score in found]


METRICS: dict[str, Callable[[Sequence[Pair]], list[Parts]]] = {
    "RadGraph-F1": radgraph, "CheXbert-F1": chexbert, "RaTEScore": ratescore, "GREEN": green,
}  # fmt: skip


def of_pairs(metric: str, pairs: Sequence[Pair], *, python: str, weights: str) -> dict[Pair, Parts]:
    """{pair: (above, below)}: a score is the sum of `above` over that of `below`, in [0, 1].

    pairs    (annotated report, answer); an empty answer, which a package may not take, has nothing above
    python   interpreter that has the metric's package
    weights  folder, see the head of this module
    Raises ValueError, one line, when the metric cannot be computed; nothing is downloaded.
    """
    for what, place in (("python", python), ("weights", weights)):
        if not Path(place).exists():
            raise ValueError(f"evaluate.clinical, {metric}: {what} {place} is not there")
    # An empty answer is compared as its annotated report with itself: what is below is then known.
    asked = list(dict.fromkeys((gold, said if said.strip() else gold) for gold, said in pairs))
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "pairs.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(asked), encoding="ascii")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        caches = dict.fromkeys(("HF_HOME", "XDG_CACHE_HOME"), str(Path(weights).resolve()))
        done = subprocess.run(
            [python, __file__, metric, str(given), str(found)],
            env=os.environ | offline | caches,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not found.is_file():
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise ValueError(f"evaluate.clinical, {metric}: {python} failed: {reason}")
        parts = json.loads(found.read_text(encoding="ascii"))
    if len(parts) != len(asked):
        raise ValueError(f"evaluate.clinical, {metric}: {len(parts)} scores for {len(asked)} pairs of texts")
    known = dict(zip(asked, parts, strict=True))
    return {pair: _parts(metric, pair, known) for pair in dict.fromkeys(pairs)}


def _parts(metric: str, pair: Pair, known: dict[Pair, Sequence[float]]) -> Parts:
    gold, said = pair
    if said.strip():
        return tuple(known[pair])
    below = known[gold, gold][1]
    return 0.0, below / 2 if metric == "CheXbert-F1" else below


def main() -> None:
    metric, given, found = sys.argv[1:]
    pairs = [tuple(pair) for pair in json.loads(Path(given).read_text(encoding="ascii"))]
    Path(found).write_text(json.dumps(METRICS[metric](pairs)), encoding="ascii")


if __name__ == "__main__":
    # The folder of this file comes first in the path of imports, and with it modules of the study's names.
    sys.path.pop(0)
    main()
