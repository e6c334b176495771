"""params.yaml read and checked against params_schema.py; anything wrong with it is one line of error.

`python -m cxrtrek_lib.params [FILE]` checks a file and prints what is wrong with it, or `ok`.
"""

import difflib
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cxrtrek_lib import paths
from cxrtrek_lib.params_schema import Params


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
