"""One film from the facts of one study: decide what is open, build the scene, project it, tell its truth."""

from functools import cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from cxrtrek_lib import draws
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.simulate import detector, devices, lesions, patient, phantom, projector, truth
from cxrtrek_lib.tables import SEVERITIES

RENDERABLE = ("pleural effusion", "cardiomegaly", "consolidation", "pneumothorax", "pacemaker")
SIZES = (128, 1024)

# Findings with sides and the share of each side when the annotation leaves it open; findings with grades and
# the shares of mild, moderate and severe.
SIDED = {
    "pleural effusion": {"left": 0.33, "right": 0.33, "bilateral": 0.34},
    "consolidation": {"left": 0.38, "right": 0.42, "bilateral": 0.20},
    "pneumothorax": {"left": 0.45, "right": 0.55},
    "pacemaker": {"left": 0.8, "right": 0.2},
}
GRADED = ("pleural effusion", "cardiomegaly", "consolidation", "pneumothorax")
_SEVERITY_SHARES = {"mild": 0.34, "moderate": 0.36, "severe": 0.30}


class Planned(NamedTuple):
    """A finding of the scene, nothing left open. drawn: names of the attributes that the hash decided."""

    finding: str
    laterality: str | None
    severity: str | None
    location: str | None
    drawn: tuple[str, ...]


def film(study: dict, size_px: int = 224, seed: int = 0) -> tuple[np.ndarray, dict]:
    """One frontal film and its truth.

    study  {"sample_id", "patient_id", "view": "PA" | "AP", "sex": "M" | "F" | None,
            "exposure": None | one of tables.EXPOSURES (optional), "findings": [{"finding", "status",
            "laterality", "severity", "location"}]}; the last three may be None or missing
    size_px  side of the film, 128 to 1024 pixels
    Returns (image float32 (size_px, size_px) in [0, 1], 1 = white; row 0 on top, the patient's right on the
    image's left) and a dict: view, exposure, rotation_deg, tilt_deg, roll_deg, inspiration, source_mm,
    scatter, sex, cardiothoracic_ratio, findings (one dict per renderable finding: finding, status present or
    absent, laterality, severity, location, visibility_mm, drawn, boxes {side or "": box}), not_visible
    (the same for planned findings below truth.VISIBLE_MM: asserted neither way) and regions {name: box}.
    Boxes are [x1, y1, x2, y2] in percent. The same arguments give the same film on every machine with the
    same NumPy build: one thread, whatever the caller allows. Raises ValueError (one line).
    """
    with _threads().limit(limits=1):
        return _film(study, size_px, seed)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _film(study: dict, size_px: int, seed: int) -> tuple[np.ndarray, dict]:
    if not SIZES[0] <= size_px <= SIZES[1]:
        raise ValueError(f"size_px = {size_px}: films are {SIZES[0]} to {SIZES[1]} pixels wide")
    plans = resolve(study, seed)
    body = patient.body(seed, study["patient_id"], study.get("sex"))
    shot = patient.acquisition(seed, study["sample_id"], study["view"], study.get("exposure"))
    anatomy = phantom.load()
    geo = projector.geometry(body, shot, anatomy.hu.shape, anatomy.spacing)

    base = tissue(anatomy, body)
    layers, heart_scale = _layers(anatomy, base, plans, body, study, seed)
    volume = base.copy()
    for layer in layers:
        lesions.lay(volume, layer)
    samples = round(size_px * projector.MARGIN)
    plane = projector.project(volume, *projector.weights(geo, volume.shape, samples), geo.step)
    plane += breasts(body, geo, samples)
    water = np.maximum(projector.to_film(geo, plane, size_px), 0)
    pacers = [_pacer(plan, study["patient_id"], seed) for plan in plans if plan.finding == "pacemaker"]
    for arguments in pacers:
        water += devices.pacemaker(anatomy, geo, *arguments, size_px)
    image = detector.develop(water, shot)

    regions = truth.region_boxes(geo, _outlines(anatomy, heart_scale))
    evidence = _evidence(anatomy, geo, base, volume, layers)
    if pacers:
        evidence["pacemaker", pacers[0][0]] = _pacer_evidence(anatomy, geo, pacers[0])
    shown, hidden = _told(plans, evidence, regions)
    return image, {
        "view": shot.view,
        "exposure": shot.exposure,
        "rotation_deg": shot.rotation,
        "tilt_deg": shot.tilt,
        "roll_deg": shot.roll,
        "inspiration": shot.inspiration,
        "source_mm": shot.source_mm,
        "scatter": shot.scatter,
        "sex": body.sex,
        "cardiothoracic_ratio": _cardiothoracic_ratio(regions),
        "findings": shown,
        "not_visible": hidden,
        "regions": regions,
    }


def resolve(study: dict, seed: int) -> list[Planned]:
    """The findings to render, open attributes drawn. Raises ValueError (one line) for what no film can show.

    Side and place depend on (patient, finding): a prior film shows the same lesion in place. Severity
    depends on the study: it may grow. An uncertain finding is present in half of the draws, then mild.
    """
    sample = study["sample_id"]
    known: dict[str, dict] = {}
    for row in study["findings"]:
        name, status = row["finding"], row["status"]
        if name not in FINDINGS:
            raise ValueError(f"{sample}: unknown finding {name!r}; findings.FINDINGS lists the names")
        if name not in RENDERABLE:
            if status == "absent":
                continue
            raise ValueError(f"{sample}: {name} cannot be rendered; films show {', '.join(RENDERABLE)}")
        if known.setdefault(name, row)["status"] != status:
            raise ValueError(f"{sample}: {name} is both {known[name]['status']} and {status}; keep one row")
    plans = []
    for name in RENDERABLE:
        row = known.get(name, {"status": "absent"})
        uncertain = row["status"] == "uncertain"
        if row["status"] == "absent" or uncertain and draws.uniform(seed, sample, f"{name}/uncertain") < 0.5:
            continue
        side, severity = row.get("laterality"), row.get("severity")
        sides, grades = tuple(SIDED.get(name, ())), SEVERITIES if name in GRADED else ()
        if side is not None and side not in sides:
            raise ValueError(f"{sample}: {name} cannot be {side!r}; allowed: {', '.join(sides) or 'no side'}")
        if severity is not None and severity not in grades:
            raise ValueError(
                f"{sample}: {name} cannot be {severity!r}; allowed: {', '.join(grades) or 'no severity'}"
            )
        drawn = []
        if side is None and sides:
            side = _choose(draws.uniform(seed, study["patient_id"], f"{name}/side"), SIDED[name])
            drawn.append("laterality")
        if severity is None and grades:
            share = 0.0 if uncertain else draws.uniform(seed, sample, f"{name}/severity")
            severity = _choose(share, _SEVERITY_SHARES)
            drawn.append("severity")
        plans.append(Planned(name, side, severity, row.get("location"), tuple(drawn)))
    return plans


def tissue(anatomy: phantom.Phantom, body: patient.Body) -> np.ndarray:
    """Density relative to water, float32 (Y, Z, X), of one healthy patient: bone, lung and heart scaled."""
    soft, bone, air = phantom.densities()
    volume = soft + np.float32(body.bone - 1) * bone
    volume += np.float32(body.lung - 1) * air
    if body.heart > 1:
        lesions.lay(volume, lesions.cardiomegaly(anatomy, body.heart, "normal heart"))
    return volume


def breasts(body: patient.Body, geo: projector.Geometry, samples: int) -> np.ndarray:
    """Thickness (samples, samples), mm of water, of both breasts: crisp below, thinner upwards; 0 for men."""
    edge, radius, thickness = body.breast
    axis = projector.plane_axis(geo, samples)
    zoom = geo.zoom[-1 if geo.zoom[-1] < geo.zoom[0] else 0]
    if not thickness:
        return np.zeros((1, 1), dtype=np.float32)
    down, right = axis[:, None] / zoom, axis[None] / zoom
    out = np.zeros((samples, samples), dtype=np.float32)
    for sign in (-1, 1):
        up = (edge + radius + down) / radius  # -1 at the upper rim ... 1 at the lower edge, reversed below
        across = (right - sign * 74 * body.width) / (1.1 * radius)
        profile = np.clip(1 - np.where(up > 0, up, 0.55 * up) ** 2 - across**2, 0, None)
        out += (thickness * profile**0.7).astype(np.float32)
    return out


def _layers(anatomy, base, plans, body, study, seed) -> tuple[list[lesions.Layer], float]:
    """Layers of all tissue findings, deepest first, and the heart's scale."""
    patient_id, sample = study["patient_id"], study["sample_id"]
    layers, heart_scale = [], max(1.0, body.heart)
    planned = {plan.finding: plan for plan in plans}

    def size(name: str, side: str, limits: dict) -> float:
        share = draws.uniform(seed, sample, f"{name}/{side}/size")
        return lesions.size_within(limits[planned[name].severity], share)

    def place(name: str, side: str, question: str) -> float:
        return draws.uniform(seed, patient_id, f"{name}/{side}/{question}")

    if "cardiomegaly" in planned:
        heart_scale = size("cardiomegaly", "", lesions.HEART_SCALE)
        layers.append(lesions.cardiomegaly(anatomy, heart_scale))
    collapse = {
        side: size("pneumothorax", side, lesions.COLLAPSE) for side in _sides(planned.get("pneumothorax"))
    }
    for side, share in collapse.items():
        layers.append(lesions.pneumothorax(anatomy, base, side, share))
    for side in _sides(planned.get("consolidation")):
        lobe = _lobe(side, planned["consolidation"].location, place("consolidation", side, "lobe"))
        radius = size("consolidation", side, lesions.CONSOLIDATION_RADIUS_MM)
        places = place("consolidation", side, "site"), radius, place("consolidation", side, "texture")
        layer = lesions.consolidation(anatomy, side, lobe, *places)
        layers.append(lesions.collapsed(layer, anatomy, collapse[side]) if side in collapse else layer)
    for side in _sides(planned.get("pleural effusion")):
        layers.append(lesions.effusion(anatomy, side, size("pleural effusion", side, lesions.EFFUSION_LEVEL)))
    return layers, heart_scale


def _evidence(
    anatomy, geo, base, volume, layers
) -> dict[tuple[str, str | None], tuple[float, list[float] | None]]:
    """(finding, side) -> (visibility, box): the scene projected with and without that finding alone."""
    if not layers:
        return {}
    rows, columns = projector.weights(geo, volume.shape, truth.TRUTH_SIZE)
    placed = projector.percent(geo, projector.plane_on_film(geo, truth.TRUTH_SIZE))
    evidence = {}
    for layer in layers:
        left_out = lesions.without(base, layers, layer.finding, layer.laterality, layer.box)
        few_rows, few_columns, window = projector.crop(rows, columns, layer.box)
        change = projector.project(volume[layer.box] - left_out, few_rows, few_columns, geo.step)
        pixel = 100 * projector.MARGIN / truth.TRUTH_SIZE
        evidence[layer.finding, layer.laterality] = truth.film_change(
            placed[window].reshape(-1, 2), np.abs(change).ravel(), pixel
        )
    return evidence


def _told(plans, evidence, regions) -> tuple[list[dict], list[dict]]:
    """Findings that the film shows or plainly lacks, and planned findings that it does not show."""
    shown, hidden = [], []
    planned = {plan.finding: plan for plan in plans}
    for name in RENDERABLE:
        if name not in planned:
            shown.append({"finding": name, "status": "absent", "laterality": None, "severity": None,
                          "location": None, "visibility_mm": 0.0, "drawn": [], "boxes": {}})  # fmt: skip
            continue
        plan = planned[name]
        sides = _sides(plan) or [None]
        seen = {side: evidence[name, side] for side in sides if evidence[name, side][0] >= truth.VISIBLE_MM}
        boxes = {side or "": box for side, (_, box) in seen.items() if box}
        if name == "cardiomegaly" and boxes:
            boxes = {"": regions["heart"]}  # an enlarged heart is the whole heart, not the part that grew
        visibility = max((evidence[name, side][0] for side in sides), default=0.0)
        side = plan.laterality
        if side == "bilateral" and len(boxes) == 1:  # one side is hidden: only the other is asserted
            side = next(iter(boxes))
        row = {"finding": name, "status": "present", "laterality": side, "severity": plan.severity,
               "location": _zone(name, boxes, regions), "visibility_mm": round(visibility, 2),
               "drawn": list(plan.drawn), "boxes": boxes}  # fmt: skip
        (shown if boxes else hidden).append(row)
    return shown, hidden


def _zone(name: str, boxes: dict[str, list[float]], regions: dict[str, list[float]]) -> str | None:
    """The lung zone in which a consolidation's box has its middle; None when it has several boxes."""
    if name != "consolidation" or len(boxes) != 1:
        return None
    (side, box), = boxes.items()  # fmt: skip
    middle = 0.5 * (box[1] + box[3])
    zones = [z for z in ("upper", "mid", "lower") if f"{side} {z} lung zone" in regions]
    if not zones:
        return None

    def distance(zone: str) -> float:
        _, top, _, bottom = regions[f"{side} {zone} lung zone"]
        return max(top - middle, middle - bottom, 0)

    return f"{min(zones, key=distance)} lung zone"


def _outlines(anatomy: phantom.Phantom, heart_scale: float) -> dict[str, np.ndarray]:
    """The phantom's outlines with the heart at its size in this scene."""
    centre, scales = lesions.heart_growth(anatomy, heart_scale)
    heart = (anatomy.outlines["heart"] - centre) * scales + centre
    mediastinum = np.concatenate([anatomy.outlines["mediastinum"], heart])
    return {**anatomy.outlines, "heart": heart, "mediastinum": mediastinum}


def _cardiothoracic_ratio(regions: dict[str, list[float]]) -> float | None:
    """Width of the heart over the inner width of the chest, from their boxes; None when one is cut off."""
    if not {"heart", "left lung", "right lung"} <= set(regions):
        return None
    heart = regions["heart"]
    return round((heart[2] - heart[0]) / (regions["left lung"][2] - regions["right lung"][0]), 3)


def _pacer(plan: Planned, patient_id: str, seed: int) -> tuple[str, float, int]:
    leads = 2 if draws.uniform(seed, patient_id, "pacemaker/leads") < 0.6 else 1
    return plan.laterality, draws.uniform(seed, patient_id, "pacemaker/place"), leads


def _pacer_evidence(anatomy, geo, arguments) -> tuple[float, list[float] | None]:
    change = devices.pacemaker(anatomy, geo, *arguments, truth.TRUTH_SIZE)
    centres = 100 * (np.arange(truth.TRUTH_SIZE) + 0.5) / truth.TRUTH_SIZE
    positions = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    return truth.film_change(positions, change.ravel(), 100 / truth.TRUTH_SIZE, trim=0.0)


def _sides(plan: Planned | None) -> list[str]:
    if plan is None or plan.laterality is None:
        return []
    return ["left", "right"] if plan.laterality == "bilateral" else [plan.laterality]


def _lobe(side: str, location: str | None, share: float) -> str:
    """The lobe that an annotated location names, else the drawn one."""
    words = location or ""
    if any(word in words for word in ("upper", "apex", "apical")):
        return phantom.LOBES[side][0]
    if any(word in words for word in ("lower", "base", "basal")):
        return phantom.LOBES[side][-1]
    if any(word in words for word in ("mid", "lingula")):
        return phantom.LOBES[side][-2]
    return lesions.lobe_of(side, share)


def _choose(share: float, shares: dict[str, float]) -> str:
    """The option in whose part of [0, 1) the draw falls."""
    return list(shares)[int(np.searchsorted(np.cumsum(list(shares.values()))[:-1], share, side="right"))]
