"""The whole pipeline, for real, at smoke size, in a scratch copy of the working tree (minutes)."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cxrtrek_lib import paths

MODES = ["predicted", "gold", "none", "shuffled", "flipped", "blank_image", "swapped_image", "untuned"]


def scratch_copy(target: Path) -> Path:
    """Copy what git would commit now (so uncommitted changes too), less every result, as a repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.returncode == 0, f"the scratch copy is made of what git lists: {listed.stderr.strip()}"
    for name in filter(None, listed.stdout.split("\0")):
        source = paths.ROOT / name
        if name == "dvc.lock" or name.startswith("reports/") or not source.is_file():
            continue  # results of other runs; files deleted but still in git's index
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / name)
    shutil.copy(paths.PROFILES / "smoke.yaml", target / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=target, check=True)
    return target


def environment() -> dict[str, str]:
    """The user's: nothing points at the repository that is tested, nor is as conftest.py wants it."""
    ours = ("PYTHONPATH", "MPLBACKEND", "OMP_NUM_THREADS")
    env = {key: value for key, value in os.environ.items() if key not in ours}
    return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}  # dvc.yaml says `python`


def repro(project: Path) -> str:
    """Run `dvc repro` in a scratch copy, its output shown as it comes; fails the test when it fails."""
    env = environment()
    env["DVC_SITE_CACHE_DIR"] = str(project / ".dvc" / "tmp" / "site")
    command = [sys.executable, "-m", "dvc", "repro"]
    process = subprocess.Popen(
        command, cwd=project, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        pytest.fail(f"dvc repro failed in {project}:\n{''.join(lines[-4:])}", pytrace=False)
    return "".join(lines)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A scratch copy in which the pipeline has run once; pytest keeps it only when a test here fails."""
    copy = scratch_copy(tmp_path_factory.mktemp("smoke"))
    start = time.monotonic()
    repro(copy)
    print(f"smoke pipeline: {time.monotonic() - start:.0f} s")
    return copy


def metrics(project: Path, name: str) -> dict:
    return json.loads((project / "reports" / "metrics" / f"{name}.json").read_text())


def is_score(row: dict) -> bool:
    """A score between 0 and 1 inside its interval, over at least one answer."""
    return row["n"] >= 1 and 0 <= row["low"] <= row["score"] <= row["high"] <= 1


pytestmark = pytest.mark.smoke


def test_dataset_metrics(project):
    found = metrics(project, "dataset")
    assert {"n_studies", "n_patients", "n_qa", "n_facts", "qa_per_study", "stages", "sha256"} <= set(found)
    assert set(found["stages"]) == set("12345678")
    # 400 patients of each of six sources were asked for.
    assert 0 < found["n_patients"] <= 6 * 400 and found["n_patients"] <= found["n_studies"] <= found["n_qa"]
    assert math.isclose(found["qa_per_study"], found["n_qa"] / found["n_studies"], rel_tol=0.01)


def test_evaluation_metrics(project):
    found = metrics(project, "evaluation")
    assert {*MODES, "majority"} - {"flipped"} <= set(found["overall"])  # an intervention, no system
    assert all(is_score(row) for row in found["overall"].values()), found["overall"]
    assert "stages" in found and "yes_no_balanced_accuracy" in found
    assert all(is_score(row) for row in found["grounding"]["region_box"]["scores"].values())


def test_training_metrics(project):
    found = metrics(project, "finetune")
    assert found["cases"]["train"] == 32 and found["encoder_epochs"] == 1
    assert found["decoder_steps"] >= 32 / 4  # one epoch in batches of 4
    assert all(math.isfinite(found[name]) for name in ("encoder_loss", "train_loss", "best_validation_loss"))


def test_ablation_metrics(project):
    found = metrics(project, "ablations")
    assert set(found["arms"]) == {"context", "no_context", "shuffled", "tuned_encoder", "majority"}
    for arm, contexts in found["arms"].items():
        assert set(contexts) == ({"none"} if arm == "majority" else {"predicted", "none"})
        assert all(is_score(scores["overall"]) for scores in contexts.values())
    assert len({scores["overall"]["n"] for arm in found["arms"].values() for scores in arm.values()}) == 1
    assert len(found["differences"]) == 7  # four arms, two contexts, less the reference
    assert not (project / "models" / "unfinished").exists() or not any(
        (project / "models" / "unfinished").iterdir()
    )


def test_the_model_card_goes_with_the_weights_and_gets_its_test_scores(project):
    card, scored = (
        (project / path).read_text() for path in ("models/trained/README.md", "reports/model_card.md")
    )
    assert "simulated radiographs; not for clinical use" in card and "Not yet scored" in card
    overall = metrics(project, "evaluation")["overall"]["predicted"]
    assert f"{overall['score']:.3f} ({overall['low']:.3f} to {overall['high']:.3f})" in scored


def test_transfer_metrics(project):
    found = metrics(project, "transfer")
    assert {name: entry["task"] for name, entry in found.items()} == {
        "nih": "classification", "openi": "VQA", "rsna": "classification", "vindr": "classification",
    }  # fmt: skip
    for entry in found.values():
        assert {"task", "metric", "score", "low", "high", "n", "image_origin"} <= set(entry)
        for row in entry["metrics"].values():
            readers = row["asked"] == "two readers"  # scored in the table itself, without a film
            assert row["image_origin"] == ("real (annotation table only)" if readers else "simulated")
            assert row["note"] if row["score"] is None else is_score(row), row


def test_every_declared_result_exists(project):
    """dvc.lock lists every output with its hash; none may be empty."""
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    results = [out["path"] for step in lock.values() for out in step["outs"]]
    for path in results:
        assert (project / path).exists() and (project / path).stat().st_size > 0, path
    figures = {Path(path).stem for path in results if Path(path).match("reports/figures/*.png")}
    for name in figures:
        assert (project / "reports" / "figures" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (project / "reports" / "figures" / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
    assert len(figures) >= 6


def test_nothing_is_written_that_no_step_declares(project):
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    results = [out["path"] for step in lock.values() for out in step["outs"]]
    for folder in ("data", "models", "predictions", "reports/figures", "reports/tables", "reports/metrics"):
        for file in (project / folder).rglob("*"):
            name = str(file.relative_to(project))
            known = any(name == out or name.startswith(f"{out}/") for out in results)
            # Named by the content that it follows from, and free to be deleted, like a compiled file.
            cache = name.startswith(("data/phantom/", "data/film_tokens/"))
            assert file.is_dir() or known or cache, f"{name}: no step declares it"


def test_the_report_is_there(project):
    page = (project / "reports" / "index.html").read_text()
    assert "<img" in page or "data:image" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="https://' not in page


def test_every_step_left_its_executed_copy(project):
    copies = sorted(path.name for path in (project / "reports" / "notebooks").glob("*"))
    assert not [name for name in copies if "failed" in name or "running" in name]
    assert {path.name.split(".")[0] for path in (project / "reports" / "notebooks").glob("*")} >= {
        "01_build_dataset", "02_dataset_statistics", "03_cohort_images", "04_finetune", "05_predict",
        "06_evaluate_stages", "07_external_transfer", "08_ablations", "09_report",
    }  # fmt: skip
    assert {f"05_predict.{mode}.ipynb" for mode in MODES} <= set(copies)


def test_the_exploratory_notebook_finds_what_the_pipeline_left(project):
    """It is no step. Every widget is drawn once, the trained model answers, nothing is written elsewhere."""
    ran = subprocess.run(
        [sys.executable, "-m", "cxrtrek_lib.run", "notebooks/explore.ipynb"],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    copy = json.loads((project / "reports" / "notebooks" / "explore.ipynb").read_text())
    outputs = [output for cell in copy["cells"] for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3  # a case, an answer on a film of the study, one on a real film
    assert any("Case viewer" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)


def test_a_second_run_does_nothing(project):
    before = (project / "dvc.lock").read_bytes()
    out = repro(project)
    assert "Running stage" not in out and "Data and pipelines are up to date." in out
    assert (project / "dvc.lock").read_bytes() == before


def test_one_number_in_a_caption_does_not_retrain(project):
    """Prediction and scoring are apart: more bootstrap resamples wake no step that needs the model."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("n_boot: 100", "n_boot: 101"))
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=project, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (project / "params.yaml").write_text(text)
    assert listed.returncode == 0, listed.stderr
    stale = {name.split("@")[0] for name in json.loads(listed.stdout)}
    assert {"evaluate_stages", "report"} <= stale
    assert not stale & {"build_dataset", "cohort_images", "external", "finetune", "predict", "ablations"}
