"""What a simulated film can show, and what it cannot: the one list of findings that the simulator knows.

plan.py completes a study by them, truth.py reads from them what a film says beyond its lesions.
"""

from typing import NamedTuple

from cxrtrek_lib.findings import DIAGNOSES, ancestors


class Shown(NamedTuple):
    """How a finding is completed where the annotation leaves it open.

    sides   laterality -> share of the draws; empty: the finding has no side
    graded  mild, moderate or severe is part of it
    places  words that an annotated place may be, without its side; any other place is impossible
    """

    sides: dict[str, float] = {}
    graded: bool = False
    places: frozenset[str] = frozenset()


# Words of PadChest, Open-i and Chest ImaGenome for places in the chest, as the sources' readers write them.
_LUNG = frozenset({
    "lung", "upper lobe", "middle lobe", "lower lobe", "lingula", "lung apex", "lung base",
    "upper lung zone", "mid lung zone", "lower lung zone", "hilum", "perihilar region", "suprahilar region",
    "infrahilar region", "retrocardiac region", "paracardiac region", "paramediastinal region",
    "paratracheal region", "paravertebral region", "costophrenic angle", "cardiophrenic angle",
    "subpleural region", "interlobar fissure", "minor fissure", "major fissure",
})  # fmt: skip
_MEDIASTINUM = frozenset({
    "mediastinum", "superior mediastinum", "anterior mediastinum", "middle mediastinum",
    "posterior mediastinum", "lower mediastinum", "paratracheal region", "aortopulmonary window",
})  # fmt: skip
_AORTA = frozenset({"aortic arch", "ascending aorta", "descending aorta"})
_VEINS = frozenset({"superior vena cava", "brachiocephalic vein"})
_GULLET = frozenset({"esophagus", "stomach", "region below the diaphragm"})

# Names are those of findings.FINDINGS. Shares of the sides are ours.
SHOWN = {
    # pleura
    "pleural effusion": Shown({"left": 0.33, "right": 0.33, "bilateral": 0.34}, True, _LUNG),
    "costophrenic angle blunting": Shown({"left": 0.45, "right": 0.35, "bilateral": 0.20}, False, _LUNG),
    "pneumothorax": Shown({"left": 0.45, "right": 0.55}, True, _LUNG),
    "pleural thickening": Shown({"left": 0.35, "right": 0.35, "bilateral": 0.30}, False, _LUNG),
    # lungs: opacities of a lobe
    "consolidation": Shown({"left": 0.38, "right": 0.42, "bilateral": 0.20}, True, _LUNG),
    "lung opacity": Shown({"left": 0.40, "right": 0.40, "bilateral": 0.20}, True, _LUNG),
    "atelectasis": Shown({"left": 0.40, "right": 0.35, "bilateral": 0.25}, True, _LUNG),
    # lungs: diffuse
    "edema": Shown({}, True, _LUNG),
    "interstitial opacity": Shown({"left": 0.1, "right": 0.1, "bilateral": 0.8}, True, _LUNG),
    "emphysema": Shown({}, True, _LUNG),
    "hyperinflation": Shown({}, True, _LUNG),
    # lungs: focal
    "nodule": Shown({"left": 0.5, "right": 0.5}, False, _LUNG),
    "mass": Shown({"left": 0.5, "right": 0.5}, False, _LUNG),
    "granuloma": Shown({"left": 0.5, "right": 0.5}, False, _LUNG),
    # heart and mediastinum
    "cardiomegaly": Shown({}, True),
    "aortic enlargement": Shown({}, False, _AORTA),
    "aortic elongation": Shown({}, False, _AORTA),
    "enlarged cardiomediastinum": Shown({}, False, _MEDIASTINUM),
    "hiatal hernia": Shown({}, False, _MEDIASTINUM | {"retrocardiac region"}),
    # diaphragm and bones
    "hemidiaphragm elevation": Shown({"left": 0.4, "right": 0.6}),
    "scoliosis": Shown({}, True, frozenset({"spine", "thoracic spine"})),
    # devices
    "pacemaker": Shown({"left": 0.8, "right": 0.2}, False, frozenset({"pectoral region"})),
    "central venous catheter": Shown({"left": 0.3, "right": 0.7}, False, _VEINS),
    "endotracheal tube": Shown({}, False, frozenset({"trachea"})),
    "enteric tube": Shown({}, False, _GULLET),
    "chest tube": Shown({"left": 0.5, "right": 0.5}, False, _LUNG),
    "sternal wires": Shown(),
}
RENDERABLE = tuple(SHOWN)
SEVERITY_SHARES = {"mild": 0.34, "moderate": 0.36, "severe": 0.30}

_ONE_SIDED = {"middle lobe": "right", "minor fissure": "right", "lingula": "left"}

# Findings of one place in a lung: the truth names the zone in which they lie.
FOCAL = ("consolidation", "lung opacity", "atelectasis", "nodule", "mass", "granuloma")

# Findings of an organ: their box is that of the organ. What grew of a heart is its rim; and a bent spine
# takes ribs, heart and skin along, so that all of the film changes.
ORGANS = {"cardiomegaly": "heart", "scoliosis": "spine"}

# Findings whose box holds these regions and all else that changes: the rim of a lung grows, or its dome
# sinks, but all of it is clearer.
OF_REGIONS = dict.fromkeys(("emphysema", "hyperinflation"), ("left lung", "right lung"))

# Finding -> what else of SHOWN a film with it shows, whatever else is on it: its ancestors in the vocabulary;
# lungs with emphysema are overinflated; an effusion fills the costophrenic angle first.
IMPLIES = {
    name: (
        *(parent for parent in ancestors(name) if parent in SHOWN),
        *{"emphysema": ("hyperinflation",), "pleural effusion": ("costophrenic angle blunting",)}.get(
            name, ()
        ),
    )
    for name in SHOWN
}

# (finding, least grade or None for any, findings): beside that finding, of that grade or worse, a reader
# cannot deny the others: they are present where the film shows them, and open, not absent, where it does not.
# Our choice, from how the signs overlap on a film; only where denying them would be a guess.
CANNOT_DENY = (
    # The angle alone does not tell fluid from a scar.
    ("costophrenic angle blunting", None, ("pleural effusion", "pleural thickening")),
    ("pleural thickening", None, ("costophrenic angle blunting",)),
    # Fluid hides the dome and the lung that it compresses, much of it half of the chest.
    ("pleural effusion", "moderate", ("atelectasis", "hemidiaphragm elevation", "lung opacity")),
    ("pleural effusion", "severe", ("consolidation", "nodule", "mass", "granuloma", "cardiomegaly")),
    # A lung that collapses is dense.
    ("pneumothorax", "moderate", ("atelectasis", "lung opacity")),
    # One shadow, several names.
    ("lung opacity", "moderate", ("consolidation", "atelectasis")),
    ("consolidation", "severe", ("atelectasis",)),
    ("atelectasis", "moderate", ("consolidation", "hemidiaphragm elevation")),
    ("hemidiaphragm elevation", None, ("atelectasis",)),
    ("edema", None, ("interstitial opacity",)),
    ("edema", "severe", ("consolidation",)),
    ("interstitial opacity", "moderate", ("edema",)),
    ("granuloma", None, ("nodule", "lung opacity")),
    ("hyperinflation", None, ("emphysema",)),
    # Heart and vessels make the outline of the mediastinum.
    ("cardiomegaly", "moderate", ("enlarged cardiomediastinum",)),
    ("aortic enlargement", None, ("aortic elongation", "enlarged cardiomediastinum")),
    ("aortic elongation", None, ("aortic enlargement", "enlarged cardiomediastinum")),
    ("enlarged cardiomediastinum", None, ("aortic enlargement", "aortic elongation")),
    ("scoliosis", "moderate", ("aortic elongation", "enlarged cardiomediastinum")),
    ("hiatal hernia", None, ("lung opacity", "mass")),
)  # fmt: skip

# End of a lung -> what cannot be denied when the film cuts that end off.
AT_AN_END = {
    "lung apex": ("pneumothorax", "pleural thickening"),
    "costophrenic angle": ("pleural effusion", "costophrenic angle blunting", "pleural thickening"),
}

# What a lateral film does not tell: these are seen in the coronal plane only.
NOT_IN_LATERAL = ("pneumothorax", "pleural thickening", "enlarged cardiomediastinum", "scoliosis")

# Why films show no other finding of the vocabulary: they are listed, and never asked about films.
_REASONS = {
    "a diagnosis: concluded from a film, not shown by it": tuple(sorted(DIAGNOSES)),
    "a general name: its special cases are shown": (
        "airspace opacity", "lung lesion", "nodule or mass", "support devices",
    ),
    "another name for a shadow that is shown under one name": (
        "infiltrate", "ground glass opacity", "pulmonary fibrosis", "scarring", "pseudonodule",
        "prominent bronchovascular markings", "vascular congestion",
    ),
    "shown only as a part of another finding": (
        "volume loss", "flattened diaphragm", "mediastinal shift", "air-fluid level", "calcification",
    ),
    "two findings in one, whose common sign is not modelled": ("hydropneumothorax",),
    "too fine for voxels of 2 mm": (
        "air bronchogram", "miliary pattern", "bronchiectasis", "pleural plaque", "lung cyst",
        "heart valve calcification", "aortic atherosclerosis", "lymph node calcification",
        "calcified fibroadenoma", "osteopenia", "costochondral hypertrophy",
    ),
    "below what a film of this size shows: a thin line in bone": (
        "fracture", "rib fracture", "clavicle fracture",
    ),
    "outside the source CT, which lacks neck, shoulders and most of the abdomen": (
        "humeral fracture", "subacromial space narrowing", "degenerative joint changes", "cervical rib",
        "goiter", "tracheostomy tube", "chilaiditi sign", "pneumoperitoneum",
    ),
    "a build that the one source anatomy does not have and no smooth deformation gives it": (
        "azygos lobe", "dextrocardia", "right-sided aortic arch", "thoracic cage deformity",
        "pectus excavatum", "pectus carinatum", "kyphosis", "diaphragmatic eventration", "hernia",
        "mastectomy", "breast implant", "gynecomastia",
    ),
    "not modelled": (
        "other pleural abnormality", "pleural mass", "cavitation", "bulla", "low lung volumes",
        "decreased lung vascularity", "mediastinal lipomatosis", "mediastinal mass",
        "azygoesophageal recess shift", "hilar enlargement", "lymphadenopathy", "pericardial effusion",
        "supra-aortic vessel elongation", "aortic aneurysm", "pulmonary artery enlargement",
        "pneumomediastinum", "esophageal dilatation", "vertebral compression", "degenerative spine changes",
        "bone lesion", "soft tissue mass", "postsurgical change", "subcutaneous emphysema",
        "heart valve prosthesis", "stent", "aortic stent graft", "ventriculoperitoneal shunt",
        "orthopedic hardware", "surgical material", "foreign body",
    ),
}  # fmt: skip
NOT_SHOWN = {name: reason for reason, names in _REASONS.items() for name in names}


def side_of_place(location: str | None) -> str | None:
    """The side of an annotated place: the word that it begins with, else that of the one lung that has it.

    >>> side_of_place("left lower lobe"), side_of_place("lingula"), side_of_place("lung base")
    ('left', 'left', None)
    """
    word = (location or "").split(" ", 1)[0]
    return word if word in ("left", "right") else _ONE_SIDED.get(location)


def place_of(location: str | None) -> str | None:
    """An annotated place without its side word, None for None. "left middle lobe", which nobody has, stays.

    >>> place_of("left lower lobe"), place_of("lingula"), place_of("left middle lobe")
    ('lower lobe', 'lingula', 'left middle lobe')
    """
    side, _, place = (location or "").partition(" ")
    if side not in ("left", "right") or _ONE_SIDED.get(place, side) != side:
        return location
    return place
