"""PadChest's words: its finding labels and its location words, each with the English term used here.

Every label and every location word of the table stands in this file, mapped or left out with the reason.
Labels are stripped of the spaces that stray before some of them; `padchest.py` reads the table.
Source: Bustos et al. 2020, PadChest, Medical Image Analysis 66, 101797 (label and location trees).
"""

import polars as pl

from cxrtrek_lib.findings import DIAGNOSES
from cxrtrek_lib.sources import common

NORMAL, UNCHANGED, EXCLUDE, SUBOPTIMAL = "normal", "unchanged", "exclude", "suboptimal study"
# Labels that name no finding, and why.
NOT_FINDINGS = {
    NORMAL: "the study, or what a sentence speaks of, is normal",
    UNCHANGED: "compares with a study that is not named",
    EXCLUDE: "the labellers' mark of a sentence that says nothing",
    SUBOPTIMAL: "technique: becomes studies.quality",
    "": "a sentence without a label of the tree",
    "chronic changes": "says neither what changed nor where",
    "nipple shadow": "a normal structure that looks like a nodule",
    "end on vessel": "a normal structure that looks like a nodule",
    "obesity": "about the patient, not the film",
    "mass": "site not named: pulmonary, mediastinal, pleural, breast and soft tissue masses have own labels",
    "cyst": "site not named",
    "lipomatosis": "site not named",
    "prosthesis": "what is replaced is not named",
}
# label -> canonical name, or None for the labels above
PADCHEST: dict[str, str | None] = {**dict.fromkeys(NOT_FINDINGS), **common.inverted({
    "pleural effusion": (
        "pleural effusion", "loculated pleural effusion", "loculated fissural effusion",
        "pleural effusion both sides",
    ),
    "pneumothorax": ("pneumothorax",),
    "hydropneumothorax": ("hydropneumothorax",),
    "costophrenic angle blunting": ("costophrenic angle blunting",),
    "pleural thickening": (
        "pleural thickening", "apical pleural thickening", "fissure thickening", "minor fissure thickening",
        "major fissure thickening",
    ),
    "pleural plaque": ("pleural plaques", "calcified pleural plaques", "calcified pleural thickening"),
    "pleural mass": ("pleural mass",),
    "empyema": ("empyema",),
    "lung opacity": ("increased density",),
    "airspace opacity": ("alveolar pattern",),
    "consolidation": ("consolidation",),
    "infiltrate": ("infiltrates",),
    "pneumonia": ("pneumonia", "atypical pneumonia"),
    "atelectasis": (
        "atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis",
        "total atelectasis", "round atelectasis", "atelectasis basal",
    ),
    "volume loss": ("volume loss",),
    "edema": ("pulmonary edema",),
    "vascular congestion": (
        "hilar congestion", "vascular redistribution", "central vascular redistribution", "kerley lines",
        "pulmonary venous hypertension",
    ),
    "interstitial opacity": (
        "interstitial pattern", "reticular interstitial pattern", "reticulonodular interstitial pattern",
    ),
    "ground glass opacity": ("ground glass pattern",),
    "miliary pattern": ("miliary opacities",),
    "air bronchogram": ("air bronchogram",),
    "nodule": ("nodule", "multiple nodules"),
    "mass": ("pulmonary mass",),
    "pseudonodule": ("pseudonodule",),
    "lung metastasis": ("lung metastasis",),
    "lepidic adenocarcinoma": ("lepidic adenocarcinoma",),
    "lymphangitic carcinomatosis": ("lymphangitis carcinomatosa",),
    "granuloma": ("granuloma", "calcified granuloma"),
    "calcification": ("calcified densities",),
    "cavitation": ("cavitation",),
    "lung abscess": ("abscess",),
    "air-fluid level": ("air fluid level",),
    "tuberculosis": ("tuberculosis",),
    "tuberculosis sequelae": ("tuberculosis sequelae",),
    "pulmonary fibrosis": ("pulmonary fibrosis",),
    "asbestosis": ("asbestosis signs",),
    "postradiation change": ("post radiotherapy changes",),
    "scarring": ("fibrotic band",),
    "bronchiectasis": ("bronchiectasis",),
    "prominent bronchovascular markings": ("bronchovascular markings",),
    "respiratory distress": ("respiratory distress",),
    "emphysema": ("emphysema",),
    "bulla": ("bullas",),
    "copd": ("COPD signs",),
    "hyperinflation": ("hyperinflated lung", "air trapping"),
    "low lung volumes": ("hypoexpansion", "hypoexpansion basal"),
    "decreased lung vascularity": ("lung vascular paucity",),
    "azygos lobe": ("azygos lobe",),
    "flattened diaphragm": ("flattened diaphragm",),
    "hemidiaphragm elevation": ("hemidiaphragm elevation",),
    "diaphragmatic eventration": ("diaphragmatic eventration",),
    "cardiomegaly": ("cardiomegaly",),
    "enlarged cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "mediastinal lipomatosis": ("mediastinic lipomatosis",),
    "mediastinal mass": ("mediastinal mass",),
    "mediastinal shift": ("mediastinal shift", "tracheal shift"),
    "azygoesophageal recess shift": ("azygoesophageal recess shift",),
    "hilar enlargement": ("hilar enlargement", "vascular hilar enlargement"),
    "lymphadenopathy": ("adenopathy",),
    "lymph node calcification": ("calcified adenopathy", "calcified mediastinal adenopathy"),
    "heart failure": ("heart insufficiency",),
    "pericardial effusion": ("pericardial effusion",),
    "dextrocardia": ("dextrocardia",),
    "heart valve calcification": ("heart valve calcified",),
    "aortic elongation": (
        "aortic elongation", "descendent aortic elongation", "ascendent aortic elongation",
    ),
    "supra-aortic vessel elongation": ("supra aortic elongation",),
    "aortic atherosclerosis": ("aortic atheromatosis",),
    "aortic enlargement": ("aortic button enlargement",),
    "aortic aneurysm": ("aortic aneurysm",),
    "right-sided aortic arch": ("right sided aortic arch",),
    "pulmonary artery enlargement": ("pulmonary artery enlargement",),
    "pulmonary hypertension": ("pulmonary hypertension", "pulmonary artery hypertension"),
    "pneumomediastinum": ("pneumomediastinum",),
    "esophageal dilatation": ("esophagic dilatation",),
    "fracture": ("fracture",),
    "rib fracture": ("rib fracture", "callus rib fracture"),
    "clavicle fracture": ("clavicle fracture",),
    "humeral fracture": ("humeral fracture",),
    "vertebral compression": (
        "vertebral compression", "vertebral anterior compression", "vertebral fracture",
    ),
    "degenerative spine changes": ("vertebral degenerative changes", "axial hyperostosis"),
    "degenerative joint changes": (
        "non axial articular degenerative changes", "sternoclavicular junction hypertrophy",
    ),
    "subacromial space narrowing": ("subacromial space narrowing",),
    "scoliosis": ("scoliosis",),
    "kyphosis": ("kyphosis",),
    "osteopenia": ("osteopenia", "osteoporosis"),
    "bone lesion": ("sclerotic bone lesion", "lytic bone lesion", "blastic bone lesion", "bone metastasis"),
    "thoracic cage deformity": ("thoracic cage deformation",),
    "pectus excavatum": ("pectum excavatum",),
    "pectus carinatum": ("pectum carinatum",),
    "cervical rib": ("cervical rib",),
    "costochondral hypertrophy": ("costochondral junction hypertrophy",),
    "soft tissue mass": ("soft tissue mass", "breast mass"),
    "gynecomastia": ("gynecomastia",),
    "calcified fibroadenoma": ("calcified fibroadenoma",),
    "mastectomy": ("mastectomy",),
    "postsurgical change": (
        "surgery", "surgery breast", "surgery heart", "surgery humeral", "surgery lung", "surgery neck",
    ),
    "hiatal hernia": ("hiatal hernia",),
    "subcutaneous emphysema": ("subcutaneous emphysema",),
    "pneumoperitoneum": ("pneumoperitoneo",),
    "chilaiditi sign": ("Chilaiditi sign",),
    "goiter": ("goiter",),
    "support devices": ("catheter", "electrical device", "double J stent", "nephrostomy tube"),
    "pacemaker": ("pacemaker", "dual chamber device", "single chamber device", "dai"),
    "central venous catheter": (
        "central venous catheter", "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
    ),
    "endotracheal tube": ("endotracheal tube",),
    "tracheostomy tube": ("tracheostomy tube",),
    "enteric tube": ("NSG tube", "gastrostomy tube"),
    "chest tube": ("chest drain tube",),
    "sternal wires": ("sternotomy",),
    "heart valve prosthesis": (
        "artificial heart valve", "artificial mitral heart valve", "artificial aortic heart valve",
    ),
    "stent": ("endoprosthesis",),
    "aortic stent graft": ("aortic endoprosthesis",),
    "ventriculoperitoneal shunt": ("ventriculoperitoneal drain tube",),
    "orthopedic hardware": ("osteosynthesis material", "humeral prosthesis"),
    "surgical material": ("suture material", "bone cement"),
    "foreign body": ("metal", "abnormal foreign body", "external foreign body"),
    "breast implant": ("mammary prosthesis",),
})}  # fmt: skip

# "loc right" beside a device may mean the right atrium or ventricle, in which its tip or lead lies. Without a
# vein that gives the device's side, "right" is not taken: of 29 umbilical catheters called "loc right", 23
# reports speak of the right atrium.
RIGHT_HEART = (
    "central venous catheter", "central venous catheter via umbilical vein", "pacemaker",
    "reservoir central venous catheter", "dual chamber device", "single chamber device", "dai",
)  # fmt: skip
# With such a vein, "left" and "right" in one sentence are a left catheter with its tip in the right atrium.
NECK_VEINS = ("central venous catheter via jugular vein", "central venous catheter via subclavian vein")

# Labels that name a place themselves.
LABEL_PLACES = {
    "apical pleural thickening": "lung apex", "atelectasis basal": "lung base",
    "hypoexpansion basal": "lung base", "fissure thickening": "interlobar fissure",
    "minor fissure thickening": "minor fissure", "major fissure thickening": "major fissure",
    "loculated fissural effusion": "interlobar fissure",
    "superior mediastinal enlargement": "superior mediastinum",
    "calcified mediastinal adenopathy": "mediastinum",
    "ascendent aortic elongation": "ascending aorta", "descendent aortic elongation": "descending aorta",
    "aortic button enlargement": "aortic arch",
    "artificial mitral heart valve": "mitral position", "artificial aortic heart valve": "aortic position",
    "surgery breast": "breast", "surgery heart": "heart", "surgery humeral": "humerus",
    "surgery lung": "lung", "surgery neck": "neck", "humeral prosthesis": "humerus", "breast mass": "breast",
    "sternoclavicular junction hypertrophy": "sternoclavicular joint", "bone cement": "spine",
}  # fmt: skip

# Findings for which a group of places is one. A nodule "in the ribs" is only projected on them.
LUNG = DIAGNOSES - {"heart failure", "copd", "pulmonary hypertension", "respiratory distress"} | {
    "pleural effusion", "pneumothorax", "hydropneumothorax", "pleural thickening", "pleural plaque",
    "pleural mass", "lung opacity", "airspace opacity", "consolidation", "infiltrate", "atelectasis",
    "volume loss", "edema", "vascular congestion", "interstitial opacity", "ground glass opacity",
    "miliary pattern", "air bronchogram", "nodule", "mass", "pseudonodule", "granuloma", "calcification",
    "cavitation", "air-fluid level", "pulmonary fibrosis", "scarring", "bronchiectasis",
    "prominent bronchovascular markings", "emphysema", "bulla", "hyperinflation", "low lung volumes",
}  # fmt: skip
NODES = frozenset({"lymphadenopathy", "lymph node calcification"})
HILAR = LUNG | NODES | {"surgical material"}
MEDIASTINAL = NODES | {
    "mediastinal mass", "enlarged cardiomediastinum", "mediastinal lipomatosis", "pneumomediastinum",
    "hiatal hernia", "goiter", "calcification", "surgical material",
}  # fmt: skip
BESIDE = MEDIASTINAL | {"lung opacity", "nodule", "mass"}
SPINE = frozenset(
    {
        "vertebral compression",
        "degenerative spine changes",
        "bone lesion",
        "osteopenia",
        "orthopedic hardware",
    }
)
RIBS = frozenset({"rib fracture", "bone lesion", "thoracic cage deformity"})
LIMB = frozenset({"fracture", "bone lesion", "orthopedic hardware", "degenerative joint changes"})
JOINT = LIMB | {"calcification"}
SOFT = frozenset({
    "soft tissue mass", "subcutaneous emphysema", "calcification", "surgical material", "foreign body",
    "postsurgical change", "support devices",
})  # fmt: skip
CATHETER = frozenset({"central venous catheter"})
TUBE = frozenset({"enteric tube"})
ARCH = frozenset({"aortic elongation", "aortic atherosclerosis", "aortic aneurysm"})

# place, as it reads after "in the": the table's words for it, and the findings that it is a place of
PLACES: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "upper lobe": (("loc upper lobe", "loc right upper lobe", "loc left upper lobe"), LUNG),
    "middle lobe": (("loc middle lobe",), LUNG),
    "lingula": (("loc lingula",), LUNG),
    "lower lobe": (("loc lower lobe", "loc right lower lobe", "loc left lower lobe"), LUNG),
    "lung base": (("loc basal", "loc basal bilateral"), LUNG),
    "lung apex": (("loc apical",), LUNG),
    "upper lung zone": (("loc upper lung field",), LUNG),
    "mid lung zone": (("loc middle lung field",), LUNG),
    "lower lung zone": (("loc lower lung field",), LUNG),
    "perihilar region": (("loc perihilar",), LUNG),
    "suprahilar region": (("loc suprahilar",), HILAR),
    "infrahilar region": (("loc infrahilar",), HILAR),
    "hilum": (("loc hilar", "loc hilar bilateral"), HILAR - {"vascular congestion"}),
    "retrocardiac region": (("loc retrocardiac",), LUNG | {"hiatal hernia"}),
    "paracardiac region": (("loc paracardiac",), LUNG),
    "costophrenic angle": (
        ("loc costophrenic angle", "loc left costophrenic angle", "loc right costophrenic angle",
         "loc bilateral costophrenic angle"),
        LUNG,
    ),
    "cardiophrenic angle": (("loc cardiophrenic angle",), LUNG | {"mediastinal lipomatosis"}),
    "paramediastinal region": (("loc paramediastinum",), LUNG),
    "subpleural region": (("loc subpleural",), LUNG),
    "interlobar fissure": (("loc fissure",), LUNG),
    "minor fissure": (("loc minor fissure",), LUNG),
    "major fissure": (("loc major fissure",), LUNG),
    "mediastinum": (("loc mediastinum",), NODES | {"hiatal hernia", "calcification", "surgical material"}),
    "superior mediastinum": (("loc superior mediastinum",), MEDIASTINAL),
    "lower mediastinum": (("loc lower mediastinum",), MEDIASTINAL),
    "anterior mediastinum": (("loc anterior mediastinum",), MEDIASTINAL),
    "middle mediastinum": (("loc middle mediastinum",), MEDIASTINAL),
    "posterior mediastinum": (("loc posterior mediastinum",), MEDIASTINAL),
    "paratracheal region": (("loc paratracheal",), BESIDE),
    "aortopulmonary window": (("loc aortopulmonary window",), BESIDE),
    "aortic arch": (("loc aortic button",), ARCH),
    "coronary arteries": (("loc coronary",), frozenset({"stent", "calcification"})),
    "carotid artery": (("loc carotid artery",), frozenset({"calcification"})),
    "superior vena cava": (("loc superior cave vein",), CATHETER),
    "brachiocephalic vein": (("loc brachiocephalic veins",), CATHETER),
    "pulmonary artery": (("loc pulmonary artery",), CATHETER),
    "stomach": (("loc gastric chamber",), TUBE),
    "esophagus": (("loc esophageal",), TUBE),
    "region below the diaphragm": (("loc infradiaphragm",), TUBE),
    "region above the diaphragm": (("loc supradiaphragm",), TUBE),
    "spine": (("loc column",), SPINE - {"vertebral compression", "degenerative spine changes"}),
    "thoracic spine": (("loc dorsal vertebrae",), SPINE),
    "lumbar spine": (("loc lumbar vertebrae",), SPINE),
    "cervical spine": (("loc cervical vertebrae",), SPINE),
    "intervertebral spaces": (("loc intersomatic space",), SPINE),
    "ribs": (("loc rib",), RIBS - {"rib fracture"}),
    "anterior ribs": (("loc anterior rib",), RIBS),
    "posterior ribs": (("loc posterior rib",), RIBS),
    "costal cartilages": (("loc rib cartilage",), frozenset({"calcification"})),
    "clavicle": (("loc clavicle",), LIMB),
    "scapula": (("loc scapula",), LIMB),
    "humerus": (("loc humerus",), LIMB),
    "humeral head": (("loc humeral head",), LIMB | {"humeral fracture"}),
    "humeral neck": (("loc humeral neck",), LIMB | {"humeral fracture"}),
    "shoulder": (("loc shoulder",), JOINT),
    "glenohumeral joint": (("loc glenohumeral joint",), JOINT),
    "acromioclavicular joint": (("loc acromioclavicular joint",), JOINT),
    "rotator cuff": (("loc rotator cuff",), frozenset({"calcification"})),
    "supraspinatus tendon": (("loc supraspisnous",), frozenset({"calcification"})),
    "axilla": (("loc axilar",), SOFT | NODES),
    "neck": (("loc cervical",), SOFT | NODES | {"orthopedic hardware"}),
    "pectoral region": (("loc pectoral",), SOFT | {"pacemaker", "calcified fibroadenoma"}),
    "soft tissues": (("loc soft tissue",), SOFT - {"soft tissue mass"}),
    "extrapleural space": (("loc extrapleural",), frozenset({"soft tissue mass"})),
    "paravertebral region": (("loc paravertebral",), frozenset({"soft tissue mass", "lung opacity", "mass"})),
    "upper abdomen": (("loc hypochondrium", "loc right hypochondrium", "loc left hypochondrium"), SOFT),
    "epigastrium": (("loc epigastric",), SOFT),
    "gallbladder region": (("loc gallbladder",), SOFT),
}  # fmt: skip
# Words that are no place of their own, and why.
NOT_PLACES = {
    **dict.fromkeys(("loc left", "loc right", "loc bilateral", "loc diffuse bilateral"), "a side"),
    **dict.fromkeys(
        ("loc cardiac", "loc aortic", "loc tracheal", "loc supra aortic", "loc nipple", "loc pleural",
         "loc bronchi", "loc peribronchi", "loc diaphragm", "loc thymus", "loc costoesternal"),
        "the organ that the label names already",
    ),
    **dict.fromkeys(("loc hemithorax", "loc lung field", "loc bone", "loc extrapulmonary"), "too wide"),
    **dict.fromkeys(("loc subsegmental", "loc lobar"), "an extent"),
    **dict.fromkeys(("loc central", "loc subclavian vein", "loc subcutaneous"), "the route of a catheter"),
    "loc airways": "too rare and too wide",
}  # fmt: skip
# "increased density" is a lung opacity unless its place lies outside the lungs: the words that say so, and
# those with which it may lie in a lung after all.
DENSITY = "increased density"
INSIDE = frozenset(
    word for words, names in PLACES.values() if "lung opacity" in names for word in words
) | {"loc hemithorax", "loc lung field", "loc pleural", "loc bronchi", "loc peribronchi", "loc subsegmental",
     "loc lobar", "loc central", "loc airways", "loc diaphragm", "loc cardiac"}  # fmt: skip
OUTSIDE = frozenset(
    word for words, names in PLACES.values() if "lung opacity" not in names for word in words
) | {"loc bone", "loc extrapulmonary", "loc nipple", "loc costoesternal"}  # fmt: skip
# A place that another one, named too, makes more precise.
WIDER = {
    "mediastinum": ("superior mediastinum", "lower mediastinum", "anterior mediastinum", "middle mediastinum",
                    "posterior mediastinum", "paratracheal region", "aortopulmonary window"),
    "interlobar fissure": ("minor fissure", "major fissure"),
    "region below the diaphragm": ("stomach",),
    "spine": ("thoracic spine", "lumbar spine", "cervical spine", "intervertebral spaces"),
    "ribs": ("anterior ribs", "posterior ribs"),
    "humerus": ("humeral head", "humeral neck"),
    "shoulder": ("glenohumeral joint", "acromioclavicular joint", "humeral head"),
    "soft tissues": ("axilla", "neck", "pectoral region"),
    "upper abdomen": ("gallbladder region", "epigastrium"),
    "retrocardiac region": ("lower mediastinum",),
}  # fmt: skip


def place_table() -> pl.DataFrame:
    """(word, finding, place): each location word, for each finding that it is a place of."""
    rows = [
        (word, name, place) for place, (words, names) in PLACES.items() for word in words for name in names
    ]
    return pl.DataFrame(rows, schema=["word", "finding", "place"], orient="row")
