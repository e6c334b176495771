"""docs/parameters.md, written from the schema of params.yaml, the profiles and dvc.yaml.

    python -m cxrtrek_lib.parameter_reference [--check]

With --check nothing is written, and a file that differs is an error (exit status 1).
"""

import argparse
import sys
from typing import Any

import yaml

from cxrtrek_lib import files, params, paths
from cxrtrek_lib.params_schema import Params

PROFILES = ("default", "smoke", "gpu", "paper")
HEAD = """# Reference of params.yaml

Written by `python -m cxrtrek_lib.parameter_reference` from the schema (`cxrtrek_lib/params_schema.py`); a
test compares the two. `params.yaml` is complete: no key has a hidden default. A key that is misspelt or out
of range stops the run with one line; `python -m cxrtrek_lib.params` checks a file without running anything.

*Runs again* names the steps that a change makes out of date, with all that follow them. A dash: the key has
no effect on results (how many processes, how much memory).
"""
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
}


def _takes(field: dict[str, Any]) -> str:
    """Type and range of a field of a JSON schema, in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_takes(part) for part in field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "properties" in field:
        return f"mapping of {', '.join(f'`{name}`' for name in field['properties'])}"
    if field.get("type") == "object":
        names = field.get("propertyNames", {}).get("enum")
        keys = f" of {', '.join(f'`{name}`' for name in names)}" if names else ""
        inside = field.get("additionalProperties")
        return f"mapping{keys}: {_takes(inside)}" if isinstance(inside, dict) else f"mapping{keys}"
    bounds = [f"{sign} {field[key]:,}" for key, sign in _SIGNS.items() if key in field]
    if "multipleOf" in field:
        bounds.append(f"multiple of {field['multipleOf']}")
    kind = _KINDS.get(field.get("type"), "see text")
    return f"{kind} {', '.join(bounds)}".strip()


def _resolved(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A field with its reference followed; words beside the reference stay."""
    if "$ref" in field:
        return definitions[field["$ref"].rpartition("/")[2]] | {k: v for k, v in field.items() if k != "$ref"}
    if "anyOf" in field:
        return field | {"anyOf": [_resolved(part, definitions) for part in field["anyOf"]]}
    if isinstance(field.get("additionalProperties"), dict):
        inside = _resolved(field["additionalProperties"], definitions)
        return field | {"additionalProperties": inside}
    return field


def fields() -> list[tuple[str, dict[str, Any]]]:
    """(dotted key, its JSON schema) of every value and group, in order; without words, those of its group."""
    schema = Params.model_json_schema(by_alias=True)
    definitions, found = schema.get("$defs", {}), []

    def walk(group: dict[str, Any], above: str) -> None:
        for name, field in group["properties"].items():
            field = {"description": group.get("description", "")} | _resolved(field, definitions)
            found.append((f"{above}{name}", field))
            if "properties" in field:
                walk(field, f"{above}{name}.")

    walk(schema, "")
    return found


def _value(tree: Any, key: str) -> str:
    for name in key.split("."):
        tree = tree[name]
    if isinstance(tree, dict):
        return ", ".join(f"{name} {value}" for name, value in tree.items()) or "{}"
    return "null" if tree is None else str(tree).lower() if isinstance(tree, bool) else str(tree)


def _read_by(key: str, pipeline: dict[str, Any]) -> str:
    """Steps that list the key, or a group above or below it, under `params`."""
    steps = []
    for step, definition in pipeline["stages"].items():
        listed = [entry.split(".${")[0] for entry in definition.get("do", definition).get("params", [])]
        if any(f"{key}.".startswith(f"{entry}.") or f"{entry}.".startswith(f"{key}.") for entry in listed):
            steps.append(step)
    return "every step" if len(steps) == len(pipeline["stages"]) else ", ".join(steps) or "-"


def reference() -> str:
    """The whole file as Markdown."""
    profiles = {name: params.load(paths.PROFILES / f"{name}.yaml").groups() for name in PROFILES}
    pipeline = yaml.safe_load(paths.PIPELINE.read_text(encoding="utf-8"))
    parts, rows = [HEAD], []
    columns = ["key", "takes", *PROFILES, "what", "runs again"]
    table = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]

    def close() -> None:
        if rows:
            parts.append("\n".join([*table, *rows]) + "\n")
            rows.clear()

    for key, field in fields():
        if "properties" in field:
            if "." not in key:  # a group of its own; groups in groups are told by their dotted keys
                close()
                parts.append(f"## {key}\n\n{field.get('description', '').splitlines()[0]}\n")
            continue
        values = [_value(profiles[name], key) for name in PROFILES]
        cells = [f"`{key}`", _takes(field), *values, field.get("description", ""), _read_by(key, pipeline)]
        rows.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
    close()
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file differs")
    asked = parser.parse_args(arguments)
    file = paths.DOCS / "parameters.md"
    try:
        text = reference()
        if asked.check and (not file.is_file() or file.read_text(encoding="utf-8") != text):
            raise ValueError(
                "docs/parameters.md: not as the schema; run `python -m cxrtrek_lib.parameter_reference`"
            )
        if not asked.check:
            with files.whole(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{file.name}: {'as the schema' if asked.check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
