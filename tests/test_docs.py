"""README and docs: generated parts are as they would be generated, links lead somewhere, claims follow."""

import json
import re
import subprocess

import polars as pl
import pytest
import yaml
from test_report import TRANSFER

from cxrtrek_lib import claims, dataset_card, figure_index, parameter_reference, params, paths, readme, report

WRITTEN = {name: json.loads((paths.METRICS / f"{name}.json").read_text()) for name in readme.NAMES}
METRICS = WRITTEN | {"transfer": report.transfer_json(TRANSFER)}
PIPELINE = yaml.safe_load(paths.PIPELINE.read_text())
TEXTS = sorted(
    [paths.README, paths.ROOT / "CONTRIBUTING.md", *paths.DOCS.glob("*.md"), *paths.REPORTS.glob("*.md"),
     *paths.FIGURES.glob("*.md")]
)  # fmt: skip


def outputs() -> set[str]:
    """Every path that a step writes, as dvc.yaml has it."""
    found = set()
    for step in PIPELINE["stages"].values():
        content = step.get("do", step)
        for entry in [*content.get("outs", []), *content.get("metrics", [])]:
            found.add(next(iter(entry)) if isinstance(entry, dict) else entry)
    return found


def anchors(text: str) -> set[str]:
    """Addresses of the headings of a Markdown text, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(paths.ROOT)))
def test_relative_links_lead_somewhere(file):
    text = file.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    made = outputs()
    for link in links:
        if re.match(r"https?:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (file.parent / place).resolve() if place else file
        name = str(target.relative_to(paths.ROOT))
        # Pictures and tables of cases are not in git: a step makes them.
        assert target.exists() or name in made, f"{file.name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{file.name}: {link}"


def test_what_readme_shows_is_in_git():
    """Pictures and tables that README links would be missing on a fresh clone if git ignored them."""
    links = re.findall(r"\]\((reports/[^)\s#]+)\)", paths.README.read_text())
    ignored = subprocess.run(
        ["git", "check-ignore", *links], cwd=paths.ROOT, capture_output=True, text=True
    ).stdout.split()
    assert ignored == []


def test_numbers_of_readme_are_those_of_the_metrics():
    text = paths.README.read_text()
    assert readme.filled(text, WRITTEN) == text, "run `make docs`"


def test_a_number_that_moves_moves_in_readme():
    moved = json.loads(json.dumps(METRICS))
    moved["evaluation"]["overall"]["predicted"]["score"] = 0.123456
    assert "0.123 (" in readme.filled(paths.README.read_text(), moved)
    broken = paths.README.read_text().replace("<!-- /scores -->", "")
    with pytest.raises(ValueError, match="needs one block `<!-- scores: generated -->`"):
        readme.filled(broken, METRICS)


def test_check_writes_nothing_and_fails_on_a_stale_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "metrics", lambda: METRICS)
    stale = tmp_path / "README.md"
    stale.write_text(paths.README.read_text().replace("| system |", "| sistem |"))
    monkeypatch.setattr(paths, "README", stale)
    before = stale.read_bytes()
    assert readme.main(["--check"]) == 1 and stale.read_bytes() == before
    assert "not what reports/metrics say" in capsys.readouterr().err
    assert readme.main([]) == 0 and readme.main(["--check"]) == 0


def test_the_first_screen_of_readme():
    """What it is, the two commands, one figure, where to go next, before anything else."""
    first = paths.README.read_text().partition("\n## ")[0]
    assert "make repro" in first and "make test" in first and first.count("![") == 1
    assert "reports/index.html" in first and "docs/README.md" in first
    assert len(first.split()) < 330


def test_the_reference_of_parameters_is_as_generated():
    file = paths.DOCS / "parameters.md"
    assert file.read_text() == parameter_reference.reference(), "run `make docs`"


def test_the_reference_names_every_key_once():
    """Every dotted key of the default profile has one line; keys of open mappings stand in their cell."""

    def keys(tree, above=""):
        for name, value in tree.items():
            key = f"{above}{name}"
            if isinstance(value, dict) and value and key != "cohort.external":
                yield from keys(value, f"{key}.")
            else:
                yield key

    text = parameter_reference.reference()
    wanted = list(keys(params.load(paths.PROFILES / "default.yaml").groups()))
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)) == sorted(wanted)
    row = re.search(r"^\| `predict.max_new_tokens` \|.*$", text, flags=re.MULTILINE)[0]
    assert "whole number ≥ 4, ≤ 4,096" in row and "predict, intervene" in row and " | 160 | " in row


# The ledger

BELOW = {"difference": -0.1, "low": -0.2, "high": -0.05, "p": 0.001, "p_holm": 0.004, "n": 1000}
ABOVE = {"difference": 0.1, "low": 0.05, "high": 0.2, "p": 0.001, "p_holm": 0.004, "n": 1000}


def ledger(**tests):
    evaluation = METRICS["evaluation"] | {"differences": METRICS["evaluation"]["differences"] | tests}
    lines = claims.ledger(
        METRICS["dataset"], evaluation, METRICS["ablations"], TRANSFER, checkpoint="small", alone_share=0.75
    )
    return {line.statement: line for line in lines}


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (BELOW, "not reproduced"),
        (ABOVE, "scaled down"),
        (ABOVE | {"p_holm": 0.2}, "not reproduced"),
        (ABOVE | {"low": -0.01}, "not reproduced"),
    ],
)
def test_the_verdict_on_context_follows_from_the_test(test, verdict):
    lines = ledger(**{"predicted - none": test})
    (context,) = [line for statement, line in lines.items() if statement.startswith("The context")]
    assert context.verdict == verdict and f"{test['difference']:+.3f}" in context.shown


def test_every_claim_has_a_known_verdict_and_files_that_a_step_makes():
    made = outputs()
    for line in ledger().values():
        assert line.verdict in ("reproduced", "scaled down", "not reproduced", "not tested")
        assert all(f"reports/{link}" in made for link in line.links), line.links
        assert line.links or line.verdict == "not tested"
    text = claims.markdown(list(ledger().values()), origin="simulated")
    assert "simulated films" in text and text.count("\n| ") == len(ledger()) + 1
    with pytest.raises(ValueError, match="holds a bar"):
        claims.markdown([claims.Line("a|b", "not tested", "", [])], origin="simulated")


# Cards and the index of figures


def test_the_dataset_card_counts_what_the_tables_count():
    summary, by_format = (
        pl.read_csv(paths.TABLES / f"{name}.csv") for name in ("dataset_summary", "stage_format_source")
    )
    card = dataset_card.card(summary, by_format, METRICS["dataset"])
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "terms-of-each-source"
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", card, flags=re.MULTILINE)
    assert {row[0] for row in rows} == {"train", "validate", "test", "external"}
    assert sum(int(row[3]) for row in rows) == METRICS["dataset"]["n_qa"]
    assert sum(int(row[1]) for row in rows) == METRICS["dataset"]["n_studies"]
    totals = [int(line.split("|")[-2]) for line in card.splitlines() if re.match(r"\| \d [A-Z]", line)]
    assert sum(totals) == METRICS["dataset"]["n_qa"] and len(totals) == 8


def test_the_index_has_every_figure_with_caption_step_and_data(scratch):
    makers = figure_index.makers(PIPELINE)
    assert makers["stage_radar"] == ("evaluate_stages", "06_evaluate_stages")
    assert len(makers) >= 18
    for folder in ("figures", "tables"):
        (scratch / folder).mkdir(exist_ok=True)
    for name in makers:
        (scratch / "figures" / f"{name}.png").write_bytes(b"")
        (scratch / "tables" / f"{name}.txt").write_text(f"Caption of {name}.\n")
    text = figure_index.write(PIPELINE)
    assert (scratch / "figures" / "README.md").read_text() == text
    for name, (step, notebook) in makers.items():
        assert (f"Caption of {name}." in text) != (name in figure_index.SHOW_CASES)
        assert f'src="{name}.png"' in text
        assert f"Step `{step}`, [{notebook}.ipynb](../../notebooks/{notebook}.ipynb)" in text
    ignored = (paths.ROOT / ".gitignore").read_text()
    assert all(f"/reports/tables/{name}.*" in ignored for name in figure_index.SHOW_CASES)
    (scratch / "tables" / "stage_radar.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"stage_radar\.txt: not there; run `dvc repro evaluate"):
        figure_index.write(PIPELINE)
