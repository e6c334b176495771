"""What params.yaml may say, as pydantic models: every key, its type, its range and its unit.

A parameter file is complete: no key has a hidden default here, so the file alone says how the study ran.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from cxrtrek_lib.sources import ONE_IMAGE_SOURCE

# The patients of a source may be trained on, are only ever tested on, or the source is not read at all.
Role = Literal["train", "external", "off"]
# Sources with a task in transfer.py, whose films can be an external cohort.
ExternalSource = Literal["nih", "openi", "rsna", "vindr"]
# A share of patients held out; both together leave at least something to train on (checked below).
HeldOut = Annotated[float, Field(gt=0, lt=0.5, description="share of patients held out")]
Cases = Annotated[int, Field(ge=4, le=1_000_000, description="cases (studies) whose films are made")]


class Group(BaseModel):
    """A mapping in params.yaml: unknown keys are errors, "3" is not a number, true is not 1."""

    # `validate` is a key of ours and, deprecated, a method of pydantic's: hence the aliases below.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Split(Group):
    """Which share of the patients of each training source is held out."""

    validate_: HeldOut = Field(alias="validate")
    test: HeldOut


class Roles(Group):
    """What each source is for; the last three need credentials and a folder in dataset.folders."""

    chexpert: Role
    padchest: Role
    nih: Role
    vindr: Role
    openi: Role
    rsna: Role
    siim: Role
    mimic: Role
    chexpert_plus: Role
    authors: Role

    @model_validator(mode="after")
    def _no_leak(self):
        roles = dict(self)
        if "train" not in roles.values():
            raise ValueError("no source has the role train; give it to at least one")
        for names in ONE_IMAGE_SOURCE:
            used = {name: roles[name] for name in names if roles[name] != "off"}
            if len(set(used.values())) > 1:
                told = ", ".join(f"{name} {role}" for name, role in used.items())
                raise ValueError(f"{told}: these hold the same images; give them one role or switch some off")
        if "off" not in (self.chexpert, self.chexpert_plus):
            raise ValueError("chexpert and chexpert_plus are the same studies; switch one off")
        return self


class Folders(Group):
    """Where files that no package carries lie; a path is taken from the repository's root."""

    mimic: str | None = Field(description="folder of MIMIC-CXR-JPG, or null")
    mimic_reports: str | None = Field(description="folder of the MIMIC-CXR report texts, or null")
    imagenome: str | None = Field(description="folder of Chest ImaGenome, or null")
    chexpert_plus: str | None = Field(description="folder of CheXpert Plus, or null")
    authors: str | None = Field(description="the JSON file of the dataset's authors, or null")


def _full_or_patients(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value != "full" and not (whole and 50 <= value <= 10**7):
        raise ValueError(f"must be full, or a whole number of patients per source from 50 on, got {value!r}")
    return value


class Dataset(Group):
    """What step build_dataset reads, asks and how it splits patients."""

    roles: Roles
    scale: Annotated[int | Literal["full"], BeforeValidator(_full_or_patients)] = Field(
        description="full = every study of the sources that are not off; or patients per source"
    )
    split: Split
    yes_no_ratio: float | None = Field(
        ge=1, le=1000,
        description="per source and finding, the commoner of Yes and No is asked at most this many times as "
        "often as the rarer one; null = every known answer is asked",
    )  # fmt: skip
    folders: Folders
    workers: int = Field(ge=1, le=256, description="processes that build questions; no effect on them")


class TrainingCases(Group):
    """Films per split of the training cohort."""

    train: Cases
    validate_: Cases = Field(alias="validate")
    test: Cases


class Cohort(Group):
    """Which films are made, and how large."""

    size_px: int = Field(ge=64, le=1024, multiple_of=16, description="side of a film in pixels")
    training: TrainingCases
    external: dict[ExternalSource, Cases] = Field(min_length=1, description="cases per external source")
    workers: int = Field(ge=1, le=256, description="processes that render films; no effect on the films")


Root = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] | None


class Roots(Group):
    """Where the real films of an external source lie; a path is taken from the repository's root."""

    nih: Root = Field(description="folder of NIH ChestX-ray14's PNG films, or null")
    openi: Root = Field(description="folder of Open-i's PNG films, or null")
    rsna: Root = Field(description="folder of the RSNA challenge's DICOM films, or null")
    vindr: Root = Field(description="folder of VinDr-CXR's DICOM films, or null")

    @model_validator(mode="before")
    @classmethod
    def _no_training_source(cls, roots: Any) -> Any:
        for name in roots if isinstance(roots, dict) else ():
            if name in Roles.model_fields and name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise ValueError(
                    f"no real films of {name}: those of external sources are read ({known}), films to train "
                    "on are simulated"
                )
        return roots


class Images(Group):
    """Which external cohorts are made of real films."""

    roots: Roots


class Model(Group):
    """Which checkpoint is tuned, and the size of the one assembled here."""

    checkpoint: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] = Field(
        description="small, smollm2 (both assembled here), or a Hugging Face id or local folder"
    )
    trust_remote_code: bool = Field(
        description="true runs Python code that comes with a checkpoint: only for one whose authors you trust"
    )
    tune_encoder: bool = Field(description="true tunes the image encoder too; false keeps it frozen")
    encoder_epochs: int = Field(
        ge=1, le=1000, description="passes over the training films when the image encoder is pretrained"
    )
    vocabulary: int = Field(ge=300, le=200_000, description="tokens of the small decoder's own tokenizer")
    hidden_size: int = Field(ge=16, le=8192, description="width of the small decoder")
    layers: int = Field(ge=1, le=128, description="layers of the small decoder")
    heads: int = Field(ge=1, le=128, description="attention heads of the small decoder")
    lora_rank: int | None = Field(
        ge=1, le=1024,
        description="rank of the adapters of every checkpoint but small; null = no adapters, all is tuned",
    )  # fmt: skip

    @model_validator(mode="after")
    def _heads_divide_width(self):
        # Rotary positions turn pairs of channels; names need a pair that hardly turns (look_up.py).
        if self.hidden_size % (4 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 4 x heads ({4 * self.heads})"
            )
        return self


class Train(Group):
    """How projector and language model are fine-tuned."""

    short_epochs: int = Field(
        ge=0,
        le=1000,
        description="first passes, over what is answered in a word: is a finding there, and single choices",
    )
    epochs: int = Field(ge=1, le=1000, description="passes over the training cases")
    patience: int | None = Field(
        ge=1, le=1000,
        description="epochs without a new lowest validation loss after which training stops; null = never",
    )  # fmt: skip
    batch_cases: int = Field(ge=1, le=4096, description="cases per optimiser step, over all processes")
    accumulation: int = Field(
        ge=1, le=4096,
        description="forwards into which a process splits its cases of a step: less memory, same result",
    )  # fmt: skip
    gradient_checkpointing: bool = Field(
        description="true computes activations twice instead of keeping them: less memory, slower"
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        description="auto = bf16 or fp16, whichever the GPU has, and fp32 on a CPU"
    )
    loss_per: Literal["answer", "root", "token"] = Field(description="what weighs the same in the loss")
    questions_per_case: int | None = Field(
        ge=1, le=1000, description="questions of a case asked alone in one pass, drawn anew; null = all"
    )
    learning_rate: float = Field(gt=0, le=1, description="peak of AdamW's schedule")
    muon_rate: float | None = Field(
        gt=0, le=1,
        description="peak of Muon's schedule, for the language model's matrices; null = AdamW for these too",
    )  # fmt: skip
    warmup_steps: int = Field(ge=0, le=1_000_000, description="optimiser steps of linear warm-up")
    alone_share: float = Field(ge=0, le=1, description="share of batches that ask each question alone")
    shuffled_share: float = Field(ge=0, le=1, description="share of batches in shuffled stage order")
    checkpoint_minutes: float = Field(gt=0, le=1440, description="minutes between two resumable checkpoints")
    processes: int = Field(
        ge=1, le=65_536, description="processes that share the cases of a step, over all nodes"
    )
    accelerate_config: str | None = Field(
        description="accelerate's configuration file, such as profiles/accelerate/fsdp.yaml; null = plain DDP"
    )

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.alone_share + self.shuffled_share > 1:
            raise ValueError("alone_share + shuffled_share must be at most 1; the rest keeps stage order")
        return self


class Predict(Group):
    """How answers are decoded."""

    batch_cases: int = Field(ge=1, le=4096, description="cases decoded together; no effect on the answers")
    max_new_tokens: int = Field(ge=4, le=4096, description="longest answer in tokens")
    processes: int = Field(ge=1, le=1024, description="share the cases between them; one per core or GPU")


class Clinical(Group):
    """Where a clinical metric of reports finds its package and weights (see clinical_metrics.py)."""

    python: str = Field(description="interpreter that has the metric's package")
    weights: str = Field(description="folder that was HF_HOME and XDG_CACHE_HOME when the package first ran")


class Evaluate(Group):
    """How scores get their intervals, and whose answers are scored besides the study's."""

    n_boot: int = Field(ge=50, le=100_000, description="bootstrap resamples of patients")
    systems: dict[str, str] = Field(description="name -> predictions file (see systems.py), or {}")
    clinical: dict[Literal["RadGraph-F1", "CheXbert-F1", "RaTEScore", "GREEN"], Clinical] = Field(
        description="clinical metrics of reports that are to run: metric -> {python, weights}, or {}"
    )


class VqaFolders(Group):
    """Where question sets with films of their own lie, in their published files (see vqa_files.py)."""

    vqa_rad: str | None = Field(description="folder of VQA-RAD, or null")
    slake: str | None = Field(description="folder of SLAKE, or null")
    mimic_cxr_vqa: str | None = Field(
        description="folder of MIMIC-CXR-VQA with MIMIC-CXR-JPG's films, or null"
    )


class Transfer(Group):
    """What the trained model is tested on besides the external cohorts."""

    folders: VqaFolders


class DomainShift(Group):
    """How many scenes are projected anew with one factor of acquisition changed at a time."""

    cases: int = Field(ge=4, le=1_000_000, description="test cases, drawn by hash (or all there are)")


class Ablations(Group):
    """How large the compared trainings of the ablation step are; everything else is that of `train`."""

    train_cases: int = Field(ge=4, le=1_000_000, description="training cases of every arm, drawn by hash")
    epochs: int = Field(ge=1, le=1000, description="passes over them")
    test_cases: int = Field(ge=4, le=1_000_000, description="test cases answered by every arm, drawn by hash")


class Params(Group):
    """The whole of params.yaml; each field is one group that a notebook's parameters cell can ask for."""

    seed: int = Field(ge=0, le=2**32 - 1, description="enters every hash that makes a choice")
    dataset: Dataset
    cohort: Cohort
    images: Images
    model: Model
    train: Train
    predict: Predict
    evaluate: Evaluate
    transfer: Transfer
    domain_shift: DomainShift
    ablations: Ablations

    @model_validator(mode="after")
    def _external_cohorts_match(self):
        for name in self.cohort.external:
            if getattr(self.dataset.roles, name) != "external":
                raise ValueError(
                    f"cohort.external sizes {name}, whose role in dataset.roles is "
                    f"{getattr(self.dataset.roles, name)}; make it external or take it out"
                )
        for name, root in dict(self.images.roots).items():
            if root is not None and name not in self.cohort.external:
                raise ValueError(
                    f"images.roots names films of {name}, which cohort.external does not size; add it there "
                    "or make its root null"
                )
        return self

    def groups(self) -> dict[str, Any]:
        """Group name -> plain int or dict, spelled as in params.yaml: what run.py injects into a notebook."""
        return self.model_dump(by_alias=True)
