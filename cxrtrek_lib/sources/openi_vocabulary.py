"""Open-i's words: MeSH tags and their qualifiers, each with the English term used here.

A tag is "Head" or "Head/qualifier/..."; case does not matter, since the table writes both "Lymph Nodes" and
"Lymph nodes". `openi.py` reads the table; a head that no rule below matches is counted there as unmapped.
"""

from cxrtrek_lib.sources import common

UNSATISFACTORY = "Technical Quality of Image Unsatisfactory"
SEVERITY = {"mild": "mild", "small": "mild", "moderate": "moderate", "severe": "severe", "large": "severe"}
# qualifier -> place, as it reads after "in the"
LOCATIONS = {
    "upper lobe": "upper lobe", "middle lobe": "middle lobe", "lower lobe": "lower lobe",
    "lingula": "lingula", "base": "lung base", "apex": "lung apex", "hilum": "hilum",
    "retrocardiac": "retrocardiac region", "paratracheal": "paratracheal region",
    "mediastinum": "mediastinum", "costophrenic angle": "costophrenic angle",
    "thoracic vertebrae": "thoracic spine", "lumbar vertebrae": "lumbar spine",
    "cervical vertebrae": "cervical spine", "ribs": "ribs", "clavicle": "clavicle", "shoulder": "shoulder",
    "humerus": "humerus", "coronary vessels": "coronary arteries", "abdomen": "abdomen", "neck": "neck",
    "breast": "breast",
}  # fmt: skip
# A place that repeats the finding's own name.
IMPLIED = {
    ("hilar enlargement", "hilum"), ("costophrenic angle blunting", "costophrenic angle"),
    ("enlarged cardiomediastinum", "mediastinum"), ("mediastinal mass", "mediastinum"),
    ("mediastinal lipomatosis", "mediastinum"), ("mediastinal shift", "mediastinum"),
    ("rib fracture", "ribs"), ("clavicle fracture", "clavicle"), ("breast implant", "breast"),
}  # fmt: skip

# "Head" or "Head/qualifier/..." -> canonical name, matched when the tag has all the qualifiers; the form with
# most qualifiers wins, then the first. A head that stands only with qualifiers ("Lung/...") says nothing
# alone.
OPENI: dict[str, str | None] = common.inverted({
    # The whole study, its technique, normal structures, the abdomen.
    None: (
        "normal", "No Indexing", UNSATISFACTORY, "Nipple Shadow", "Contrast Media", "Epicardial Fat",
        "Cholelithiasis", "Calcinosis/breast implants", "Calcinosis/ribs",
    ),
    "pleural effusion": ("Pleural Effusion", "Hemothorax"),
    "pneumothorax": ("Pneumothorax",),
    "hydropneumothorax": ("Hydropneumothorax", "Hemopneumothorax"),
    "costophrenic angle blunting": ("Costophrenic Angle/blunted", "Sulcus/blunted", "Pleura/blunted"),
    "pleural thickening": ("Thickening/pleura",),
    "pleural plaque": ("Calcinosis/pleura",),
    "lung opacity": ("Opacity/lung", "Opacity/retrocardiac", "Density/lung", "Density/retrocardiac"),
    "airspace opacity": ("Airspace Disease", "Opacity/pulmonary alveoli"),
    "consolidation": ("Consolidation",),
    "infiltrate": ("Infiltrate",),
    "pneumonia": ("Pneumonia",),
    "atelectasis": ("Pulmonary Atelectasis",),
    "volume loss": ("Volume Loss",),
    "edema": ("Pulmonary Edema",),
    "vascular congestion": ("Pulmonary Congestion",),
    "interstitial opacity": (
        "Markings/interstitial", "Lung Diseases, Interstitial", "Opacity/lung/interstitial",
        "Lung/interstitial/prominent", "Thickening/lung/interstitial",
    ),
    "nodule": ("Nodule/lung",),
    "mass": ("Mass/lung",),
    "mediastinal mass": ("Mass/mediastinum", "Mass/paratracheal"),
    "granuloma": ("Calcified Granuloma", "Granuloma", "Granulomatous Disease"),
    "calcification": ("Calcinosis",),
    "cavitation": ("Cavitation",),
    "lung cyst": ("Cysts/lung",),
    "tuberculosis": ("Tuberculosis",),
    "tuberculosis sequelae": ("Tuberculosis/healed",),
    "sarcoidosis": ("Sarcoidosis",),
    "cystic fibrosis": ("Cystic Fibrosis",),
    "pulmonary fibrosis": ("Pulmonary Fibrosis",),
    "scarring": ("Cicatrix",),
    "bronchiectasis": ("Bronchiectasis",),
    "prominent bronchovascular markings": ("Markings/bronchovascular",),
    "emphysema": ("Emphysema", "Pulmonary Emphysema"),
    "bulla": ("Bullous Emphysema", "Blister"),
    "copd": ("Pulmonary Disease, Chronic Obstructive",),
    "hyperinflation": ("Lung/hyperdistention", "Lung, Hyperlucent"),
    "low lung volumes": ("Lung/hypoinflation",),
    "azygos lobe": ("Lung/azygos lobe",),
    "flattened diaphragm": ("Diaphragm/flattened",),
    "hemidiaphragm elevation": ("Diaphragm/elevated",),
    "diaphragmatic eventration": ("Diaphragmatic Eventration",),
    "cardiomegaly": (
        "Cardiomegaly", "Cardiac Shadow/enlarged", "Cardiac Shadow/borderline", "Heart/enlarged",
    ),
    "enlarged cardiomediastinum": ("Mediastinum/enlarged", "Mediastinum/prominent"),
    "mediastinal lipomatosis": ("Adipose Tissue/mediastinum",),
    "mediastinal shift": ("Shift/mediastinum", "Shift/trachea"),
    "hilar enlargement": ("Lung/hilum/enlarged", "Lung/hilum/prominent"),
    "lymphadenopathy": (
        "Lymph Nodes/enlarged", "Lung/hilum/lymph nodes/enlarged", "Mediastinum/lymph nodes/enlarged",
        "Trachea, Carina/lymph nodes/enlarged",
    ),
    "lymph node calcification": ("Calcinosis/lymph nodes",),
    "heart failure": ("Heart Failure",),
    "pericardial effusion": ("Pericardial Effusion",),
    "heart valve calcification": ("Calcinosis/mitral valve", "Calcinosis/aortic valve"),
    "aortic elongation": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
    "aortic atherosclerosis": (
        "Atherosclerosis/aorta", "Atherosclerosis/aorta, thoracic", "Calcinosis/aorta",
        "Calcinosis/aorta, thoracic",
    ),
    "aortic enlargement": (
        "Aorta/enlarged", "Aorta/prominent", "Aorta, Thoracic/enlarged", "Aorta, Thoracic/prominent",
    ),
    "aortic aneurysm": ("Aortic Aneurysm",),
    "pulmonary artery enlargement": ("Pulmonary Artery/enlarged", "Pulmonary Artery/prominent"),
    "pulmonary hypertension": ("Hypertension, Pulmonary",),
    "pneumomediastinum": ("Mediastinal Emphysema",),
    "fracture": ("Fractures, Bone",),
    "rib fracture": ("Fractures, Bone/ribs",),
    "clavicle fracture": ("Fractures, Bone/clavicle",),
    "humeral fracture": ("Fractures, Bone/humerus",),
    # "Deformity" of a vertebra is a wedge or compression deformity in each of the ten reports read for it.
    "vertebral compression": (
        "Deformity/thoracic vertebrae", "Deformity/lumbar vertebrae", "Fractures, Bone/thoracic vertebrae",
        "Fractures, Bone/lumbar vertebrae",
    ),
    "degenerative spine changes": (
        "Thoracic Vertebrae/degenerative", "Spine/degenerative", "Lumbar Vertebrae/degenerative",
        "Cervical Vertebrae/degenerative", "Osteophyte", "Spondylosis", "Arthritis/spine",
        "Arthritis/thoracic vertebrae", "Arthritis/cervical vertebrae",
        "Hyperostosis, Diffuse Idiopathic Skeletal",
    ),
    "degenerative joint changes": (
        "Arthritis", "Shoulder/degenerative", "Humerus/degenerative", "Osteophyte/shoulder",
    ),
    "scoliosis": ("Scoliosis",),
    "kyphosis": ("Kyphosis",),
    "osteopenia": ("Bone Diseases, Metabolic", "Osteoporosis"),
    "bone lesion": ("Expansile Bone Lesions",),
    "thoracic cage deformity": ("Deformity/ribs", "Deformity/thorax", "Deformity/sternum"),
    "pectus excavatum": ("Funnel Chest",),
    "pectus carinatum": ("Pectus Carinatum",),
    "soft tissue mass": ("Mass/breast",),
    "mastectomy": ("Mastectomy",),
    "postsurgical change": ("Pneumonectomy",),
    "hiatal hernia": ("Hernia, Hiatal",),
    "hernia": ("Hernia, Diaphragmatic",),
    "subcutaneous emphysema": ("Subcutaneous Emphysema", "Subcutaneous  Emphysema"),
    "pneumoperitoneum": ("Pneumoperitoneum",),
    "support devices": ("Implanted Medical Device", "Medical Device", "Tube, Inserted"),
    "central venous catheter": ("Catheters, Indwelling",),
    "orthopedic hardware": (
        "Spinal Fusion", "Implanted Medical Device/humerus", "Implanted Medical Device/shoulder",
    ),
    "heart valve prosthesis": (
        "Implanted Medical Device/aortic valve", "Implanted Medical Device/mitral valve",
    ),
    "stent": ("Stents",),
    "aortic stent graft": ("Stents/aorta",),
    "surgical material": ("Surgical Instruments", "Sutures"),
    "foreign body": ("Foreign Bodies",),
    "breast implant": ("Breast Implants",),
})  # fmt: skip


def _rules() -> dict[str, list[tuple[frozenset[str], str | None]]]:
    """Head, lower case -> [(qualifiers that must all stand in the tag, finding)], most qualifiers first."""
    rules: dict[str, list[tuple[frozenset[str], str | None]]] = {}
    for tag, name in sorted(OPENI.items(), key=lambda item: -item[0].count("/")):
        head, *needed = tag.lower().split("/")
        rules.setdefault(head, []).append((frozenset(needed), name))
    return rules


RULES = _rules()
