"""Films of one study: build the scene of its findings once, project it in every view, tell its truth."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from cxrtrek_lib.simulate import (
    acquisition,
    boxed,
    catalogue,
    detector,
    devices,
    diffuse,
    geometry,
    habitus,
    heart,
    layers,
    lungs,
    mediastinum,
    nodules,
    patient,
    phantom,
    plan,
    pleura,
    projector,
    quality,
    shapes,
    strokes,
    truth,
)
from cxrtrek_lib.simulate.geometry import Geometry
from cxrtrek_lib.simulate.layers import Layer
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.simulate.truth import Key, Seen

SIZES = (128, 1024)
# Finding -> its layers, in the order in which they are laid: what comes later lies inside what was before. A
# pneumothorax is first: it replaces the whole lung, and the other findings move with what is left of it.
LAYERS = {
    "pneumothorax": pleura.LAYERS["pneumothorax"],
    **heart.LAYERS,
    **mediastinum.LAYERS,
    **diffuse.LAYERS,
    **lungs.LAYERS,
    **nodules.LAYERS,
    **pleura.LAYERS,
}
IN_LUNG = {*diffuse.LAYERS, *lungs.LAYERS, *nodules.LAYERS}  # they move with a collapsing lung


class Scene(NamedTuple):
    """A patient with findings, ready to be projected in any view.

    body, lesions  whose scene it is
    anatomy  the phantom of this scene
    base     density relative to water, float32 (Y, Z, X), of the patient without the layers
    volume   the same with them
    layers   in the order in which they were laid
    strokes  parts of each device
    """

    body: patient.Body
    lesions: list[Lesion]
    anatomy: phantom.Phantom
    base: np.ndarray
    volume: np.ndarray
    layers: list[Layer]
    strokes: dict[Key, list[strokes.Stroke]]


def film(study: dict, size_px: int = 224, seed: int = 0) -> tuple[np.ndarray, dict]:
    """The film of a study in its own view, study["view"], and its truth; see `films`."""
    return films(study, (study["view"],), size_px, seed)[0]


def films(
    study: dict, views: tuple[str, ...], size_px: int = 224, seed: int = 0
) -> list[tuple[np.ndarray, dict]]:
    """Films of one study, one per view, and their truths; the scene is built once.

    study  {"sample_id", "patient_id", "view": one of acquisition.VIEWS, "sex": "M" | "F" | None,
            "exposure": None | one of tables.EXPOSURES (optional), "findings": [{"finding", "status",
            "laterality", "severity", "location", "boxes"}]}; the last four may be None or missing. "boxes",
            of a lung opacity only: {side: where a reader boxed it on the first view's film} (boxed.py)
    size_px  side of the film, 128 to 1024 pixels
    A film is (image float32 (size_px, size_px) in [0, 1], 1 = white; row 0 on top; of a frontal film, the
    patient's right on the image's left) and a dict: what `quality.facts` and `truth.told` (findings,
    not_visible, undecided) say, sex, cardiothoracic_ratio (None on a lateral film) and regions {name: box}.
    Boxes are [x1, y1, x2, y2] in percent. The same arguments give the same film on every machine with the
    same NumPy build: one thread, whatever the caller allows. Raises ValueError (one line).
    """
    with _threads().limit(limits=1):
        return _films(study, views, size_px, seed)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _films(study: dict, views: tuple[str, ...], size_px: int, seed: int) -> list[tuple[np.ndarray, dict]]:
    if not SIZES[0] <= size_px <= SIZES[1]:
        raise ValueError(f"size_px = {size_px}: films are {SIZES[0]} to {SIZES[1]} pixels wide")
    plans = plan.resolve(study, seed)
    shots = [acquisition.acquisition(seed, study["sample_id"], view, study.get("exposure")) for view in views]
    body = patient.body(seed, study["patient_id"], study.get("sex"))
    source = phantom.load()
    geos = [geometry.geometry(body, shot, source.hu.shape, source.spacing) for shot in shots]
    lesions = [each for one in plans for each in plan.lesions(one, study["patient_id"], seed)]
    lesions = boxed.with_places(lesions, study["findings"], geos[0])
    lacking = without_movers(lesions, body)
    scene = build(lesions, body)
    made = []
    for shot, geo, seen in zip(shots, geos, evidence(scene, lacking, geos), strict=True):
        regions = truth.region_boxes(geo, outlines(scene, geo.lateral))
        facts = quality.facts(scene.anatomy, shot, geo)
        shown, hidden, undecided = truth.told(plans, seen, regions, shot.view, facts["clipped"])
        facts |= {
            "sex": body.sex,
            "cardiothoracic_ratio": None if geo.lateral else _cardiothoracic_ratio(regions),
            "findings": shown,
            "not_visible": hidden,
            "undecided": undecided,
            "regions": regions,
        }
        # The film may be collimated to less than the detector.
        image = detector.develop(water(scene, geo, size_px), shot._replace(field_mm=geo.field))
        made.append((image, facts))
    return made


def build(lesions: list[Lesion], body: patient.Body) -> Scene:
    """The scene of a patient's lesions."""
    anatomy = shapes.deformed(phantom.load(), lesions)
    base = habitus.tissue(anatomy, body)
    by_finding = {name: [each for each in lesions if each.finding == name] for name in catalogue.SHOWN}
    laid = []
    for name, layers_of in LAYERS.items():
        for lesion in by_finding[name]:
            parts = layers_of(anatomy, base, lesion)
            for air in by_finding["pneumothorax"] if name in IN_LUNG else ():
                parts = [each for part in parts for each in _with_lung(part, anatomy, air)]
            laid += parts
    volume = base.copy()
    for layer in laid:
        layers.lay(volume, layer)
    parts = {
        (each.finding, each.side): parts_of(anatomy, each)
        for name, parts_of in devices.STROKES.items()
        for each in by_finding[name]
    }
    return Scene(body, lesions, anatomy, base, volume, laid, parts)


def _with_lung(part: Layer, anatomy: phantom.Phantom, air: Lesion) -> list[Layer]:
    """A layer of the lungs when the lung on one side has collapsed: what lies in that lung goes with it."""
    if part.side == air.side:
        return [pleura.collapsed(part, anatomy, air)]
    inside = anatomy.lung[air.side][part.box] > 0
    if part.side is not None or not inside.any():
        return [part]
    return [
        pleura.collapsed(part._replace(alpha=part.alpha * inside), anatomy, air),
        layers.tight(part._replace(alpha=part.alpha * ~inside)),
    ]


def outlines(scene: Scene, lateral: bool) -> dict[str, np.ndarray]:
    """Region -> points whose projection spans it, with the heart and vessels as large as they are here."""
    enlarged = [each.within(heart.HEART_SCALE) for each in scene.lesions if each.finding == "cardiomegaly"]
    scale = max([1.0, scene.body.heart, *enlarged])
    return mediastinum.outlines(scene.anatomy, scale, scene.lesions, lateral)


def water(scene: Scene, geo: Geometry, size_px: int) -> np.ndarray:
    """What one film's rays pass, float32 (size_px, size_px), mm of water."""
    samples = round(size_px * projector.MARGIN)
    plane = projector.project(scene.volume, projector.weights(geo, scene.volume.shape, samples))
    plane += habitus.drawn(scene.anatomy, scene.body, geo, samples)
    film_mm = np.maximum(projector.to_film(geo, plane, size_px), 0)
    for parts in scene.strokes.values():
        film_mm += strokes.draw(parts, geo, size_px)
    return film_mm


def without_movers(lesions: list[Lesion], body: patient.Body) -> dict[Key, np.ndarray]:
    """The patient's volume without each finding that moves others: SHAPES, a pneumothorax with lung lesions.

    For all other findings it is enough to leave out their layers (`alone`). To be built before the scene
    itself: two deformed phantoms at a time would take more than 1 GB.
    """
    volumes = {}
    for key in dict.fromkeys((each.finding, each.side) for each in lesions):
        name, side = key
        rest = [each for each in lesions if (each.finding, each.side) != key]
        of_lung = any(each.finding in IN_LUNG and each.side in (side, None) for each in rest)
        if name in shapes.SHAPES or name == "pneumothorax" and of_lung:
            volumes[key] = build(rest, body).volume
    return volumes


def alone(scene: Scene, lacking: dict[Key, np.ndarray]) -> Iterator[tuple[Key, layers.Box, np.ndarray]]:
    """(finding, box, change of density) of all that is tissue: the scene with a finding less that without.

    Without it means without it alone, so that what another finding hides does not count. lacking: of
    `without_movers`. One change at a time, since each may be as large as the volume.
    """
    for key in dict.fromkeys((each.finding, each.side) for each in scene.lesions):
        mine = [each.box for each in scene.layers if (each.finding, each.side) == key]
        if key in lacking:
            yield key, tuple(slice(0, n) for n in scene.volume.shape), scene.volume - lacking[key]
        elif mine:
            box = layers.union(mine)
            yield key, box, scene.volume[box] - layers.without(scene.base, scene.layers, *key, box)


def evidence(scene: Scene, lacking: dict[Key, np.ndarray], geos: list[Geometry]) -> list[dict[Key, Seen]]:
    """(visibility, box) of every finding on each film, from what its tissue or its device changes there."""
    size = truth.TRUTH_SIZE
    found: list[dict[Key, Seen]] = [{} for _ in geos]
    planes: list[tuple[projector.Weights, np.ndarray]] = []
    for key, box, change in alone(scene, lacking):
        planes = planes or [
            (projector.weights(geo, scene.volume.shape, size),
             projector.percent(geo, projector.plane_on_film(geo, size)))
            for geo in geos
        ]  # fmt: skip
        for seen, (weights, placed) in zip(found, planes, strict=True):
            mm, window = projector.project_part(change, weights, box)
            at, pixel = placed[window].reshape(-1, 2), 100 * projector.MARGIN / size
            seen[key] = truth.film_change(at, np.abs(mm).ravel(), pixel)
    centres = 100 * (np.arange(size) + 0.5) / size
    at = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    for key, parts in scene.strokes.items():
        for seen, geo in zip(found, geos, strict=True):
            # Dense parts count no more than clear ones, else a generator's box would leave out its leads.
            mm = np.minimum(strokes.draw(parts, geo, size), strokes.CLEAR_MM)
            seen[key] = truth.film_change(at, mm.ravel(), 100 / size, trim=0.0)
    return found


def _cardiothoracic_ratio(regions: dict[str, list[float]]) -> float | None:
    """Width of the heart over the inner width of the chest, from their boxes; None when one is cut off."""
    if not {"heart", "left lung", "right lung"} <= set(regions):
        return None
    heart = regions["heart"]
    return round((heart[2] - heart[0]) / (regions["left lung"][2] - regions["right lung"][0]), 3)
