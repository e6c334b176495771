"""The vocabulary: canonical names of findings and anatomical regions, and their synonyms.

Canonical names are lower case English. The map from a table's labels to them stands beside the table's reader
in `sources/`: a label that maps to None is known and deliberately not a finding ("unchanged"); a label in no
map is *unmapped*: the reader counts and lists it, never loses it silently.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """One entry of the vocabulary.

    synonyms  other words of reports for the same thing, lower case, singular
    kind      "abnormality" or "foreign_body" (devices and other material), as the authors' targets say
    sided     a left and a right one exist, so that laterality is a sensible question
    graded    mild, moderate or severe is a sensible question
    parent    the canonical finding of which this one is a special case, or None
    """

    synonyms: tuple[str, ...] = ()
    kind: str = "abnormality"
    sided: bool = False
    graded: bool = False
    parent: str | None = None


def _finding(*synonyms: str, sided: bool = False, graded: bool = False, parent: str | None = None) -> Finding:
    return Finding(synonyms, "abnormality", sided, graded, parent)


def _device(*synonyms: str, sided: bool = False, parent: str | None = "support devices") -> Finding:
    return Finding(synonyms, "foreign_body", sided, False, parent)


FINDINGS: dict[str, Finding] = {
    # Pleura
    "pleural effusion": _finding("effusion", "pleural fluid", "hydrothorax", sided=True, graded=True),
    "pneumothorax": _finding("pneumothoraces", sided=True, graded=True),
    "hydropneumothorax": _finding("hemopneumothorax", sided=True),
    "costophrenic angle blunting": _finding(
        "blunting of the costophrenic angle", "blunted costophrenic angle", sided=True
    ),
    "pleural thickening": _finding("apical pleural thickening", "fissure thickening", sided=True),
    "pleural plaque": _finding("calcified pleural plaque", "pleural calcification", sided=True),
    "pleural other": _finding("other pleural abnormality"),
    # Lung: opacities
    "lung opacity": _finding("opacity", "opacification", "increased density", sided=True, graded=True),
    "airspace opacity": _finding(
        "airspace disease", "alveolar pattern", "alveolar opacity",
        sided=True, graded=True, parent="lung opacity",
    ),
    "consolidation": _finding("focal consolidation", sided=True, graded=True, parent="airspace opacity"),
    "infiltrate": _finding(
        "infiltration", "pulmonary infiltrate", sided=True, graded=True, parent="lung opacity"
    ),
    "pneumonia": _finding("bronchopneumonia", sided=True, graded=True, parent="lung opacity"),
    "atelectasis": _finding(
        "atelectases", "atelectatic change", sided=True, graded=True, parent="lung opacity"
    ),
    "volume loss": _finding("loss of volume", sided=True),
    "edema": _finding("pulmonary edema", "interstitial edema", "oedema", graded=True, parent="lung opacity"),
    "vascular congestion": _finding(
        "pulmonary congestion", "vascular redistribution", "kerley lines", graded=True
    ),
    "interstitial opacity": _finding(
        "interstitial pattern", "interstitial markings", sided=True, graded=True, parent="lung opacity"
    ),
    "ground glass opacity": _finding("ground glass pattern", sided=True, parent="lung opacity"),
    "lung lesion": _finding("pulmonary lesion", sided=True, parent="lung opacity"),
    "nodule or mass": _finding(sided=True, parent="lung lesion"),
    "nodule": _finding("pulmonary nodule", "nodular opacity", sided=True, parent="nodule or mass"),
    "mass": _finding("pulmonary mass", "lung mass", sided=True, parent="nodule or mass"),
    "granuloma": _finding("calcified granuloma", "granulomatous disease", sided=True),
    "cavitation": _finding("cavity", "cavitary lesion", sided=True),
    "pulmonary fibrosis": _finding("fibrosis", "fibrotic change", sided=True, graded=True),
    "scarring": _finding("scar", "cicatrix", "fibrotic band", sided=True),
    "bronchiectasis": _finding("bronchial dilatation", sided=True),
    "prominent bronchovascular markings": _finding("bronchovascular markings", graded=True),
    # Lung: air and volume
    "emphysema": _finding("pulmonary emphysema", "emphysematous change", graded=True),
    "bulla": _finding("bullae", "bleb", sided=True),
    "copd": _finding("chronic obstructive pulmonary disease", "copd signs", graded=True),
    "hyperinflation": _finding(
        "hyperinflated lungs", "air trapping", "hyperexpansion", "hyperdistention", graded=True
    ),
    "low lung volumes": _finding("hypoinflation", "hypoexpansion", "poor inspiration", graded=True),
    "flattened diaphragm": _finding("flattening of the diaphragm"),
    "hemidiaphragm elevation": _finding("elevated hemidiaphragm", "elevated diaphragm", sided=True),
    "diaphragmatic eventration": _finding("eventration of the diaphragm", sided=True),
    # Heart, vessels, mediastinum
    "cardiomegaly": _finding(
        "enlarged heart", "cardiac enlargement", "enlarged cardiac silhouette", graded=True
    ),
    "enlarged cardiomediastinum": _finding(
        "mediastinal widening", "widened mediastinum", "mediastinal enlargement"
    ),
    "mediastinal mass": _finding(),
    "mediastinal shift": _finding("tracheal shift", "tracheal deviation", "shift of the mediastinum"),
    "hilar enlargement": _finding("enlarged hilum", "hilar prominence", sided=True),
    "lymphadenopathy": _finding("adenopathy", "enlarged lymph nodes"),
    "heart failure": _finding("heart insufficiency", "congestive heart failure"),
    "pericardial effusion": _finding("pericardial fluid"),
    "aortic elongation": _finding("tortuous aorta", "aortic tortuosity", "ectatic aorta"),
    "aortic atherosclerosis": _finding("aortic atheromatosis", "aortic calcification", "calcified aorta"),
    "aortic aneurysm": _finding("aneurysm of the aorta"),
    "pulmonary artery enlargement": _finding("enlarged pulmonary artery"),
    "pulmonary hypertension": _finding("pulmonary arterial hypertension"),
    "pneumomediastinum": _finding("mediastinal emphysema"),
    # Chest wall, bone, abdomen
    "fracture": _finding("broken bone", sided=True),
    "rib fracture": _finding(
        "fractured rib", "healed rib fracture", "callus rib fracture", sided=True, parent="fracture"
    ),
    "clavicle fracture": _finding("fractured clavicle", sided=True, parent="fracture"),
    "vertebral compression": _finding("vertebral compression fracture", "vertebral wedging"),
    "degenerative spine changes": _finding("spondylosis", "degenerative changes of the spine", "osteophyte"),
    "scoliosis": _finding("spinal curvature", graded=True),
    "kyphosis": _finding("kyphotic curvature", graded=True),
    "osteopenia": _finding("bone demineralization", "osteoporosis"),
    "bone lesion": _finding("lytic lesion", "sclerotic lesion", "bone metastasis"),
    "hiatal hernia": _finding("hiatus hernia"),
    "hernia": _finding("diaphragmatic hernia"),
    "subcutaneous emphysema": _finding("soft tissue emphysema", sided=True),
    "pneumoperitoneum": _finding("free air under the diaphragm", "free intraperitoneal air"),
    "goiter": _finding("enlarged thyroid"),
    # Devices and other material
    "support devices": _device("support device", "medical device", "lines and tubes", parent=None),
    "pacemaker": _device("cardiac pacemaker", "pacing device", "implantable defibrillator", sided=True),
    "central venous catheter": _device(
        "central line", "indwelling catheter", "port-a-cath", "picc", sided=True
    ),
    "endotracheal tube": _device("et tube", "ett"),
    "tracheostomy tube": _device("tracheostomy"),
    "enteric tube": _device("nasogastric tube", "ng tube", "feeding tube", "orogastric tube"),
    "chest tube": _device("chest drain", "pleural drain", "thoracostomy tube", sided=True),
    "sternal wires": _device("sternotomy", "sternotomy wires", "median sternotomy"),
    "heart valve prosthesis": _device("artificial heart valve", "prosthetic valve"),
    "orthopedic hardware": _device("osteosynthesis material", "spinal fusion", "humeral prosthesis"),
    "surgical material": _device("suture material", "surgical clips", "surgical instruments"),
    "foreign body": _device("metallic foreign body", parent=None),
    "breast implant": _device("mammary prosthesis", sided=True, parent=None),
}  # fmt: skip

DEVICES = frozenset(name for name, finding in FINDINGS.items() if finding.kind == "foreign_body")
SIDED = frozenset(name for name, finding in FINDINGS.items() if finding.sided)
GRADED = frozenset(name for name, finding in FINDINGS.items() if finding.graded)

# Diagnoses rather than things seen on the film: the branch "differential diagnosis" of PadChest's label tree
# (Bustos et al. 2020). Stage 7 asks about them, stages 2 to 4 do not.
DIAGNOSES = frozenset({"pneumonia", "heart failure", "copd", "pulmonary hypertension"})

# What a report that calls the whole study normal denies: the common findings that a reader looks for in
# every film. Rarer findings and devices are left unknown, since "normal" films with wires and ports exist.
CORE = (
    "pleural effusion", "pneumothorax", "consolidation", "cardiomegaly", "atelectasis", "edema",
    "pneumonia", "nodule", "mass", "airspace opacity",
)  # fmt: skip

# Anatomical regions: canonical name -> synonyms. A side, where there is one, is part of the name.
REGIONS: dict[str, tuple[str, ...]] = {
    "heart": ("cardiac silhouette",),
    "mediastinum": ("mediastinal silhouette",),
    "trachea": (),
    "aortic arch": ("aortic knob",),
    "spine": ("thoracic spine",),
    **{f"{side} {part}": words for side in ("left", "right") for part, words in {
        "lung": (), "hilum": (), "hemidiaphragm": (), "costophrenic angle": ("costophrenic sulcus",),
        "lung apex": (), "upper lung zone": (), "mid lung zone": (), "lower lung zone": (), "clavicle": (),
    }.items()},
}  # fmt: skip

_CANONICAL = {word: name for name, finding in FINDINGS.items() for word in (name, *finding.synonyms)}


def canonical(words: str) -> str | None:
    """Canonical name of a finding given by its name or a synonym, any case; None when it is not known.

    >>> canonical("Pulmonary edema"), canonical("nonsense")
    ('edema', None)
    """
    return _CANONICAL.get(words.strip().lower())


def ancestors(name: str) -> list[str]:
    """The more general findings that this one implies, nearest first.

    >>> ancestors("nodule")
    ['nodule or mass', 'lung lesion', 'lung opacity']
    """
    chain = []
    while (parent := FINDINGS[name].parent) is not None:
        chain.append(parent)
        name = parent
    return chain


def related(names: Iterable[str]) -> frozenset[str]:
    """Findings that share a line of descent with any of the names, these included: no fair distractors."""
    names = set(names)
    upward = {ancestor for name in names for ancestor in ancestors(name)}
    downward = {name for name in FINDINGS if names.intersection(ancestors(name))}
    return frozenset(names | upward | downward)
