"""reports/figures/README.md: every figure with its caption, its data, and the step that made it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrtrek_lib import files, paths, pipeline_graph

HEAD = """# Figures

Made by `dvc repro`; this list is written by the step `report`. Each figure is a PNG of 300 dpi and a PDF with
embedded fonts, one or two journal columns wide, in colours that stay apart for colour-blind readers. Its
numbers are in a CSV file. Figures that show single cases, and the PDFs, are not in git: a run makes them.
"""


# Their captions may name a case: what follows from one row of an annotation table stays out of git.
SHOW_CASES = ("worked_case", "test_films", "detection_examples")


def makers(pipeline: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name of each figure -> (step, its notebook), in the order of dvc.yaml."""
    found = {}
    for step, definition in pipeline["stages"].items():
        content = definition.get("do", definition)
        for entry in content.get("outs", []):
            out = Path(next(iter(entry)) if isinstance(entry, dict) else entry)
            if out.parent == Path("reports/figures") and out.suffix == ".png":
                found[out.stem] = (step, pipeline_graph.notebook(content["cmd"]))
    return found


def write(pipeline: Mapping[str, Any]) -> str:
    """Write the list and return it. FileNotFoundError when a figure or its caption is not there.

    pipeline  the content of dvc.yaml
    """
    parts = [HEAD]
    for name, (step, notebook) in makers(pipeline).items():
        png, text = paths.FIGURES / f"{name}.png", paths.TABLES / f"{name}.txt"
        for file in (png, text):
            if not file.is_file():
                raise FileNotFoundError(f"{file.name}: not there; run `dvc repro {step}`")
        caption = text.read_text(encoding="utf-8").strip()
        if name in SHOW_CASES:
            caption = (
                f"Shows single cases: not in git, nor is its caption, [{text.name}](../tables/{text.name})."
            )
        parts.append(
            f"## {name}\n\n"
            f'<a href="{name}.png"><img src="{name}.png" width="420" alt="{name.replace("_", " ")}"></a>\n\n'
            f"{caption}\n\n"
            f"Step `{step}`, [{notebook}.ipynb](../../notebooks/{notebook}.ipynb) · "
            f"data [{name}.csv](../tables/{name}.csv) · [{name}.pdf]({name}.pdf)\n"
        )
    content = "\n".join(parts)
    with files.whole(paths.FIGURES / "README.md") as temporary:
        temporary.write_text(content, encoding="utf-8")
    return content
