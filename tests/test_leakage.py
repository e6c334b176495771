"""leakage.py: what shares a patient, an image or an image source with training is refused by name."""

import polars as pl
import pytest
from tables_by_hand import studies as studies_of

from cxrtrek_lib import leakage, selection


def study(number, source="nih", **row):
    name = f"{source}/{number}"
    return {"sample_id": name, "patient_id": name, "source": source, "images": [f"{number}.png"]} | row


EXTERNAL = studies_of(*(study(n, split="external") for n in range(3)))


def told(*training):
    with pytest.raises(ValueError, match="^leakage: ") as caught:
        leakage.refuse_shared(EXTERNAL, studies_of(*training))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_patients_and_images_pass():
    leakage.refuse_shared(EXTERNAL, studies_of(study(7, "chexpert"), study(8, "padchest")))
    leakage.refuse_shared(EXTERNAL, studies_of(study(7, "chexpert")).clear())
    leakage.refuse_shared(EXTERNAL.clear(), EXTERNAL)


@pytest.mark.parametrize("source", ["nih", "rsna", "siim"])
def test_one_image_source_under_any_name(source):
    assert f"nih would be tested on and {source} is trained on" in told(study(9, source))


def test_a_source_with_other_names_for_nothing_is_still_one_source():
    one = studies_of(study(1, "openi", split="external"))
    with pytest.raises(ValueError, match="openi would be tested on and openi is trained on"):
        leakage.refuse_shared(one, studies_of(study(2, "openi")))


def test_a_shared_patient_is_named():
    text = told(study(7, "chexpert", patient_id="nih/2"), study(8, "chexpert"))
    assert "patients to be tested on are trained on, too (1): nih/2;" in text


def test_a_shared_image_is_named_and_many_are_counted():
    assert "images to be tested on are trained on, too (1): 2.png;" in told(study(2, "chexpert"))
    many = studies_of(*(study(n, split="external", images=[f"{n}.png", f"{n}b.png"]) for n in range(3)))
    with pytest.raises(ValueError, match=r"images .*\(6\): 0.png, 0b.png, 1.png, ...; take"):
        leakage.refuse_shared(many, many.with_columns(
            source=pl.lit("chexpert"), patient_id=pl.concat_str(pl.lit("other/"), "patient_id")
        ))  # fmt: skip


def test_where_an_external_cohort_is_chosen_the_guard_stands():
    training = studies_of(study(7, "chexpert"), study(8, "padchest", split="validate"))
    both = pl.concat([EXTERNAL, training])
    assert selection.external(both, "nih")["sample_id"].to_list() == EXTERNAL["sample_id"].to_list()
    shared = both.with_columns(patient_id=pl.lit("nih/0"))
    with pytest.raises(ValueError, match=r"patients to be tested on are trained on, too \(1\): nih/0;"):
        selection.external(shared, "nih")
