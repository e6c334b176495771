"""What a film says of its own quality: facts of the shot, and what of the chest it shows and cuts off."""

import numpy as np

from cxrtrek_lib.simulate import projector
from cxrtrek_lib.simulate.acquisition import Acquisition
from cxrtrek_lib.simulate.geometry import Geometry
from cxrtrek_lib.simulate.phantom import Phantom

CLIPPED = 0.25  # a region is cut off when more than this share of its box lies beyond the film
ENDS = tuple(f"{side} {end}" for side in ("left", "right") for end in ("lung apex", "costophrenic angle"))


def facts(anatomy: Phantom, shot: Acquisition, geo: Geometry) -> dict:
    """view, exposure, rotation_deg, tilt_deg, roll_deg, inspiration (scale of the lungs' height),
    ribs_above_dome (int; None on a lateral film), clipped (list of regions), motion_mm, source_mm, scatter.
    """
    outlines = anatomy.lateral_outlines if geo.lateral else anatomy.outlines
    ribs = [point for name, point in anatomy.landmarks.items() if name.startswith("right rib ")]
    parts = {
        **{name: outlines[name] for name in ENDS if name in outlines},
        "dome": outlines["right hemidiaphragm"],
        "ribs": np.stack(ribs),
    }
    placed = projector.place(geo, parts)
    dome, ribs = placed.pop("dome"), placed.pop("ribs")
    return {
        "view": shot.view,
        "exposure": shot.exposure,
        "rotation_deg": shot.rotation,
        "tilt_deg": shot.tilt,
        "roll_deg": shot.roll,
        "inspiration": shot.inspiration,
        # Posterior ribs above the top of the right dome, as readers count them to judge the breath: nine or
        # ten are usual for a full one.
        "ribs_above_dome": None if geo.lateral else int((ribs[:, 1] < dome[:, 1].min()).sum()),
        "clipped": [name for name, points in placed.items() if _share_on_film(points) < 1 - CLIPPED],
        "motion_mm": shot.motion_mm,
        "source_mm": shot.source_mm,
        "scatter": shot.scatter,
    }


def _share_on_film(points: np.ndarray) -> float:
    """Share of the box around points (N, 2) (x, y) percent that lies on the film."""
    low, high = points.min(axis=0), points.max(axis=0)
    inside = np.clip(np.minimum(high, 100) - np.maximum(low, 0), 0, None)
    return inside.prod() / (high - low).prod()
