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
    "pleural mass": _finding("pleural-based mass", sided=True),
    "empyema": _finding("pleural empyema", sided=True),
    "other pleural abnormality": _finding(),
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
    "miliary pattern": _finding("miliary opacity", "miliary nodule", parent="lung opacity"),
    "air bronchogram": _finding("air-bronchogram", sided=True, parent="airspace opacity"),
    "lung lesion": _finding("pulmonary lesion", sided=True, parent="lung opacity"),
    "nodule or mass": _finding(sided=True, parent="lung lesion"),
    "nodule": _finding("pulmonary nodule", "nodular opacity", sided=True, parent="nodule or mass"),
    "mass": _finding("pulmonary mass", "lung mass", sided=True, parent="nodule or mass"),
    "pseudonodule": _finding("nodule-like opacity", "pseudonodular opacity", sided=True),
    "lung metastasis": _finding("pulmonary metastasis", "lung metastases", "pulmonary metastases"),
    "lepidic adenocarcinoma": _finding("bronchioloalveolar carcinoma"),
    "lymphangitic carcinomatosis": _finding("lymphangitis carcinomatosa", "lymphangitic spread"),
    "granuloma": _finding("calcified granuloma", "granulomatous disease", sided=True),
    "calcification": _finding("calcified density", "calcific density", sided=True),
    "cavitation": _finding("cavity", "cavitary lesion", sided=True),
    "lung abscess": _finding("pulmonary abscess", "abscess", sided=True),
    "air-fluid level": _finding("air fluid level", sided=True),
    "lung cyst": _finding("pulmonary cyst", "pneumatocele", sided=True),
    "tuberculosis": _finding("pulmonary tuberculosis"),
    "tuberculosis sequelae": _finding("sequelae of tuberculosis", "old tuberculosis", "healed tuberculosis"),
    "sarcoidosis": _finding("pulmonary sarcoidosis"),
    "cystic fibrosis": _finding("mucoviscidosis"),
    "pulmonary fibrosis": _finding("fibrosis", "fibrotic change", sided=True, graded=True),
    "asbestosis": _finding("asbestos-related disease"),
    "postradiation change": _finding("radiation change", "post radiotherapy change", "radiation fibrosis"),
    "scarring": _finding("scar", "cicatrix", "fibrotic band", sided=True),
    "bronchiectasis": _finding("bronchial dilatation", sided=True),
    "prominent bronchovascular markings": _finding("bronchovascular markings", graded=True),
    "respiratory distress": _finding("respiratory distress syndrome", "ards"),
    # Lung: air and volume
    "emphysema": _finding("pulmonary emphysema", "emphysematous change", graded=True),
    "bulla": _finding("bullae", "bleb", sided=True),
    "copd": _finding("chronic obstructive pulmonary disease", "copd signs", graded=True),
    "hyperinflation": _finding(
        "hyperinflated lungs", "air trapping", "hyperexpansion", "hyperdistention", graded=True
    ),
    "low lung volumes": _finding("hypoinflation", "hypoexpansion", "poor inspiration", graded=True),
    "decreased lung vascularity": _finding("oligemia", "pulmonary oligemia", "lung vascular paucity"),
    "azygos lobe": _finding("azygos fissure"),
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
    "mediastinal lipomatosis": _finding("mediastinal fat deposition"),
    "mediastinal mass": _finding(),
    "mediastinal shift": _finding("tracheal shift", "tracheal deviation", "shift of the mediastinum"),
    "azygoesophageal recess shift": _finding("azygoesophageal recess displacement"),
    "hilar enlargement": _finding("enlarged hilum", "hilar prominence", sided=True),
    "lymphadenopathy": _finding("adenopathy", "enlarged lymph nodes"),
    "lymph node calcification": _finding(
        "calcified lymph node", "calcified node", "calcified adenopathy", sided=True, parent="lymphadenopathy"
    ),
    "heart failure": _finding("heart insufficiency", "congestive heart failure"),
    "pericardial effusion": _finding("pericardial fluid"),
    "dextrocardia": _finding(),
    "heart valve calcification": _finding(
        "calcified heart valve", "valvular calcification", "annular calcification", parent="calcification"
    ),
    "aortic elongation": _finding("tortuous aorta", "aortic tortuosity", "ectatic aorta"),
    "supra-aortic vessel elongation": _finding("tortuous supra-aortic vessel", "supra-aortic elongation"),
    "aortic atherosclerosis": _finding("aortic atheromatosis", "aortic calcification", "calcified aorta"),
    "aortic enlargement": _finding("enlarged aorta", "aortic dilatation", "prominent aorta"),
    "aortic aneurysm": _finding("aneurysm of the aorta"),
    "right-sided aortic arch": _finding("right aortic arch"),
    "pulmonary artery enlargement": _finding("enlarged pulmonary artery"),
    "pulmonary hypertension": _finding("pulmonary arterial hypertension"),
    "pneumomediastinum": _finding("mediastinal emphysema"),
    "esophageal dilatation": _finding("dilated esophagus", "distended esophagus"),
    # Chest wall, bone, abdomen
    "fracture": _finding("broken bone", sided=True),
    "rib fracture": _finding(
        "fractured rib", "healed rib fracture", "callus rib fracture", sided=True, parent="fracture"
    ),
    "clavicle fracture": _finding("fractured clavicle", sided=True, parent="fracture"),
    "humeral fracture": _finding("humerus fracture", "fractured humerus", sided=True, parent="fracture"),
    "vertebral compression": _finding("vertebral compression fracture", "vertebral wedging"),
    "degenerative spine changes": _finding("spondylosis", "degenerative changes of the spine", "osteophyte"),
    "degenerative joint changes": _finding(
        "degenerative joint disease", "arthritic change", "arthrosis", "osteoarthritis", sided=True
    ),
    "subacromial space narrowing": _finding("narrowed subacromial space", sided=True),
    "scoliosis": _finding("spinal curvature", graded=True),
    "kyphosis": _finding("kyphotic curvature", graded=True),
    "osteopenia": _finding("bone demineralization", "osteoporosis"),
    "bone lesion": _finding("lytic lesion", "sclerotic lesion", "bone metastasis"),
    "thoracic cage deformity": _finding("chest wall deformity", "rib deformity", sided=True),
    "pectus excavatum": _finding("funnel chest", graded=True, parent="thoracic cage deformity"),
    "pectus carinatum": _finding("pigeon chest", graded=True, parent="thoracic cage deformity"),
    "cervical rib": _finding(sided=True),
    "costochondral hypertrophy": _finding("costochondral junction hypertrophy", sided=True),
    "soft tissue mass": _finding("chest wall mass", "breast mass", sided=True),
    "gynecomastia": _finding("male breast enlargement", sided=True),
    "calcified fibroadenoma": _finding("calcified breast fibroadenoma", sided=True, parent="calcification"),
    "mastectomy": _finding("absent breast shadow", sided=True, parent="postsurgical change"),
    "postsurgical change": _finding("postoperative change", "surgical change"),
    "hiatal hernia": _finding("hiatus hernia"),
    "hernia": _finding("diaphragmatic hernia"),
    "subcutaneous emphysema": _finding("soft tissue emphysema", sided=True),
    "pneumoperitoneum": _finding("free air under the diaphragm", "free intraperitoneal air"),
    "chilaiditi sign": _finding("interposed colon"),
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
    "stent": _device("endoprosthesis", "vascular stent", "coronary stent"),
    "aortic stent graft": _device("aortic endoprosthesis", "aortic stent", parent="stent"),
    "ventriculoperitoneal shunt": _device("vp shunt", "ventriculoperitoneal drain"),
    "orthopedic hardware": _device("osteosynthesis material", "spinal fusion", "humeral prosthesis"),
    "surgical material": _device("suture material", "surgical clips", "surgical instruments"),
    "foreign body": _device("metallic foreign body", parent=None),
    "breast implant": _device("mammary prosthesis", sided=True, parent=None),
}  # fmt: skip

DEVICES = frozenset(name for name, finding in FINDINGS.items() if finding.kind == "foreign_body")
SIDED = frozenset(name for name, finding in FINDINGS.items() if finding.sided)
GRADED = frozenset(name for name, finding in FINDINGS.items() if finding.graded)

# Diagnoses rather than things seen on the film: the branch "differential diagnosis" of PadChest's label tree
# (Bustos et al. 2020) without what is seen there (edema, emphysema, fibrosis, bone metastasis as a bone
# lesion), and the diseases among Open-i's tags. Stage 7 asks about them, stages 2 to 4 do not.
DIAGNOSES = frozenset({
    "pneumonia", "heart failure", "copd", "pulmonary hypertension", "tuberculosis", "tuberculosis sequelae",
    "lung metastasis", "lepidic adenocarcinoma", "lymphangitic carcinomatosis", "respiratory distress",
    "asbestosis", "postradiation change", "lung abscess", "empyema", "sarcoidosis", "cystic fibrosis",
})  # fmt: skip

# What a report that calls the whole study normal denies: the common findings that a reader looks for in
# every film. Rarer findings and devices are left unknown, since "normal" films with wires and ports exist.
CORE = (
    "pleural effusion", "pneumothorax", "consolidation", "cardiomegaly", "atelectasis", "edema",
    "pneumonia", "nodule", "mass", "airspace opacity",
)  # fmt: skip

# Where a reader looks for each finding that is no diagnosis, in the order of a findings section.
BODY_REGIONS = {
    "lungs": (
        "lung opacity", "airspace opacity", "consolidation", "air bronchogram", "infiltrate", "atelectasis",
        "volume loss", "edema", "vascular congestion", "interstitial opacity", "ground glass opacity",
        "miliary pattern", "lung lesion", "nodule or mass", "nodule", "pseudonodule", "mass", "granuloma",
        "cavitation", "air-fluid level", "lung cyst", "pulmonary fibrosis", "scarring", "bronchiectasis",
        "prominent bronchovascular markings", "decreased lung vascularity", "emphysema", "bulla",
        "hyperinflation", "low lung volumes", "azygos lobe",
    ),
    "pleura": (
        "pleural effusion", "pneumothorax", "hydropneumothorax", "costophrenic angle blunting",
        "pleural thickening", "pleural plaque", "pleural mass", "other pleural abnormality",
    ),
    "heart and mediastinum": (
        "cardiomegaly", "dextrocardia", "pericardial effusion", "heart valve calcification",
        "enlarged cardiomediastinum", "mediastinal mass", "mediastinal shift", "mediastinal lipomatosis",
        "azygoesophageal recess shift", "pneumomediastinum", "hilar enlargement", "lymphadenopathy",
        "lymph node calcification", "pulmonary artery enlargement", "aortic elongation",
        "aortic atherosclerosis", "aortic enlargement", "aortic aneurysm", "right-sided aortic arch",
        "supra-aortic vessel elongation", "esophageal dilatation", "hiatal hernia", "goiter",
    ),
    "diaphragm and abdomen": (
        "flattened diaphragm", "hemidiaphragm elevation", "diaphragmatic eventration", "hernia",
        "chilaiditi sign", "pneumoperitoneum",
    ),
    "bones and soft tissue": (
        "fracture", "rib fracture", "clavicle fracture", "humeral fracture", "vertebral compression",
        "degenerative spine changes", "degenerative joint changes", "subacromial space narrowing",
        "scoliosis", "kyphosis", "osteopenia", "bone lesion", "thoracic cage deformity", "pectus excavatum",
        "pectus carinatum", "cervical rib", "costochondral hypertrophy", "subcutaneous emphysema",
        "soft tissue mass", "gynecomastia", "calcified fibroadenoma", "mastectomy",
    ),
    "devices": (
        "support devices", "pacemaker", "central venous catheter", "endotracheal tube", "tracheostomy tube",
        "enteric tube", "chest tube", "ventriculoperitoneal shunt", "sternal wires", "heart valve prosthesis",
        "stent", "aortic stent graft", "orthopedic hardware", "surgical material", "foreign body",
        "breast implant",
    ),
    "elsewhere": ("calcification", "postsurgical change"),
}  # fmt: skip

REGION_OF = {name: region for region, names in BODY_REGIONS.items() for name in names}

# Anatomical regions: canonical name -> synonyms. A side, where there is one, is part of the name. The 29 of
# Chest ImaGenome (Wu et al. 2021), which the CXRTrek paper asks about.
REGIONS: dict[str, tuple[str, ...]] = {
    "heart": ("cardiac silhouette",),
    "right atrium": (),
    "mediastinum": ("mediastinal silhouette",),
    "upper mediastinum": ("superior mediastinum",),
    "superior vena cava": ("svc",),
    "cavoatrial junction": ("atriocaval junction",),
    "aortic arch": ("aortic knob",),
    "trachea": (),
    "carina": ("tracheal bifurcation",),
    "spine": ("thoracic spine",),
    "abdomen": ("upper abdomen",),
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
