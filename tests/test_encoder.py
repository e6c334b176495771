"""The encoder is an ordinary Hugging Face vision tower, and pretraining teaches it where things are."""

import numpy as np
import polars as pl
import pytest
import torch

from cxrtrek_lib import pretrain
from cxrtrek_lib.encoder import CxrEncoder, CxrEncoderConfig, waves

CONFIG = CxrEncoderConfig(findings=["opacity|left", "opacity|right", "cardiomegaly"], regions=["heart"])


def discs(n: int, size: int = 64) -> tuple[torch.Tensor, pretrain.Truth]:
    """Films with a bright disc in the left or right half, or none, and their exact truth."""
    generator = np.random.default_rng(0)
    films = generator.integers(60, 90, (n, 1, size, size))
    presence = np.zeros((n, 3), np.float32)
    boxes = np.full((n, 3, 4), np.nan, np.float32)
    rows, columns = np.mgrid[:size, :size]
    for i in range(n):
        if i % 3 == 2:
            continue
        x, y, r = generator.uniform(0.15, 0.35) + 0.5 * (i % 3), generator.uniform(0.2, 0.8), 0.1
        films[i, 0][(columns / size - x) ** 2 + (rows / size - y) ** 2 < r**2] += 110
        presence[i, i % 3] = 1
        boxes[i, i % 3] = x - r, y - r, x + r, y + r
    known = pretrain.Truth(
        presence=torch.from_numpy(presence),
        severity=torch.full((n, 3), -1),
        side=torch.tensor([[(0, 1, -1)[i % 3]] for i in range(n)]),
        finding_boxes=torch.from_numpy(boxes),
        region_boxes=torch.tensor([0.3, 0.4, 0.7, 0.8]).expand(n, 1, 4),
        projection=torch.zeros(n, dtype=torch.long),
        exposure=torch.ones(n, dtype=torch.long),
    )
    return torch.from_numpy(films.astype(np.uint8)), known


def test_tokens_have_the_stated_shape_and_computed_tokens_pass_through():
    encoder = CxrEncoder(CONFIG).eval()
    tokens = encoder(torch.zeros(2, 3, 224, 224)).last_hidden_state
    assert tokens.shape == (2, 49 + 3 + 1 + 1, CONFIG.hidden_size) == (2, CONFIG.n_tokens, CONFIG.hidden_size)
    assert encoder(tokens).last_hidden_state is tokens


def test_config_round_trips(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    again = CxrEncoderConfig.from_pretrained(tmp_path)
    assert (again.findings, again.regions, again.hidden_size) == (
        CONFIG.findings,
        CONFIG.regions,
        CONFIG.hidden_size,
    )


def test_standardised_channels_have_mean_0_and_spread_1_and_conclusions_stand_out():
    torch.manual_seed(0)
    encoder = CxrEncoder(CONFIG).eval()
    films = torch.rand(40, 3, 224, 224) * torch.rand(40, 1, 1, 1) * 2 - 1
    encoder.fit_standardisation([films[:20], films[20:]])
    tokens = encoder(films).last_hidden_state[..., : encoder.token_mean.shape[1]]
    tokens[..., -11:] /= 5  # presence, grade, box and side, the last of a token's channels before its name
    tokens[..., -3:] /= 0.4  # its side, which is rare
    tokens[..., :-11] /= 0.15  # what the convolutions saw
    varying = encoder.token_scale != 1
    assert varying.float().mean() > 0.5
    assert tokens.mean(0)[varying].abs().max() < 1e-3
    assert (tokens.std(0)[varying] - 1).abs().max() < 1e-2


def test_side_by_hand():
    encoder = CxrEncoder(CONFIG)
    for part in encoder.side_head.parameters():
        torch.nn.init.zeros_(part)
    odds = torch.tensor([[1.0, 3.0, 0.5]])  # of left present, 1 : 1, of right present, 3 : 1
    chance = encoder.side(odds.log(), torch.zeros(1, 3, 64)).softmax(-1)
    # Independent: left only 1/2 * 1/4, right only 1/2 * 3/4, both 1/2 * 3/4; none of these 1/8.
    assert chance[0, 0].tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7])


def test_waves_by_hand():
    assert waves(torch.tensor([0.25]), 2).tolist() == pytest.approx([2**-0.5, 1.0, 2**-0.5, 0.0], abs=1e-6)


def test_pretraining_finds_and_boxes_the_disc():
    torch.manual_seed(0)
    encoder = CxrEncoder(CONFIG)
    films, known = discs(132)
    films = torch.nn.functional.interpolate(films.float(), size=(224, 224)).to(torch.uint8)
    train, test = torch.arange(108), torch.arange(108, 132)
    curve = pretrain.fit(encoder, films[train], known.rows(train), epochs=6, batch=12, seed=0)
    assert curve[-1]["loss"] < curve[0]["loss"]
    with torch.no_grad():
        reading, *_ = encoder.read(pretrain.as_pixels(films[test]))
    truth = known.rows(test)
    right = ((reading.presence[:, :2] > 0) == (truth.presence[:, :2] == 1)).float().mean()
    assert right > 0.9
    sided = truth.side >= 0
    assert (reading.side.argmax(-1) == truth.side)[sided].float().mean() > 0.9
    here = truth.presence[:, :2] == 1
    error = (reading.finding_boxes[:, :2][here] - truth.finding_boxes[:, :2][here]).abs().mean()
    assert error < 0.06


def test_pretraining_in_bf16_is_that_in_fp32_but_for_its_rounding():
    films, known = discs(16, 224)
    loss = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        encoder = CxrEncoder(CONFIG)
        (row,) = pretrain.fit(encoder, films.to(torch.uint8), known, epochs=1, precision=precision, seed=0)
        loss[precision] = row["loss"]
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert loss["bf16"] == pytest.approx(loss["fp32"], rel=0.02) and loss["bf16"] != loss["fp32"]


def test_a_killed_pretraining_ends_with_the_same_weights(tmp_path, monkeypatch):
    films, known = discs(24, 224)
    films = films.to(torch.uint8)

    def trained(**more):
        torch.manual_seed(0)
        encoder = CxrEncoder(CONFIG)
        curve = pretrain.fit(encoder, films, known, epochs=3, seed=0, **more)
        return encoder.state_dict(), curve

    whole = trained()
    kept = {"checkpoint": tmp_path / "epoch.pt", "key": "run"}
    losses, calls = pretrain.loss, []

    def killed(reading, rows, weight):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch of three steps
            raise KeyboardInterrupt
        return losses(reading, rows, weight)

    monkeypatch.setattr(pretrain, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(**kept)
    monkeypatch.setattr(pretrain, "loss", losses)
    weights, curve = trained(**kept)
    assert curve == whole[1] and len(calls) == 5
    assert all(torch.equal(weights[name], value) for name, value in whole[0].items())
    assert trained(checkpoint=kept["checkpoint"], key="another run")[1] == curve  # starts anew


def test_truth_never_teaches_unknown_as_absent():
    films = pl.DataFrame(
        {
            "sample_id": ["a", "b", "c"],
            "image_id": [1, 1, 1],
            "projection": ["PA", "AP", "PA"],
            "exposure": ["adequate"] * 3,
        }
    )
    findings = pl.DataFrame(
        [
            ("a", 1, "opacity", "present", "left", "mild"),
            ("b", 1, "cardiomegaly", "absent", None, None),
            ("c", 1, "opacity", "present", "bilateral", None),
        ],
        schema=["sample_id", "image_id", "finding", "status", "laterality", "severity"],
        orient="row",
    )
    boxes = pl.DataFrame(
        [
            ("a", 1, "opacity", "left", 50.0, 20.0, 70.0, 40.0),
            ("a", 1, "heart", None, 30.0, 40.0, 70.0, 80.0),
        ],
        schema=["sample_id", "image_id", "target", "laterality", "x1", "y1", "x2", "y2"],
        orient="row",
    )
    known = pretrain.truth(films, findings, boxes, CONFIG)
    assert known.presence[0].tolist()[:2] == [1.0, 0.0] and known.presence[0, 2].isnan()
    assert known.presence[1, :2].isnan().all() and known.presence[1, 2] == 0.0
    assert known.severity.tolist() == [[0, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert known.side.tolist() == [[0], [-1], [2]]
    assert known.finding_boxes[0, 0].tolist() == pytest.approx([0.5, 0.2, 0.7, 0.4])
    assert known.region_boxes[0, 0].tolist() == pytest.approx([0.3, 0.4, 0.7, 0.8])
    assert known.projection.tolist() == [0, 1, 0]


def test_shift_moves_boxes_with_the_film():
    films, known = discs(3)
    moved, rows = pretrain.shift(films, known, 5, -3)
    assert torch.equal(moved[:, :, : 64 - 3, 5:], films[:, :, 3:, : 64 - 5].float())
    expected = known.finding_boxes[0, 0] + torch.tensor([5, -3, 5, -3]) / 64
    assert rows.finding_boxes[0, 0].tolist() == pytest.approx(expected.tolist())


def test_heat_target_peaks_in_the_box_and_is_empty_without_one():
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [float("nan")] * 4]])
    target = pretrain.heat_targets(boxes)[0]
    row, column = np.unravel_index(int(target[0].argmax()), (28, 28))
    assert (row, column) in {(r, c) for r in (20, 21) for c in (10, 11)}
    assert target[1].abs().max() == 0
