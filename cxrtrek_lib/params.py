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
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cxrtrek_lib import paths

# Annotation tables that build.py can read, by role: the external ones are never trained on.
TrainSource = Literal["chexpert", "padchest"]
ExternalSource = Literal["nih", "openi"]
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


class Dataset(Group):
    """What step build_dataset reads and how it splits patients."""

    train: list[TrainSource] = Field(min_length=1, description="sources whose patients may be trained on")
    external: list[ExternalSource] = Field(min_length=1, description="sources only ever tested on")
    max_patients: int | None = Field(ge=50, le=10_000_000, description="patients read per source; null = all")
    split: Split

    @model_validator(mode="after")
    def _each_source_once(self):
        for key in ("train", "external"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise ValueError(f"{key} names a source twice: {names}")
        return self


class TrainingCases(Group):
    """Films per split of the training cohort."""

    train: Cases
    validate_: Cases = Field(alias="validate")
    test: Cases


class Cohort(Group):
    """Which films are made, and how large."""

    size_px: int = Field(ge=64, le=1024, multiple_of=16, description="side of a film in pixels")
    training: TrainingCases
    external: dict[ExternalSource, Cases] = Field(description="cases per external source")
    workers: int = Field(ge=1, le=256, description="processes that render films; no effect on the films")


class Model(Group):
    """Which checkpoint is tuned, and the size of the one assembled here."""

    checkpoint: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] = Field(
        description="small, smollm2 (both assembled here), or a Hugging Face id or local folder (LLaVA type)"
    )
    encoder_epochs: int = Field(
        ge=1, le=1000, description="passes over the training films when the image encoder is pretrained"
    )
    vocabulary: int = Field(ge=300, le=200_000, description="tokens of the small decoder's own tokenizer")
    hidden_size: int = Field(ge=16, le=8192, description="width of the small decoder")
    layers: int = Field(ge=1, le=128, description="layers of the small decoder")
    heads: int = Field(ge=1, le=128, description="attention heads of the small decoder")
    lora_rank: int = Field(ge=1, le=1024, description="rank of the adapters of every other checkpoint")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.hidden_size % (2 * self.heads):  # rotary positions rotate pairs of channels
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 x heads ({2 * self.heads})"
            )
        return self


class Train(Group):
    """How projector and language model are fine-tuned."""

    epochs: int = Field(ge=1, le=1000, description="passes over the training cases")
    batch_cases: int = Field(ge=1, le=4096, description="cases per optimiser step")
    questions_per_case: int | None = Field(
        ge=1, le=1000, description="questions of a case in one pass, drawn anew each time; null = all"
    )
    learning_rate: float = Field(gt=0, le=1, description="peak of AdamW's schedule")
    warmup_steps: int = Field(ge=0, le=1_000_000, description="optimiser steps of linear warm-up")
    alone_share: float = Field(ge=0, le=1, description="share of batches that ask each question alone")
    shuffled_share: float = Field(ge=0, le=1, description="share of batches in shuffled stage order")
    checkpoint_minutes: float = Field(gt=0, le=1440, description="minutes between two resumable checkpoints")

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.alone_share + self.shuffled_share > 1:
            raise ValueError(
                "alone_share + shuffled_share must be at most 1: the rest is trained in stage order"
            )
        return self


class Predict(Group):
    """How answers are decoded."""

    batch_cases: int = Field(ge=1, le=4096, description="cases decoded together; no effect on the answers")
    max_new_tokens: int = Field(ge=4, le=4096, description="longest answer in tokens")


class Evaluate(Group):
    """How scores get their intervals."""

    n_boot: int = Field(ge=50, le=100_000, description="bootstrap resamples of patients")


class Params(Group):
    """The whole of params.yaml; each field is one group that a notebook's parameters cell can ask for."""

    seed: int = Field(ge=0, le=2**32 - 1, description="enters every hash that makes a choice")
    dataset: Dataset
    cohort: Cohort
    model: Model
    train: Train
    predict: Predict
    evaluate: Evaluate

    @model_validator(mode="after")
    def _external_cohorts_match(self):
        asked, sized = set(self.dataset.external), set(self.cohort.external)
        if asked != sized:
            raise ValueError(
                f"dataset.external names {sorted(asked)} but cohort.external sizes {sorted(sized)}: "
                "name the same sources in both"
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
    """YAML as DVC reads params.yaml: 2e-3 is a number, and a key given twice is an error."""


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
    kinds = {int: "a whole number", float: "a number", int | None: "null or a whole number"}
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
