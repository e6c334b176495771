"""Every path of the study, from one root: the repository that holds this package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PARAMS = ROOT / "params.yaml"
PROFILES = ROOT / "profiles"
NOTEBOOKS = ROOT / "notebooks"
TEMPLATES = Path(__file__).resolve().parent / "templates"

# Outputs of the pipeline: DVC keeps them, git does not.
DATASET = ROOT / "data" / "dataset"
PHANTOM = ROOT / "data" / "phantom"
FILMS = ROOT / "data" / "films"
MODELS = ROOT / "models"
UNFINISHED = MODELS / "unfinished"
PREDICTIONS = ROOT / "predictions"

# What readers look at: small files written by cheap steps.
REPORTS = ROOT / "reports"
FIGURES = REPORTS / "figures"
TABLES = REPORTS / "tables"
METRICS = REPORTS / "metrics"
EXECUTED_NOTEBOOKS = REPORTS / "notebooks"
