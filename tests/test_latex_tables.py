"""Tables for the paper: LaTeX that holds together, numbers as in the metrics, bold by the test."""

import re
import shutil
import subprocess

import polars as pl
import pytest
from test_figures import ABLATIONS
from test_report import EVALUATION, TRANSFER

from cxrtrek_lib import latex_tables
from cxrtrek_lib.latex_tables import Cell, Table

LEADING = pl.DataFrame(
    [
        {"stage": stage, "system": system, "leads": system == "predicted" or stage == 8}
        for stage in (1, 2, 8, None)
        for system in ("predicted", "blank_image")
    ]
)
SUMMARY = pl.DataFrame(
    {
        "source": ["chexpert", "chexpert", "nih"], "split": ["train", "test", "external"],
        "patients": [900, 50, 30], "studies": [1200, 60, 30], "images": [1500, 70, 30],
        "with_prior": [300, 10, 0], "qa": [24000, 1200, 150], "facts": [9000, 500, 90],
        "qa_per_study": [20.0, 20.0, 5.0],
    }
)  # fmt: skip
COUNTS = {"n_patients": 980, "n_studies": 1290, "n_images": 1600, "n_qa": 25350, "n_facts": 9590,
          "qa_per_study": 19.65}  # fmt: skip
ARMS = ABLATIONS | {"reference": "context, predicted"}
TABLES = {
    "scores": lambda: latex_tables.main_scores(EVALUATION, LEADING, origin="simulated"),
    "ablations": lambda: latex_tables.ablations(ARMS, origin="simulated"),
    "transfer": lambda: latex_tables.transfer(TRANSFER),
    "dataset": lambda: latex_tables.dataset(SUMMARY, COUNTS),
}
each_table = pytest.mark.parametrize("name", TABLES)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the body of a tabular, without its rules."""
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith((r"\\", r"\\[2pt]"))]
    lines = [line.removesuffix("[2pt]").removesuffix(r"\\") for line in lines]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


@each_table
def test_the_latex_holds_together(name):
    """Braces and environments close, every row has the columns of the head, nothing special is bare."""
    text = latex_tables.latex(TABLES[name]())
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for environment in ("table*", "adjustbox", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    columns = len(re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", text)[1])
    assert {len(row) for row in rows_of(text)} == {columns}
    assert re.search(r"\\toprule.*\\midrule.*\\bottomrule", text, flags=re.DOTALL)
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_]", plain.replace(r"tab:table_", "tab:"))
    assert plain.isascii() and "|" not in plain  # booktabs: no vertical rules


@each_table
def test_intervals_stand_beneath_numbers_of_like_width(name):
    """Digits line up: numbers of one column have as many decimals."""
    for column in zip(*rows_of(latex_tables.latex(TABLES[name]()))[1:], strict=False):
        numbers = [re.sub(r"\\textbf\{(.*)\}", r"\1", cell) for cell in column]
        decimals = {len(found[1]) for cell in numbers if (found := re.fullmatch(r"\d\.(\d+)", cell))}
        assert len(decimals) <= 1, column


def test_bold_follows_the_paired_test_not_the_mean():
    """All scores are equal here: bold comes from `leads` alone, and where all lead nothing is set apart."""
    rows = rows_of(latex_tables.latex(TABLES["scores"]()))
    by_label = {row[0]: row[2:] for row in rows}
    assert by_label["2 Findings identification"] == [r"\textbf{0.500}", "0.500"]
    assert by_label["8 Report"] == ["0.500", "0.500"]
    assert by_label["4 Relationships"] == ["--", "--"] and by_label["Overall"][0] == r"\textbf{0.500}"


def test_an_arm_is_bold_when_it_is_shown_to_be_better_and_only_then():
    better = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.001, "n": 1000}
    text = latex_tables.latex(
        latex_tables.ablations(ARMS | {"differences": {"shuffled, none": better}}, origin="simulated")
    )
    bold = [row for row in rows_of(text) if any("textbf" in cell for cell in row)]
    assert len(bold) == 1 and "no context" in bold[0] and "+0.100" in bold[0]
    assert "textbf" not in latex_tables.latex(TABLES["ablations"]())  # nothing differs: nothing is bold


def test_transfer_is_bold_only_where_flow_and_alone_are_shown_to_differ():
    rows = rows_of(latex_tables.latex(TABLES["transfer"]()))
    by_metric = {row[2]: row for row in rows if row[2]}
    pneumothorax = by_metric["AUROC, pneumothorax"]
    assert pneumothorax[:2] == ["NIH ChestX-ray14", "classification"] and pneumothorax[4] == "99"
    assert pneumothorax[5:8] == ["0.650", r"\textbf{0.770}", "$-$0.120"]
    assert pneumothorax[8:] == ["0.490", "0.500"]
    assert by_metric["ROUGE-L F1"][5:8] == ["0.110", "0.120", "$-$0.010"]  # the interval holds 0
    assert by_metric["AUROC, edema"][5:8] == ["--", "--", "--"]  # one class: not scorable
    assert by_metric["mean IoU (two readers)"][5:7] == ["--", "0.700"]
    assert "AP" not in by_metric  # no headline


def test_files_are_written_and_the_same_every_time(scratch):
    first = latex_tables.write(TABLES["scores"]())
    assert latex_tables.write(TABLES["scores"]()) == first
    assert (scratch / "tables" / "table_scores.tex").read_text() == first
    data = pl.read_csv(scratch / "tables" / "table_scores.csv")
    assert data.filter(stage=1, system="predicted")["score"].item() == 0.5
    assert "not show to be lower" in (scratch / "tables" / "table_scores.txt").read_text()


def test_text_is_escaped_and_a_ragged_row_is_refused():
    table = Table("t", "50 % of A&B_1 <5", ["a_b"], "l", [[[Cell("{x}#")]]], pl.DataFrame({"x": [1]}))
    text = latex_tables.latex(table)
    assert r"50 \% of A\&B\_1 \textless{}5" in text and r"a\_b" in text and r"\{x\}\#" in text
    with pytest.raises(ValueError, match="2 cells under 1"):
        latex_tables.latex(table._replace(parts=[[[Cell("1"), Cell("2")]]]))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here; structure is checked above")
def test_latex_compiles_them(tmp_path):
    inputs = "".join(latex_tables.latex(make()) for make in TABLES.values())
    head = r"\documentclass[twocolumn]{article}\usepackage{booktabs,adjustbox}\begin{document}"
    page = head + inputs + r"\end{document}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Overfull" not in done.stdout  # no table is wider than the page
