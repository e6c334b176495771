"""Templates are checked at load; each stage asks what its evidence allows, and nothing else."""

import shutil

import polars as pl
import pytest
import yaml
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import attributes, build, identification, paths, reporting, tables, wording
from cxrtrek_lib.findings import CORE

NONE = boxes()


def ask(study_rows, finding_rows=(), box_rows=(), seed=0):
    return build.questions(studies(*study_rows), findings(*finding_rows), boxes(*box_rows), seed)


def answers(qa, stage, **where):
    return qa.filter(pl.col("stage") == stage).filter(**where)["answer"].to_list()


def options(qa, **where):
    """Option texts and right answers without their labels."""
    bare = pl.element().str.replace(r"^(?:[A-H]\.|\d\.|\d\)\.) ", "")
    row = qa.filter(**where)
    assert row.height == 1
    lists = row.select(pl.col("option_list", "answer_list").list.eval(bare)).row(0)
    return sorted(lists[0]), lists[1]


# Templates


@pytest.fixture
def templates(tmp_path):
    shutil.copytree(paths.TEMPLATES, tmp_path / "t")
    return tmp_path / "t"


def edit(folder, stage, change):
    path = folder / f"stage{stage}.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("stage", "change", "parts"),
    [
        (2, lambda c: c["questions"]["presence"]["ask"].append("Any {findng}?"),
         ["presence.ask[4]", "{findng}"]),
        (2, lambda c: c["questions"]["presence"]["ask"].append("Anything?"),
         ["presence.ask[4] lacks", "{finding}"]),
        (2, lambda c: c["questions"].pop("list"), ["questions has no key 'list'"]),
        (2, lambda c: c["questions"].update(extra={}), ["unknown key 'extra'"]),
        (2, lambda c: c["questions"]["presence"]["answers"].update(absent="None."), ["must begin with 'No'"]),
        (3, lambda c: c["questions"]["side"]["answers"].pop("left"), ["side.answers has no key 'left'"]),
        (3, lambda c: c["questions"]["side"].update(qtype="essay"), ["side.qtype", "'essay'"]),
        (5, lambda c: c["questions"]["change"].update(task_type="Compare"),
         ["change.task_type", "'Compare'"]),
        (5, lambda c: c["questions"]["change"].update(ask=[]), ["change.ask must be a list"]),
        (8, lambda c: c["questions"]["summary"]["answers"].update(absent=True),
         ["answers.absent must be a text"]),
        (8, lambda c: c.update(stage=7), ["stage is 7", "8"]),
    ],
)  # fmt: skip
def test_a_wrong_template_is_named(templates, stage, change, parts):
    edit(templates, stage, change)
    with pytest.raises(ValueError) as error:
        wording.load(templates)
    text = str(error.value)
    assert "\n" not in text and f"stage{stage}.yaml" in text
    assert all(part in text for part in parts), text


def test_missing_broken_and_needless_stages(templates):
    (templates / "stage4.yaml").write_text("stage: 4\nquestions: {}\n")
    with pytest.raises(ValueError, match="stage4.yaml: no question is built for this stage"):
        wording.load(templates)
    (templates / "stage4.yaml").unlink()
    (templates / "stage5.yaml").write_text("stage: 5\nquestions: [\n")
    with pytest.raises(ValueError, match="stage5.yaml, line .*not valid YAML"):
        wording.load(templates)
    (templates / "stage5.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="stage5.yaml: the template of stage 5 is missing"):
        wording.load(templates)


def test_an_edited_wording_is_what_is_asked(templates):
    def plainer(content):
        content["questions"]["presence"]["ask"] = ["See any {finding}?"]
        content["questions"]["presence"]["style"] = [""]

    edit(templates, 2, plainer)
    frames = studies({"sample_id": "made/a"}), findings(("made/a", "edema", "present", 1)), NONE
    qa = build.questions(*frames, 0, wording.load(templates))
    assert "See any edema?" in qa["question"].to_list()


# Stage 1


def test_views():
    qa = ask([{"sample_id": f"made/{i}", "views": ["AP", "LATERAL"]} for i in range(30)])
    assert qa["stage"].to_list() == [1] * 30  # nothing else is known
    open_answers = set(answers(qa, 1, qtype="captioning"))
    assert open_answers == {"Image 1: anteroposterior (AP) view; image 2: lateral view."}
    choice = qa.filter(qtype="single-choice")
    for row in choice.iter_rows(named=True):
        right = "lateral" if "image 2" in row["question"] else "AP"
        assert [row["answer"]] == row["answer_list"] and row["answer"].endswith(right)
    assert 5 < choice.height < 25
    assert set(choice["fact"]) == {"view|1", "view|2"}


def test_unknown_views_are_not_asked_about():
    assert ask([{"sample_id": "made/a", "views": ["UNKNOWN"]}]).height == 0
    qa = ask([{"sample_id": f"made/{i}", "views": ["UNKNOWN", "LATERAL"]} for i in range(20)])
    assert qa["question"].str.contains("image 2").all() and qa["answer"].str.ends_with("lateral").all()
    assert qa.height == 20


def test_exposure_where_it_is_known():
    rows = [{"sample_id": f"made/{i}", "exposure": e} for i, e in enumerate(tables.EXPOSURES * 8)]
    qa = (
        ask(rows)
        .filter(task_type="Quality_Assessment")
        .join(studies(*rows).select("sample_id", "exposure"), on="sample_id")
    )
    assert qa.height == 24 and set(qa["qtype"]) == {"captioning", "single-choice"}
    assert all(row["exposure"] in row["answer"] for row in qa.iter_rows(named=True))


# Stage 2


def test_only_known_statuses_are_asked_and_no_needs_an_absence():
    facts = [
        ("made/a", "edema", "present", 1), ("made/a", "pneumothorax", "absent", 1),
        ("made/a", "fracture", "uncertain", 1), ("made/a", "cardiomegaly", "absent", 3),
    ]  # fmt: skip
    qa = ask([{"sample_id": "made/a"}], facts).filter(qtype="yes_no")
    assert dict(qa.select("fact", "answer").rows()) == {
        "edema|presence": "Yes.",
        "pneumothorax|presence": "No.",
    }
    assert dict(qa.select("fact", "evidence").rows())["edema|presence"] == "made: edema"


def test_targets_tell_devices_from_abnormalities():
    qa = ask(
        [{"sample_id": "made/a"}], [("made/a", "pacemaker", "present", 1), ("made/a", "edema", "absent", 1)]
    )
    targets = dict(qa.filter(qtype="yes_no").select("fact", "target").rows())
    assert targets == {"pacemaker|presence": "yes_no_foreign_body", "edema|presence": "yes_no_abnormality"}


def test_a_normal_study_gives_few_implied_noes():
    core = [("made/a", name, "absent", 2) for name in build.FINDINGS if name in CORE]
    qa = ask([{"sample_id": "made/a"}], core)
    assert qa.filter(qtype="yes_no").height == identification.IMPLIED_NO
    assert answers(qa, 2, qtype="captioning") == ["No abnormal finding."]


def test_a_few_explicit_negatives_are_no_normal_study():
    qa = ask([{"sample_id": "made/a"}], [("made/a", "edema", "absent", 1), ("made/a", "mass", "absent", 1)])
    assert answers(qa, 2, qtype="captioning") == []
    assert answers(qa, 8) == ["No edema, mass."]


def test_wrong_options_are_known_to_be_absent_and_unrelated():
    facts = [
        ("made/a", "nodule", "present", 1),
        ("made/a", "lung lesion", "absent", 1),  # contradicts nodule: no fair distractor
        ("made/a", "edema", "absent", 1), ("made/a", "fracture", "absent", 2),
        ("made/a", "kyphosis", "absent", 3),
        ("made/a", "scoliosis", "uncertain", 1),
    ]  # fmt: skip
    qa = ask([{"sample_id": "made/a"}], facts)
    assert options(qa, qtype="single-choice", stage=2) == (["edema", "fracture", "nodule"], ["nodule"])
    assert "multi-choice" not in qa["qtype"].to_list()
    qa = ask([{"sample_id": "made/a"}], [*facts, ("made/a", "pacemaker", "present", 1)])
    several = options(qa, qtype="multi-choice")
    assert several[0] == ["edema", "fracture", "nodule", "pacemaker"]
    assert sorted(several[1]) == ["nodule", "pacemaker"]


def test_the_open_list_is_in_the_order_of_the_vocabulary():
    names = ["pacemaker", "cardiomegaly", "pleural effusion"]
    qa = ask([{"sample_id": "made/a"}], [("made/a", name, "present", 1) for name in names])
    assert answers(qa, 2, qtype="captioning") == ["pleural effusion, cardiomegaly, pacemaker."]


# Stage 3


def test_side_severity_and_description():
    facts = [("made/a", "pleural effusion", "present", 1, "right", "moderate"),
             ("made/a", "consolidation", "present", 1, "left", None, "lower lobe"),
             ("made/a", "edema", "present", 1), ("made/a", "pneumothorax", "absent", 1, "left")]  # fmt: skip
    qa = ask([{"sample_id": "made/a"}], facts)
    assert options(qa, target="location_[pleural effusion]") == (["bilateral", "left", "right"], ["right"])
    assert options(qa, target="severity_[pleural effusion]") == (["mild", "moderate", "severe"], ["moderate"])
    assert answers(qa, 3, qtype="captioning") == [
        "Moderate right pleural effusion.", "Left consolidation in the lower lobe.",
    ]  # fmt: skip
    assert not qa.filter(pl.col("stage") == 3, pl.col("target").str.contains("edema|pneumothorax")).height


def test_rows_about_one_finding_are_put_together():
    def third(*rows):
        return ask([{"sample_id": "made/a"}], [("made/a", "atelectasis", "present", 1, *row) for row in rows])

    assert answers(third(("left", "mild"), ("right", "mild")), 3, qtype="captioning") == [
        "Mild bilateral atelectasis."
    ]
    assert answers(third(("left", "mild"), ("left", "severe")), 3, qtype="captioning") == [
        "Left atelectasis."
    ]
    assert answers(third(("left", None), (None, None)), 3) == []  # is the second one left, too?


def test_boxes_are_asked_for_what_is_there():
    regions = ["heart", "left lung", "right lung", "trachea", "spine", "mediastinum"]
    box_rows = [("made/a", 1, region, 10, 20, 30, 40) for region in regions]
    box_rows += [("made/a", 1, "pleural effusion", 60, 50, 90, 80),
                 ("made/a", 1, "pleural effusion", 5, 50, 30, 75.5),
                 ("made/a", 1, "pneumothorax", 1, 1, 2, 2)]  # fmt: skip
    facts = [("made/a", "pleural effusion", "present", 1), ("made/a", "pneumothorax", "absent", 1)]
    qa = ask([{"sample_id": "made/a"}], facts, box_rows).filter(qtype="detection")
    effusion = qa.filter(target="pleural effusion")
    assert effusion["bbox_list"].to_list() == [[[5, 50, 30, 75.5], [60, 50, 90, 80]]]
    assert effusion["answer"].to_list() == [
        "<|ref|> pleural effusion <|/ref|> <|box|>(5.00, 50.00), (30.00, 75.50)<|/box|> "
        "<|box|>(60.00, 50.00), (90.00, 80.00)<|/box|>"
    ]
    assert qa.height == 1 + attributes.REGIONS_ASKED and set(qa["target"]) <= {"pleural effusion", *regions}
    assert set(qa["image_id"]) == {1} and set(qa["num_of_images"]) == {1}


# Stages 5 and 6


def pair(then, now):
    rows = [{"sample_id": "made/1", "patient_id": "made/p", "next_study_id": "made/2"},
            {"sample_id": "made/2", "patient_id": "made/p", "order": 1,
             "prior_study_id": "made/1"}]  # fmt: skip
    return ask(rows, [("made/1", *row) for row in then] + [("made/2", *row) for row in now])


E, PRESENT, ABSENT = "pleural effusion", "present", "absent"


@pytest.mark.parametrize(
    ("then", "now", "told", "chosen"),
    [
        ((E, ABSENT, 1), (E, PRESENT, 1, "left", "mild"), "New left pleural effusion.", "new"),
        ((E, PRESENT, 1, "left", "mild"), (E, ABSENT, 2), "Resolved left pleural effusion.", "resolved"),
        ((E, PRESENT, 1, "left", "mild"), (E, PRESENT, 1, "left", "severe"),
         "Worse left pleural effusion.", "worse"),
        ((E, PRESENT, 1, None, "severe"), (E, PRESENT, 1, "left", "mild"),
         "Improved pleural effusion.", "improved"),
        ((E, PRESENT, 1, None, "mild"), (E, PRESENT, 1, None, "mild"),
         "Unchanged pleural effusion.", "unchanged"),
        ((E, PRESENT, 1), (E, PRESENT, 1, None, "mild"),
         "Persistent pleural effusion.", "present in both studies"),
        ((E, PRESENT, 1, "left", "mild"), (E, PRESENT, 1, "bilateral", "mild"),
         "New right pleural effusion; persistent left pleural effusion.", None),
        ((E, PRESENT, 1, "left"), (E, PRESENT, 1, "right"),
         "Resolved left pleural effusion; new right pleural effusion.", None),
        ((E, ABSENT, 3), (E, PRESENT, 1), None, None),
        ((E, "uncertain", 1), (E, PRESENT, 1), None, None),
        ((E, ABSENT, 1), (E, ABSENT, 1), None, None),
    ],
)  # fmt: skip
def test_changes(then, now, told, chosen):
    qa = pair([then], [now]).filter(pl.col("sample_id") == "made/2", pl.col("stage") == 5)
    assert answers(qa, 5, qtype="captioning") == ([told] if told else [])
    if chosen is None:
        assert "single-choice" not in qa["qtype"].to_list()
    else:
        listed, right = options(qa, qtype="single-choice")
        assert right == [chosen]
        graded = ["improved", "new", "resolved", "unchanged", "worse"]
        plain = ["absent in both studies", "new", "present in both studies", "resolved"]
        assert listed == (plain if chosen == "present in both studies" else graded)


def test_options_without_grades():
    listed, right = options(
        pair([("fracture", ABSENT, 1)], [("fracture", PRESENT, 1)]), stage=5, qtype="single-choice"
    )
    # A present finding without a severity leaves no grade to compare with.
    assert listed == ["absent in both studies", "new", "present in both studies", "resolved"] and right == [
        "new"
    ]


def test_changes_are_told_before_what_persists():
    then = [(E, PRESENT, 1), ("edema", PRESENT, 1)]
    qa = pair(then, [(E, PRESENT, 1), ("edema", ABSENT, 1)])
    assert answers(qa, 5, qtype="captioning") == ["Resolved edema; persistent pleural effusion."]


def test_two_normal_studies_compare_as_normal():
    normal = [(name, ABSENT, 2) for name in CORE]
    assert answers(pair(normal, normal), 5) == ["No abnormal finding in either study."]


def test_the_next_study_is_foretold_and_never_shown():
    qa = pair([(E, ABSENT, 1)], [(E, PRESENT, 1, "left")])
    first = qa.filter(sample_id="made/1")
    assert answers(first, 6) == ["New left pleural effusion."] and answers(first, 5) == []
    assert first["image_input_count"].to_list() == [1] * first.height
    assert answers(pair([(E, PRESENT, 1)], [(E, PRESENT, 1)]), 6) == []  # persistence foretells nothing


def test_films_are_shown_when_they_are_first_needed():
    qa = pair([(E, PRESENT, 1)], [(E, PRESENT, 1)]).filter(sample_id="made/2")
    shown = qa["question"].str.count_matches("<image>", literal=True).to_list()
    stage = qa["stage"].to_list()
    assert shown[0] == 1 and shown[stage.index(5)] == 1 and sum(shown) == 2
    assert qa["image_input_count"].to_list() == [1 if s < 5 else 2 for s in stage]
    assert stage == sorted(stage)


# Stage 8


def test_real_sections_are_used_where_there_are_any():
    text = {"findings_text": "Clear lungs. The XXXX is normal.", "impression_text": "No disease."}
    qa = ask([{"sample_id": "made/a", **text}], [("made/a", "edema", "absent", 1)])
    assert answers(qa, 8) == ["Clear lungs.", "No disease."]
    assert qa.filter(stage=8)["evidence"].to_list() == [
        "made: findings_text, sentences with XXXX left out", "made: impression_text",
    ]  # fmt: skip
    assert answers(ask([{"sample_id": "made/a", "impression_text": "XXXX."}]), 8) == []


def test_a_composed_summary_says_so_and_stays_short():
    facts = [("made/a", E, "present", 1, "right", "mild"), ("made/a", "pneumonia", "uncertain", 1)]
    facts += [
        ("made/a", name, "absent", 1) for name in ("pneumothorax", "edema", "mass", "fracture", "nodule")
    ]
    qa = ask([{"sample_id": "made/a"}], facts)
    assert answers(qa, 8) == [
        "Mild right pleural effusion. Possible pneumonia. No pneumothorax, edema, nodule."
    ]
    assert qa.filter(stage=8)["evidence"][0].startswith("composed of made: ")
    many = [("made/a", name, "present", 1, "bilateral", "moderate") for name in build.FINDINGS]
    assert len(answers(ask([{"sample_id": "made/a"}], many), 8)[0].split()) <= 40


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1. XXXX nodule. 2. Clear lungs.", "2. Clear lungs."),
        ("No change from XXXX. Heart is normal.", "Heart is normal."),
        ("Normal chest x-XXXX.", ""),
        ("Heart size is 3.5 cm. Clear.", "Heart size is 3.5 cm. Clear."),
    ],
)
def test_sentences_with_removed_words_are_left_out(text, kept):
    assert reporting.legible(text) == kept
