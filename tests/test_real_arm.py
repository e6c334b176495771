"""The arms on real NIH films: patients apart, nothing chosen on what is scored, scores as scikit-learn's."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from tables_by_hand import studies as studies_of

from cxrtrek_lib import paths, real_arm, real_arm_scores, real_tuning, tables
from cxrtrek_lib.encoder import CxrEncoder, CxrEncoderConfig
from cxrtrek_lib.real_arm import FROZEN, GREY_LEVELS, NO_ENCODER, SCRATCH, SIMULATED, TASKS, TUNED, UNTOUCHED
from cxrtrek_lib.sources import nih

NIH_SAMPLE = paths.ROOT.parent / "shared" / "nih_sample"
DRAWS = {"n_boot": 300, "seed": 0}
CHOSEN = [
    {"start": start, "adapted": TUNED, "epoch": epoch}
    for start, epoch in ((SIMULATED, real_tuning.EPOCHS), (SIMULATED, 1), (SCRATCH, 2))
] + [{"start": SCRATCH, "adapted": FROZEN, "penalty": 1.0}]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CxrEncoder(CxrEncoderConfig(findings=["consolidation|left", "edema"], regions=["heart"])).eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A root with a training cohort of other patients; returns the folder for films."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "FILMS", tmp_path / "cohorts")
    training = studies_of({"sample_id": "chexpert/a", "source": "chexpert", "patient_id": "chexpert/a"})
    tables.write_table("studies", training, tmp_path / "cohorts" / "training" / "studies.parquet")
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def listed(n, labels=("Pneumonia|Edema", "No Finding")):
    """n films of n / 2 patients in turn of each label and view, as nih.films gives them."""
    return pl.DataFrame({
        "patient_id": [f"nih/{i // 2:08}" for i in range(n)],
        "image": [f"{i // 2:08}_{i % 2:03}.png" for i in range(n)],
        "view": ["AP" if i // 2 % 2 else "PA" for i in range(n)],
        "labels": [labels[i // 4 % len(labels)].split("|") for i in range(n)],
    })  # fmt: skip


def write(folder, table, px=64):
    """Films that show their answers: bright above with pneumonia, bright on the left when AP."""
    for image, view, labels in table.select("image", "view", "labels").iter_rows():
        film = np.random.default_rng(int(image[:8])).integers(0, 90, (px, px), dtype=np.uint8)
        film[: px // 2] += 80 * ("Pneumonia" in labels)
        film[:, : px // 2] += 80 * (view == "AP")
        Image.fromarray(film).save(folder / image)


def real_films(folder, monkeypatch, table, n_folds=2):
    monkeypatch.setattr(real_arm, "FOLDS", n_folds)
    monkeypatch.setattr(nih, "films", lambda: table)
    return real_arm.films("films", size=224, seed=0)


# Which films


def test_the_labels_of_the_table_are_those_of_the_release():
    films = nih.films()
    assert films.height == 112_120 and films["patient_id"].n_unique() == 30_805
    counts = dict(films["labels"].explode().value_counts().iter_rows())
    assert (counts["Pneumonia"], counts["No Finding"]) == (1_431, 60_361)


def test_films_are_read_counted_and_split_by_patient(folder, monkeypatch):
    table = listed(60, ("Pneumonia", "No Finding", "Edema"))
    write(folder, table)
    (folder / table["image"][0]).write_bytes(b"nothing")
    (folder / "IMG_1.png").write_bytes((folder / table["image"][1]).read_bytes())
    (folder / table["image"][59]).unlink()
    real = real_films(folder, monkeypatch, table)
    edema = table.head(59).filter(pl.col("labels") == ["Edema"]).height
    assert real.left_out == {
        real_arm.NEITHER: edema, real_arm.NOT_NEEDED: 0, "several different films of one name": 0,
        "film that cannot be read": 1, "name that is not in the table": 1,
    }  # fmt: skip
    assert real.unreadable[0].startswith(f"{table['image'][0]}: not a PNG")
    assert real.table.height == 59 - edema - 1 == len(real.pixels)
    assert real.table.group_by("patient_id").agg(pl.col("fold").n_unique())["fold"].max() == 1
    for row, film in zip(real.table.iter_rows(named=True), real.pixels, strict=True):
        left, right = film[0, :, :100].float().mean(), film[0, :, 124:].float().mean()
        assert (left > right + 40) == row["AP view"] and row["image"].startswith(row["patient_id"][4:])


def test_of_many_films_as_many_of_each_label_are_taken(folder, monkeypatch):
    table = listed(96)
    write(folder, table, px=32)
    monkeypatch.setattr(real_arm, "MOST", 60)
    real = real_films(folder, monkeypatch, table)
    assert real.table["pneumonia"].sum() == 30 and real.table.height == 60
    assert real.left_out[real_arm.NOT_NEEDED] == 36


def test_too_few_patients_and_patients_trained_on_are_refused(folder, monkeypatch):
    table = listed(12)
    write(folder, table, px=32)
    with pytest.raises(ValueError, match="2 folds need at least 4 of each of the four"):
        real_films(folder, monkeypatch, table)
    training = studies_of({"sample_id": "a", "source": "chexpert", "patient_id": "nih/00000003"})
    tables.write_table("studies", training, paths.FILMS / "training" / "studies.parquet")
    with pytest.raises(ValueError, match=r"leakage: patients .* \(1\): nih/00000003"):
        real_films(folder, monkeypatch, table)


@pytest.mark.parametrize("fold", range(real_arm.FOLDS))
def test_no_patient_is_in_two_parts_and_every_film_is_in_one(fold):
    random = np.random.default_rng(0)
    patients = random.integers(0, 90, 200)
    table = pl.DataFrame(
        {"patient_id": patients, "pneumonia": patients % 2 == 0, "AP view": patients % 3 == 0}
    )
    folds = np.zeros(200, dtype=int)
    for number, (_, test) in enumerate(real_arm._split(patients % 4, patients, 0)):
        folds[test] = number
    part = real_arm.parts(table.with_columns(fold=folds), fold, 0)
    assert sorted(np.concatenate(part)) == list(range(200))
    owners = [set(patients[each]) for each in part]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert set(folds[part.test]) == {fold} and min(map(len, part)) >= 20


# Arms


def third(n):
    return real_tuning.Parts(np.arange(n)[::3], np.arange(n)[1::3], np.arange(n)[2::3])


def test_the_probe_finds_what_is_there_and_looks_at_no_test_label():
    random = np.random.default_rng(0)
    label, part = random.random(300) < 0.5, third(300)
    seen = random.normal(size=(300, 20)).astype(np.float32)
    seen[:, 3] += 4 * label
    score, penalty = real_arm.probe(seen, label, part, 0)
    assert roc_auc_score(label[part.test], score) > 0.95 and penalty in real_arm.PENALTIES
    other = label.copy()
    other[part.test] = ~other[part.test]
    assert np.array_equal(real_arm.probe(seen, other, part, 0)[0], score)


def test_tuning_learns_keeps_the_given_encoder_and_looks_at_no_test_label(encoder):
    n, part = 24, third(24)
    part = part._replace(train=np.tile(part.train, 15))  # steps enough for the running means of batch norm
    labels = np.array([[i % 2 == 0, i // 3 % 2 == 0] for i in range(n)])
    pixels = torch.randint(0, 90, (n, 1, 224, 224), generator=torch.Generator().manual_seed(0))
    pixels[labels[:, 0], :, :112] += 120
    pixels[labels[:, 1], :, :, :112] += 40
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    given = {"rate": 1e-3, "epochs": 2, "seed": 1}
    losses, logits = real_tuning.tune(encoder, pixels.to(torch.uint8), labels, part, **given)
    assert losses.shape == (2, 2) and logits.shape == (2, 8, 2)
    assert roc_auc_score(labels[part.test, 0], logits[-1, :, 0]) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    labels[part.test] = ~labels[part.test]
    again = real_tuning.tune(encoder, pixels.to(torch.uint8), labels, part, **given)
    assert np.array_equal(again[1], logits)


def test_rate_and_epoch_are_those_of_the_lowest_validation_loss(encoder, monkeypatch):
    losses = {3e-4: [[0.5, 0.1], [0.2, 0.4]], 1e-3: [[0.3, 0.3], [0.3, 0.05]]}
    logits = np.array([[[1.0]], [[2.0]]]) * np.ones((2, 4, 2))  # epoch 1 says 1, epoch 2 says 2
    told = {rate: (np.array(each), rate * logits) for rate, each in losses.items()}

    class Inline:
        """Runs a job when it is handed in."""

        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, job, *given, rate, **rest):
            future = real_tuning.as_completed.__globals__["Future"]()
            future.set_result(told[rate])
            return future

    monkeypatch.setattr(real_tuning.pools, "spawned", Inline)
    best = real_tuning.tune_all({"a": encoder}, torch.zeros(4), np.zeros((4, 2)), [None], seed=0)
    assert (best["a", 0, 0].rate, best["a", 0, 0].epoch, best["a", 0, 0].logits[0]) == (3e-4, 2, 6e-4)
    assert (best["a", 0, 1].rate, best["a", 0, 1].epoch, best["a", 0, 1].logits[0]) == (1e-3, 2, 2e-3)


def test_histograms_are_shares():
    pixels = torch.tensor([[[[0, 7], [8, 255]]]], dtype=torch.uint8)
    shares = real_arm.histograms(pixels)
    assert shares.shape == (1, 32) and shares.sum() == 1
    assert (shares[0, 0], shares[0, 1], shares[0, 31]) == (0.5, 0.25, 0.25)


# Scores


def hand_answers(gain=0.0):
    """80 films of 40 patients in two folds; `gain` is what pretraining adds to arms that know nothing."""
    random = np.random.default_rng(4)
    rows = []
    for task in TASKS:
        label = random.random(80) < 0.5
        arms = [(start, adapted) for start in (SIMULATED, SCRATCH) for adapted in (FROZEN, TUNED)]
        for start, adapted in [*arms, (SIMULATED, UNTOUCHED), (NO_ENCODER, GREY_LEVELS)]:
            signal = gain if start == SIMULATED else 0.0
            score = (
                random.normal(size=80) + signal * label + 100 * (np.arange(80) % 2)
            )  # folds of other scales
            for i in range(80):
                rows.append((f"{i:03}", f"p{i // 2}", i % 2, bool(label[i]), task, start, adapted, score[i]))
    names = ["image", "patient_id", "fold", "label", "task", "start", "adapted", "score"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_scores_are_scikit_learns_on_ranks_within_folds():
    answers = hand_answers(gain=1.0)
    table = real_arm_scores.scores(answers.sample(fraction=1, shuffle=True, seed=0), **DRAWS)
    assert table.height == 2 * 6 + 1
    arm = answers.filter(task="pneumonia", start=SIMULATED, adapted=TUNED).sort("image")
    score, fold = arm["score"].to_numpy(), arm["fold"].to_numpy()
    ranks = np.zeros(80)
    for one in (0, 1):
        ranks[fold == one] = rankdata(score[fold == one]) / 41
    row = table.filter(task="pneumonia", start=SIMULATED, adapted=TUNED).row(0, named=True)
    assert row["auroc"] == pytest.approx(roc_auc_score(arm["label"], ranks))
    assert (row["n"], row["n_positive"], row["n_patients"]) == (80, arm["label"].sum(), 40)
    assert row["low"] < row["auroc"] < row["high"]
    alone = table.row(by_predicate=pl.col("adapted") == real_arm_scores.VIEW_ALONE, named=True)
    assert alone["task"] == "pneumonia" and alone["auroc"] >= 0.5  # called in the better direction


def test_the_answer_in_words_follows_the_intervals():
    helped = real_arm_scores.differences(hand_answers(gain=4.0), **DRAWS)
    assert helped.height == 8 and helped["pretraining"].sum() == 4
    assert (helped["joint_low"] < helped["low"]).all() and (helped["joint_high"] >= helped["high"]).all()
    assert real_arm_scores.words(helped, [])[0].endswith("Yes, in all 4 comparisons.")
    none = real_arm_scores.words(real_arm_scores.differences(hand_answers(), **DRAWS), CHOSEN)
    assert none[0].endswith("No: in none of 4 comparisons is it shown to help.")
    assert none[-1].startswith("The best epoch was the last of 6 in 1 of 2 from simulated films, 0 of 1 from")
    assert len(none) == 6 and "pneumonia, frozen encoder: no difference shown (" in none[1]
    gaps = helped.with_columns(joint_low=pl.when(pl.col("task") == "AP view").then(-1.0).otherwise("low"))
    some = real_arm_scores.words(gaps, [])[0]
    assert some.endswith("In 2 of 4 comparisons; in the others no difference is shown.")
    harm = real_arm_scores.words(helped.with_columns(joint_low=-0.2, joint_high=-0.1), [])[0]
    assert harm.endswith("No: it harms in 4 of 4 comparisons and is not shown to help in any.")


def test_what_was_not_run_says_so_everywhere(folder, monkeypatch, encoder):
    assert real_arm.load(None, folder, seed=0) == (real_arm.NOT_RUN, None, None)
    table, gaps = real_arm_scores.nothing()
    _, data, caption = real_arm_scores.forest(table, status=real_arm.NOT_RUN, n_boot=60)
    assert data.height == 0 and caption.endswith(f"{real_arm.NOT_RUN}.")
    told = real_arm_scores.metrics(real_arm.NOT_RUN, None, table, gaps, [])
    assert told == {"status": real_arm.NOT_RUN}  # no number, least of all 0
    monkeypatch.setattr(real_arm.model, "load", lambda *_, **__: ("model", "processor"))
    monkeypatch.setattr(real_arm.model, "vision_tower", lambda _: torch.nn.Identity())
    assert real_arm.load("films", folder, seed=0) == (real_arm.FOREIGN, None, None)
    monkeypatch.setattr(real_arm.model, "vision_tower", lambda _: encoder)
    films = listed(12)
    write(folder, films, px=32)
    monkeypatch.setattr(nih, "films", lambda: films)
    status, *nothing = real_arm.load("films", folder, seed=0)
    assert nothing == [None, None]
    assert status.startswith("not run: images.roots.nih: films: 1 patients with one of pneumonia or none")


def inline(encoders, pixels, labels, split, *, seed, workers=None):
    """tune_all with one epoch, one rate and no processes."""
    best = {}
    for name, each in encoders.items():
        for fold, part in enumerate(split):
            _, logits = real_tuning.tune(each, pixels, labels, part, rate=1e-3, epochs=1, seed=seed + fold)
            for task in range(labels.shape[1]):
                best[name, fold, task] = real_tuning.Tuned(logits[0, :, task], 1e-3, 1)
    return best


def whole(real, encoder, monkeypatch):
    """answers and metrics of all arms on these films."""
    monkeypatch.setattr(real_arm, "tune_all", inline)
    answers, chosen = real_arm.answers(encoder, real, seed=0)
    arms = answers.group_by("task", "start", "adapted").agg(pl.col("image").n_unique().alias("n"), pl.len())
    assert arms.height == 2 * 6 and set(arms["n"]) == set(arms["len"]) == {real.table.height}
    assert len(chosen) == 2 * 2 * 5  # tasks, folds, arms that chose
    table, gaps = real_arm_scores.scores(answers, **DRAWS), real_arm_scores.differences(answers, **DRAWS)
    told = real_arm_scores.metrics("run", real, table, gaps, chosen)
    _, data, caption = real_arm_scores.forest(table, status="run", n_boot=60)
    assert data.height == 13 and f"{real.table.height} real films" in caption
    return json.loads(json.dumps(told))


def test_all_arms_on_films_whose_answers_can_be_seen(folder, monkeypatch, encoder):
    table = listed(32)
    write(folder, table)
    told = whole(real_films(folder, monkeypatch, table), encoder, monkeypatch)
    area = {arm: each["auroc"] for arm, each in told["auroc"]["pneumonia"].items()}
    assert area[f"{NO_ENCODER}, {GREY_LEVELS}"] > 0.7 and told["n_films"] == 32


@pytest.mark.skipif(not NIH_SAMPLE.is_dir(), reason=f"no real films: {NIH_SAMPLE} is not at hand")
def test_all_arms_on_two_dozen_real_nih_films(folder, monkeypatch, encoder):
    there = {path.name: path for path in NIH_SAMPLE.glob("*.png")}
    table = nih.films().filter(pl.col("image").is_in(list(there))).unique("patient_id", maintain_order=True)
    ill = pl.col("labels").list.contains("Pneumonia")
    table = table.filter(pl.int_range(pl.len()).over(ill, "view") < 6)
    for image in table["image"]:
        (folder / image).symlink_to(there[image])
    told = whole(real_films(folder, monkeypatch, table), encoder, monkeypatch)
    assert (told["n_films"], told["n_patients"], told["image_origin"]) == (24, 24, "real")
    assert told["n_positive"] == {"pneumonia": 12, "AP view": 12} and len(told["answer"]) == 6
