"""Executed notebooks as web pages that need no network: what each step did, with figures and words."""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbconvert import HTMLExporter
from tqdm.auto import tqdm

from cxrtrek_lib import files, paths, provenance

# The pages of nbconvert load these from the network; none of our notebooks has a formula or a diagram.
_FROM_NETWORK = re.compile(
    r'<script[^>]*\bsrc="https?://[^"]*"[^>]*>\s*</script>'
    r'|<script type="module">(?:(?!</script>).)*?https?://(?:(?!</script>).)*?</script>'
    r"|<script[^>]*>(?:(?!</script>).)*?MathJax(?:(?!</script>).)*?</script>",
    flags=re.DOTALL | re.IGNORECASE,
)


class Page(NamedTuple):
    """An executed notebook: stem ("05_predict.gold"), title, file of its page, seconds it took or None."""

    stem: str
    title: str
    file: Path
    seconds: float | None


def export(folder: Path, out: Path) -> list[Page]:
    """Write every executed notebook of `folder` as a page into `out`; returns them in order of name.

    folder  reports/notebooks; copies of failed steps, of notebooks that are no more and of the one that runs
            just now are left out
    Raises ValueError naming a file that is no notebook or cannot be written.
    """
    exporter = HTMLExporter(template_name="lab", exclude_input_prompt=True, exclude_output_prompt=True)
    pages = []
    copies = [
        file
        for file in sorted(Path(folder).glob("*.ipynb"))
        if not file.stem.endswith((".running", ".failed"))
        and not file.with_suffix(".running.ipynb").is_file()
        and (paths.NOTEBOOKS / f"{file.stem.partition('.')[0]}.ipynb").is_file()
    ]
    for copy in tqdm(copies, "executed notebooks as HTML", unit="notebook", delay=5):
        took = provenance.seconds(copy)
        notebook = nbformat.read(copy, as_version=4)
        first = notebook.cells[0].source if notebook.cells else ""
        heading = re.search(r"^# (.+)$", first, flags=re.MULTILINE)
        title = heading[1].strip() if heading else copy.stem
        notebook.metadata["title"] = title
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # outputs without alternative text
            text, _ = exporter.from_notebook_node(notebook)
        file = Path(out) / f"{copy.stem}.html"
        with files.whole(file) as temporary:
            temporary.write_text(_FROM_NETWORK.sub("", text), encoding="utf-8")
        pages.append(Page(copy.stem, title, file, took))
    return pages
