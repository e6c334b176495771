"""Clinical metrics of reports: the call of each package, by stand-ins of the interfaces that they document.

No weights are here: what is tested is what is handed over, what is made of what comes back, and what is said
when a package or its weights are not there.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score

from cxrtrek_lib import also_reported, clinical_metrics, metrics

# What each stand-in takes and returns is the package's own: argument names, order, shape of the result. Each
# notes how it was called.
NOTED = """
import json, os
def note(**called):
    keys = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "XDG_CACHE_HOME")
    called["env"] = {key: os.environ.get(key) for key in keys}
    open(os.environ["NOTED"], "w").write(json.dumps(called))
def overlap(a, b):
    a, b = set(a.split()), set(b.split())
    return len(a & b) / len(a | b)
"""
RADGRAPH = """
from noted import note, overlap
class F1RadGraph:
    def __init__(self, reward_level, model_type=None, **kwargs):
        self.made = dict(reward_level=reward_level, model_type=model_type)
    def __call__(self, refs, hyps):
        note(refs=refs, hyps=hyps, **self.made)
        rewards = [overlap(a, b) for a, b in zip(refs, hyps)]
        return sum(rewards) / len(rewards), rewards, [], []
"""
CHEXBERT = """
from noted import note
WORDS = ["enlarged", "cardiomegaly", "opacity", "lesion", "edema", "consolidation", "pneumonia",
         "atelectasis", "pneumothorax", "effusion", "pleural", "fracture", "tube", "normal"]
class F1CheXbert:
    def __init__(self, refs_filename=None, hyps_filename=None, device=None, **kwargs):
        note()
    def get_label(self, report, mode="rrg"):
        return [int(word in report.split()) for word in WORDS]
"""
RATESCORE = """
from noted import note, overlap
class RaTEScore:
    def __init__(self, bert_model="Angelakeke/RaTE-NER-Deberta", eval_model="FremyCompany/BioLORD-2023-C",
                 batch_size=1, use_gpu=True, visualization_path=None, affinity_matrix=None):
        self.use_gpu = use_gpu
    def compute_score(self, candidate_list, reference_list):
        note(hyps=candidate_list, refs=reference_list, use_gpu=self.use_gpu)
        return [overlap(a, b) for a, b in zip(candidate_list, reference_list)]
"""
GREEN = """
from noted import note, overlap
class GREEN:
    def __init__(self, model_name=None, output_dir=".", cpu=False):
        self.made = dict(model_name=model_name)
    def __call__(self, refs, hyps):
        note(refs=refs, hyps=hyps, **self.made)
        found = [overlap(a, b) for a, b in zip(refs, hyps)]
        return sum(found) / len(found), 0.0, found, "summary", None
"""
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
PACKAGES = {
    "noted": NOTED, "radgraph": RADGRAPH, "f1chexbert": CHEXBERT, "RaTEScore": RATESCORE,
    "green_score": GREEN, "torch": TORCH,
}  # fmt: skip
PAIRS = [
    ("effusion and edema", "effusion"),
    ("normal", "normal"),
    ("pneumothorax", ""),
    ("effusion and edema", "effusion"),
    ("cardiomegaly and tube", "edema and tube"),
]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins where the interpreter finds them, and a folder of weights: what `of_pairs` is told."""
    for name, code in PACKAGES.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTED", str(tmp_path / "noted.json"))
    return {"python": sys.executable, "weights": str(tmp_path / "weights")}


def score(parts: dict, pairs: list) -> float:
    above, below = np.array([parts[pair] for pair in pairs]).sum(0)
    return above / below


def overlap(a: str, b: str) -> float:
    return len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()}) if b else 0.0


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("RadGraph-F1", {"reward_level": "partial", "model_type": "radgraph-xl"}),
        ("RaTEScore", {"use_gpu": False}),
        ("GREEN", {"model_name": "StanfordAIMI/GREEN-radllama2-7b"}),
    ],
)
def test_a_metric_of_pairs_gets_each_pair_once_and_is_their_mean(packages, metric, said):
    parts = clinical_metrics.of_pairs(metric, PAIRS, **packages)
    assert score(parts, PAIRS) == pytest.approx(np.mean([overlap(*pair) for pair in PAIRS]))
    assert parts["pneumothorax", ""] == (0.0, 1.0), "an empty answer is wrong, not left out"
    called = json.loads(Path(os.environ["NOTED"]).read_text())
    # Annotated reports are the references; a pair is asked for once, an empty text never.
    assert called["refs"] == ["effusion and edema", "normal", "pneumothorax", "cardiomegaly and tube"]
    assert called["hyps"] == ["effusion", "normal", "pneumothorax", "edema and tube"]
    assert {key: called[key] for key in said} == said
    weights = packages["weights"]
    assert called["env"] == {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": weights, "XDG_CACHE_HOME": weights,
    }  # fmt: skip


def test_chexbert_is_the_micro_f1_of_all_labels(packages):
    parts = clinical_metrics.of_pairs("CheXbert-F1", PAIRS, **packages)
    words = ["cardiomegaly", "edema", "pneumothorax", "effusion", "tube", "normal"]
    gold, said = (np.array([[w in pair[i].split() for w in words] for pair in PAIRS]) for i in (0, 1))
    assert score(parts, PAIRS) == pytest.approx(f1_score(gold, said, average="micro"))
    assert parts["pneumothorax", ""] == (0.0, 1.0), "one label of the annotated report, none of the answer"


def test_what_is_not_there_is_told_in_one_line(packages, tmp_path):
    with pytest.raises(ValueError, match=r"^evaluate.clinical, GREEN: weights .*nowhere is not there$"):
        clinical_metrics.of_pairs("GREEN", PAIRS, **packages | {"weights": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=r"^evaluate.clinical, GREEN: python /no/python is not there$"):
        clinical_metrics.of_pairs("GREEN", PAIRS, **packages | {"python": "/no/python"})
    (tmp_path / "radgraph.py").unlink()
    with pytest.raises(ValueError, match=r"failed: ModuleNotFoundError: No module named 'radgraph'$"):
        clinical_metrics.of_pairs("RadGraph-F1", PAIRS, **packages)
    (tmp_path / "green_score.py").write_text("GREEN = lambda *a, **k: lambda *b: (0, 0, [1.0], '', None)")
    with pytest.raises(ValueError, match=r"GREEN: 1 scores for 4 pairs of texts$"):
        clinical_metrics.of_pairs("GREEN", PAIRS, **packages)


def scored(answers: list[str]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Questions (a report of each of 4 patients, and a yes/no question), answers, and these scored."""
    n = len(answers)
    about = {"sample_id": [f"s{i}" for i in range(n)], "stage": [8] * n, "qtype": ["captioning"] * n}
    gold = ["effusion and edema", "normal", "pneumothorax", "cardiomegaly and tube"]
    rest = dict.fromkeys(("option_list", "answer_list", "bbox_list", "target"), [None] * n)
    asked = {"turn": [0] * n, "answer": gold, "question": ["?"] * n, "fact": [""] * n}
    qa = pl.DataFrame({**about, **asked, **rest})
    other = {"turn": pl.lit(1, pl.Int64), "stage": pl.lit(2, pl.Int64), "answer": pl.lit("normal heart")}
    qa = pl.concat([qa, qa.with_columns(**other)])
    said = qa.select("sample_id", "turn", prob_answer=pl.lit(None, pl.Float64)).with_columns(
        answer=pl.Series([*answers, *["effusion"] * n])
    )
    studies = pl.DataFrame({"sample_id": about["sample_id"], "patient_id": [f"p{i}" for i in range(n)]})
    return qa, said, metrics.score_answers(qa, said, studies)


def test_rows_of_the_table_are_of_the_reports_alone_and_say_what_did_not_run(packages):
    answers = ["effusion", "normal", "", "edema and tube"]
    qa, said, rows = scored(answers)
    broken = packages | {"weights": "/no/weights"}
    table = also_reported.scores(
        qa, {"ours": said}, {"ours": rows}, n_boot=100, seed=0,
        clinical={"RadGraph-F1": packages, "CheXbert-F1": broken},
    )  # fmt: skip
    row = table.row(by_predicate=pl.col("metric") == "RadGraph-F1", named=True)
    wanted = np.mean([overlap(a, b) for a, b in zip(qa["answer"][:4], answers, strict=True)])
    assert (row["system"], row["n"], row["note"]) == ("ours", 4, "")
    assert row["score"] == pytest.approx(wanted) and row["low"] <= wanted <= row["high"]
    off = table.filter(pl.col("metric").is_in(["CheXbert-F1", "GREEN", "RaTEScore"]))
    assert off["score"].null_count() == 3 and off["note"].str.starts_with("not run: needs ").all()
    assert "weights /no/weights is not there" in off.row(0, named=True)["note"]
