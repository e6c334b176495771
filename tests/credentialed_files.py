"""Small files in the published formats of MIMIC-CXR-JPG, Chest ImaGenome and CheXpert Plus, all invented."""

import csv
import gzip
import io
import json
import zipfile

# Column orders of the released files.
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows",
    "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
    "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
PLUS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id",
    "patient_report_date_order", "report", "section_narrative", "section_clinical_history",
    "section_history", "section_comparison", "section_technique", "section_procedure_comments",
    "section_findings", "section_impression", "section_end_of_impression", "section_summary",
    "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed", "insurance_type",
    "recent_bmi", "deceased", "split",
)  # fmt: skip
REGIONS = (
    "right lung", "right upper lung zone", "right mid lung zone", "right lower lung zone",
    "right hilar structures", "right apical zone", "right costophrenic angle", "right cardiophrenic angle",
    "right hemidiaphragm", "left lung", "left upper lung zone", "left mid lung zone", "left lower lung zone",
    "left hilar structures", "left apical zone", "left costophrenic angle", "left hemidiaphragm", "trachea",
    "spine", "right clavicle", "left clavicle", "aortic arch", "mediastinum", "upper mediastinum", "svc",
    "cardiac silhouette", "left cardiac silhouette", "right cardiac silhouette", "cavoatrial junction",
    "right atrium", "descending aorta", "carina", "left upper abdomen", "right upper abdomen", "abdomen",
    "left cardiophrenic angle",
)  # fmt: skip


def said(annotations, sample_id):
    """finding -> its row, of one study."""
    rows = annotations.findings.filter(sample_id=sample_id).iter_rows(named=True)
    return {row["finding"]: row for row in rows}


def table(header, rows):
    """CSV text of dicts; a column that a dict lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def dicom(n):
    return f"{n:08x}-00000000-00000000-00000000-00000000"


# (image, patient, study, view, date, time): study numbers are not in the order of time, times lost zeros.
IMAGES = (
    (1, 10010001, 50010003, "LATERAL", 21500101, "235959.0"),
    (2, 10010001, 50010003, "PA", 21500101, "235959.0"),
    (3, 10010001, 50010001, "AP", 21500103, "93506.343"),
    (4, 10010001, 50010002, "AP", 21500103, "213014.53100000002"),
    (5, 10010001, 50010002, "LL", 21500103, "213014.53100000002"),
    (6, 10010002, 50010004, "", 21600229, "0.187"),
    (7, 10010003, 50010005, "PA", 21610101, "80000"),
)
FIRST, SECOND, THIRD = (f"mimic/p10010001/s5001000{n}" for n in (3, 1, 2))
OTHER, LAST = "mimic/p10010002/s50010004", "mimic/p10010003/s50010005"
SPLITS = {10010001: "train", 10010002: "test", 10010003: "validate"}
WIDTH, HEIGHT = 2544, 3056
CHEXPERT = {
    50010003: {"No Finding": "1.0"},
    50010001: {"Pleural Effusion": "1.0", "Cardiomegaly": "-1.0", "Pneumothorax": "0.0", "Edema": "1.0"},
    50010002: {"Atelectasis": "1.0", "Pleural Effusion": "1.0", "No Finding": "1.0"},
    50010005: {"Pneumonia": "1.0", "Support Devices": "1.0"},
}
NEGBIO = {
    50010003: {"No Finding": "1.0"},
    50010001: {"Pleural Effusion": "1.0", "Cardiomegaly": "1.0", "Edema": "0.0", "Fracture": "1.0"},
    50010002: {"Atelectasis": "-1.0", "Pleural Effusion": "1.0"},
    50010005: {"Pneumonia": "0.0"},
}
REPORTS = {
    (10010001, 50010003): """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___M with cough  // pneumonia?

 FINDINGS:

 The lungs are clear.  Heart size is
 normal.

 IMPRESSION:

 No acute cardiopulmonary process.
""",
    (10010001, 50010001): """WET READ: ___ ___ ___ 8:19 AM
  Large left effusion.
 ______________________________________________________________________________
                                 FINAL REPORT
 AP CHEST, 9:35 A.M., ___

 HISTORY:  Dyspnea.

 IMPRESSION:  AP chest compared to ___:

 Moderate right pleural effusion is new.
""",
    (10010001, 50010002): """                                 FINAL REPORT
 FINDINGS AND IMPRESSION:  Small bilateral effusions.  Basal atelectasis.

 RECOMMENDATION(S):  Follow up in two weeks.
""",
    (10010003, 50010005): """                                 FINAL REPORT
 INDICATION: Fever.
""",
}


def image_rows(images=IMAGES):
    names = ("ViewPosition", "StudyDate", "StudyTime")
    return [
        {"dicom_id": dicom(n), "subject_id": patient, "study_id": study, "Rows": HEIGHT, "Columns": WIDTH}
        | dict(zip(names, rest, strict=True))
        for n, patient, study, *rest in images
    ]


def split_rows(images=IMAGES, splits=SPLITS):
    return [
        {"dicom_id": dicom(n), "study_id": study, "subject_id": patient, "split": splits[patient]}
        for n, patient, study, *_ in images
    ]


def label_rows(labels):
    patients = {study: patient for _, patient, study, *_ in IMAGES}
    return [{"subject_id": patients[study], "study_id": study, **row} for study, row in labels.items()]


def mimic_tables():
    """Name of each table -> (header, rows)."""
    ids = ("subject_id", "study_id")
    return {
        "metadata": (METADATA, image_rows()),
        "split": (("dicom_id", "study_id", "subject_id", "split"), split_rows()),
        "chexpert": ((*ids, *LABELS), label_rows(CHEXPERT)),
        "negbio": ((*ids, *LABELS), label_rows(NEGBIO)),
    }


def write_mimic(folder, tables=None, packed=True):
    """MIMIC-CXR-JPG's four tables in a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (header, rows) in (tables or mimic_tables()).items():
        path = folder / f"mimic-cxr-2.0.0-{name}.csv"
        content = table(header, rows).encode()
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)
    return folder


def write_reports(folder, packed):
    """The report texts, as a folder or as mimic-cxr-reports.zip in it; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"files/p{str(p)[:2]}/p{p}/s{s}.txt": text for (p, s), text in REPORTS.items()}
    if packed:
        with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return folder
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def region(name, *sentences, known=True, **changed):
    """A region's entry under "attributes"; sentences: (phrase, labels, severity cues)."""
    return {
        str(name): known,
        "bbox_name": name,
        "synsets": ["C0000000"],
        "name": str(name).capitalize(),
        "attributes": [list(labels) for _, labels, _ in sentences],
        "attributes_ids": [["C0000000" for _ in labels] for _, labels, _ in sentences],
        "phrases": [phrase for phrase, _, _ in sentences],
        "phrase_IDs": [f"50000000|{n}" for n, _ in enumerate(sentences)],
        "sections": ["finalreport" for _ in sentences],
        "comparison_cues": [[] for _ in sentences],
        "temporal_cues": [[] for _ in sentences],
        "severity_cues": [[f"severity|yes|{cue}" for cue in cues] for *_, cues in sentences],
        "texture_cues": [[] for _ in sentences],
        "object_id": f"0_{name}",
    } | changed


def box(name, corners, size=(WIDTH, HEIGHT)):
    """A region's entry under "objects": corners in pixels of the image, and on the padded 224 px image."""
    ratio = 224 / max(size)
    pads = [(224 - int(side * ratio)) // 2 for side in size]
    small = [int(value * ratio) + pads[n % 2] for n, value in enumerate(corners)]
    keys = ("x1", "y1", "x2", "y2")
    entry = {"object_id": f"0_{name}", "bbox_name": name, "synsets": ["C0000000"], "name": name.capitalize()}
    entry |= dict(zip(keys, small, strict=True))
    entry |= {"width": small[2] - small[0], "height": small[3] - small[1]}
    entry |= {f"original_{key}": value for key, value in zip(keys, corners, strict=True)}
    return entry | {"original_width": corners[2] - corners[0], "original_height": corners[3] - corners[1]}


def all_boxes():
    """36 boxes side by side, each 200 px wide and high."""
    return [
        box(name, [100 + n % 6 * 300, 50 + n // 6 * 400, 300 + n % 6 * 300, 250 + n // 6 * 400])
        for n, name in enumerate(REGIONS)
    ]


def graph(n, *regions, boxes=None):
    """The scene graph of image n of IMAGES."""
    _, patient, study, view, *_ = next(image for image in IMAGES if image[0] == n)
    return {
        "image_id": dicom(n), "viewpoint": view, "patient_id": patient, "study_id": study, "gender": "M",
        "age_decile": "60-70", "reason_for_exam": "Cough.", "StudyOrder": 1, "StudyDateTime": "",
        "objects": all_boxes() if boxes is None else boxes, "attributes": list(regions), "relationships": [],
    }  # fmt: skip


def write_graphs(folder, graphs, packed):
    """Scene graphs, as silver_dataset/scene_graph or the same with .zip; returns the folder."""
    silver = folder / "silver_dataset"
    silver.mkdir(parents=True)
    files = {f"{each['image_id']}_SceneGraph.json": json.dumps(each) for each in graphs}
    if packed:
        with zipfile.ZipFile(silver / "scene_graph.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"scene_graph/{name}", text)
        return folder
    (silver / "scene_graph").mkdir()
    for name, text in files.items():
        (silver / "scene_graph" / name).write_text(text)
    return folder


def plus_row(path, order, **changed):
    """One image of CheXpert Plus."""
    split, patient, _, name = path.split("/")
    lateral = "lateral" in name
    return {
        "path_to_image": path, "path_to_dcm": path.replace(".jpg", ".dcm"), "split": split,
        "frontal_lateral": "Lateral" if lateral else "Frontal", "ap_pa": "" if lateral else "AP",
        "deid_patient_id": patient, "patient_report_date_order": order, "report": "x", "age": "62.0",
        "sex": "Male", "section_accession_number": "This report has been anonymized.",
    } | changed  # fmt: skip


PLUS_ROWS = (
    plus_row(
        "train/patient00001/study2/view1_lateral.jpg", 1, section_impression="Another view.", sex="Female"
    ),
    plus_row(
        "train/patient00001/study2/view2_frontal.jpg", 1, ap_pa="PA", sex="Female",
        section_findings="\n", section_impression="\n1. Clear lungs.\n 2. No\neffusion, compared to ___.\n",
    ),
    plus_row(
        "train/patient00001/study1/view1_frontal.jpg", 2, sex="Female", ap_pa="LL",
        section_findings="Small left effusion.", section_impression='1. Effusion, "new".',
    ),
    plus_row("valid/patient00002/study1/view1_frontal.jpg", 1, age="0.0", sex="Unknown"),
    plus_row("train/patient00003/study1/view1_frontal.jpg", 1, age="411"),
)  # fmt: skip
PLUS_IMPRESSION = (
    {"Fracture": 1.0},
    {"No Finding": 1.0},
    {"Pleural Effusion": 1.0, "Edema": 0.0, "Pneumonia": -1.0},
    {"No Finding": 1.0, "Lung Lesion": 1.0},
    {"Cardiomegaly": 1.0},
)
PLUS_FINDINGS = (
    {"No Finding": 1.0},
    {"No Finding": 1.0},
    {"Pleural Effusion": 1.0, "Edema": 1.0, "Cardiomegaly": 0.0},
    {"No Finding": 1.0},
    {"No Finding": 1.0},
)


def label_lines(rows, labels):
    """JSON lines of label dicts in the order of the rows."""
    return "".join(
        json.dumps({"path_to_image": row["path_to_image"], **dict.fromkeys(LABELS), **said}) + "\n"
        for row, said in zip(rows, labels, strict=True)
    )


def write_plus(folder, rows=PLUS_ROWS, impression=PLUS_IMPRESSION, findings=PLUS_FINDINGS):
    """CheXpert Plus: the table, and the labels in chexbert_labels; returns the folder."""
    (folder / "chexbert_labels").mkdir(parents=True)
    (folder / "df_chexpert_plus_240401.csv").write_text(table(PLUS, rows))
    for name, labels in (("impression", impression), ("findings", findings)):
        text = label_lines(rows, labels)
        (folder / "chexbert_labels" / f"{name}_fixed.json").write_text(text)
    return folder
