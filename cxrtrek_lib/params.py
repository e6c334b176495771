"""What params.yaml may say: every key, its type, its range and its unit; anything else is one line of error.

A parameter file is complete: no key has a hidden default here, so the file alone says how the study ran.
`python -m cxrtrek_lib.params [FILE]` checks a file and prints what is wrong with it, or `ok`.
"""

import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from cxrtrek_lib import paths

# The patients of a source may be trained on, are only ever tested on, or the source is not read at all.
Role = Literal["train", "external", "off"]
# Sources with a task in transfer.py, whose films can be an external cohort.
ExternalSource = Literal["nih", "openi"]
# Sources whose images are the same ones under other names: no mapping is packaged, so none may be trained on
# while another is tested on. Of the second pair, the studies themselves are the same.
ONE_IMAGE_SOURCE = (("nih", "rsna", "siim"), ("chexpert", "chexpert_plus"))
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
        if self.hidden_size % (2 * self.heads):  # rotary positions rotate pairs of channels
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 x heads ({2 * self.heads})"
            )
        return self


class Train(Group):
    """How projector and language model are fine-tuned."""

    presence_epochs: int = Field(
        ge=0, le=1000, description="first passes, which ask whether findings are there and nothing else"
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


class Evaluate(Group):
    """How scores get their intervals, and whose answers are scored besides the study's."""

    n_boot: int = Field(ge=50, le=100_000, description="bootstrap resamples of patients")
    systems: dict[str, str] = Field(description="name -> predictions file (see systems.py), or {}")


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
    model: Model
    train: Train
    predict: Predict
    evaluate: Evaluate
    ablations: Ablations

    @model_validator(mode="after")
    def _external_cohorts_match(self):
        for name in self.cohort.external:
            if getattr(self.dataset.roles, name) != "external":
                raise ValueError(
                    f"cohort.external sizes {name}, whose role in dataset.roles is "
                    f"{getattr(self.dataset.roles, name)}; make it external or take it out"
                )
        return self

    def groups(self) -> dict[str, Any]:
        """Group name -> plain int or dict, spelled as in params.yaml: what run.py injects into a notebook."""
        return self.model_dump(by_alias=True)


def load(path: Path = paths.PARAMS) -> Params:
    """The checked parameters of one YAML file.

    Raises FileNotFoundError when there is no such file, ValueError (one line: file, key, what is wrong, the
    nearest valid key or the range) when the file is no valid parameter file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such parameter file; profiles/ holds complete ones to copy")
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        where = f"line {at.line + 1}" if at else "the file"
        raise ValueError(f"{path}: {where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML text file: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping of the groups {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        # Of a misspelt key, pydantic also says that the right one is missing: the misspelling is the news.
        problems = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{path}: {_explain(problems[0])}{more}") from None


def parse_value(text: str) -> Any:
    """One YAML literal ("3", "2e-3", "true", "gold", "[a, b]") as params.yaml would read it, or ValueError.

    >>> parse_value("2e-3"), parse_value("none")
    (0.002, 'none')
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ValueError(f"{text}: not a YAML literal; quote it") from None


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads params.yaml: 2e-3 is a number, off is text, and a key given twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_SCIENTIFIC = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


def _mapping_without_duplicates(loader, node):
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"{key.value} stands twice", problem_mark=key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def _explain(problem: dict[str, Any]) -> str:
    """One line from one of pydantic's problems: key path, what is wrong, and the nearest key or the range."""
    loc = [part for part in problem["loc"] if part != "[key]"]
    key, kind, given = ".".join(map(str, loc)), problem["type"], problem["input"]
    group, field = _find(loc)
    names = [info.alias or name for name, info in group.model_fields.items()]
    about = f" ({field.description})" if field is not None and field.description else ""
    if kind == "value_error":  # raised by a check above: the message already names the keys
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}"
    if kind == "missing":
        return f"{key}: missing{about}; profiles/default.yaml shows it"
    if kind == "extra_forbidden":
        return f"{key}: no such key; {_nearest(str(loc[-1]), names)}"
    if kind == "model_type":
        return f"{key}: must be a mapping of {', '.join(names)}, got {given!r}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        return f"{key}: {given!r} is not known; {_nearest(str(given), choices)}"
    wanted = problem["msg"].removeprefix("Input should be ").removeprefix("Input should have ")
    return f"{key}: must be {_range(field) or wanted}{about}, got {given!r}"


def _find(loc: list[str | int]) -> tuple[type[BaseModel], Any]:
    """The innermost group on a key path, and its field when the path ends in or below one (else None)."""
    group, field = Params, None
    for part in loc:
        fields = {info.alias or name: info for name, info in group.model_fields.items()}
        if part not in fields:
            break  # an unknown key, or an entry of a list or of cohort.external
        field = fields[part]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            group, field = field.annotation, None
    return group, field


def _range(field: Any) -> str:
    """A number field's type and bounds in words, empty for any other field."""
    kinds = {
        int: "a whole number", float: "a number",
        int | None: "null or a whole number", float | None: "null or a number",
    }  # fmt: skip
    if field is None or field.annotation not in kinds:
        return ""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for name, sign in signs.items()
        for rule in field.metadata
        if hasattr(rule, name)
    ]
    return " ".join([kinds[field.annotation], " and ".join(bounds)])


def _nearest(word: str, names: list[str]) -> str:
    """The name that was probably meant, else all of them."""
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def main(argv: list[str]) -> int:
    """Check one parameter file; exit status 0 when it is valid, else 1 with one line on stderr."""
    path = Path(argv[0]) if argv else paths.PARAMS
    try:
        load(path)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
