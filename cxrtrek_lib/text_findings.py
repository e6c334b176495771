"""Findings with polarity from free text: what a report says is present, absent or uncertain.

spaCy's blank English pipeline splits sentences and marks the words of `findings.py`; negspacy's NegEx
runs twice, once with the words of negation and once with those of doubt. No trained model is involved,
so the same text gives the same findings on every machine.
"""

from functools import cache, lru_cache
from typing import Any

import spacy
from negspacy.negation import Negex  # noqa: F401 - importing it registers the "negex" component
from negspacy.termsets import termset
from spacy.language import Language

from cxrtrek_lib.findings import FINDINGS

# Report words for a finding beyond its names and synonyms, which questions and answers use, too.
REPORT_WORDS: dict[str, tuple[str, ...]] = {
    "atelectasis": ("atelectatic", "subsegmental collapse"),
    "consolidation": ("airspace consolidation", "alveolar consolidation", "lobar consolidation"),
    "cardiomegaly": ("enlargement of the heart", "enlargement of the cardiac silhouette"),
    "central venous catheter": ("venous catheter", "dialysis catheter", "mediport", "port", "catheter"),
    "enteric tube": ("enteric catheter",),
    "emphysema": ("emphysematous", "bullous emphysema"),
    "granuloma": ("granulomata", "calcified nodule", "granulomatous calcification"),
    "hilar enlargement": ("hilar fullness",),
    "hyperinflation": ("hyperinflated", "hyperexpanded", "hyperlucent"),
    "interstitial opacity": ("interstitial disease", "interstitial thickening", "interstitial prominence"),
    "low lung volumes": ("low lung volume", "low volumes", "hypoventilatory", "hypoinflated", "hypoaeration"),
    "nodule": ("nodular density",),
    "pacemaker": ("pacer", "defibrillator", "aicd", "icd", "pacing leads"),
    "pulmonary fibrosis": ("fibrotic",),
    "scarring": ("scars",),
    "scoliosis": (
        "levoscoliosis",
        "dextroscoliosis",
        "dextrocurvature",
        "levocurvature",
        "curvature of the spine",
    ),
    "vascular congestion": ("vascular engorgement", "venous congestion", "vascular prominence"),
}
# A statement about an organ that says something about findings: subject words, what is said, findings,
# polarity. Up to five words may stand between; a "not" among them turns the polarity round.
HEART, LUNGS = "heart cardiac cardiomediastinal", "lung lungs"
AORTA, DIAPHRAGM = "aorta aortic", "diaphragm diaphragms hemidiaphragm hemidiaphragms"
TORTUOUS = "tortuous ectatic tortuosity ectasia elongated unfolded unfolding"
CALCIFIED = "calcified calcific calcification calcifications atherosclerotic atherosclerosis"
CLEAR = "consolidation, lung opacity"
STATEMENTS = (
    (HEART, "enlarged enlargement prominent", "cardiomegaly", "present"),
    (HEART, "normal unremarkable unenlarged", "cardiomegaly", "absent"),
    (LUNGS, "clear", CLEAR, "absent"),
    (LUNGS, "hyperexpanded hyperinflated hyperinflation", "hyperinflation", "present"),
    (AORTA, TORTUOUS, "aortic elongation", "present"),
    (TORTUOUS, AORTA, "aortic elongation", "present"),
    (AORTA, CALCIFIED, "aortic atherosclerosis", "present"),
    (CALCIFIED, AORTA, "aortic atherosclerosis", "present"),
    (DIAPHRAGM, "elevated elevation", "hemidiaphragm elevation", "present"),
    ("elevated elevation", DIAPHRAGM, "hemidiaphragm elevation", "present"),
    ("volumes", "low diminished decreased reduced", "low lung volumes", "present"),
    ("vascularity vasculature", "prominent increased engorged congested", "vascular congestion", "present"),
    ("mediastinum mediastinal", "widened widening", "enlarged cardiomediastinum", "present"),
    ("costophrenic angle angles sulcus sulci", "blunted blunting", "costophrenic angle blunting", "present"),
    ("blunted blunting", "costophrenic angle angles sulcus sulci", "costophrenic angle blunting", "present"),
    ("fracture fractures fractured", "rib ribs", "rib fracture", "present"),
    ("rib ribs", "fracture fractures fractured", "rib fracture", "present"),
    ("spondylosis degenerative", "spine disc vertebrae", "degenerative spine changes", "present"),
)
NOT = ("not", "no", "without", "nor", "n't")

_CLINICAL = termset("en_clinical").get_patterns()
_END = {"there is", "there are", ";", "with"}  # a new statement starts here
_EXCLUDE = {"cannot exclude", "can not exclude", "cannot be excluded", "not be excluded", "not excluded"}
NEGATION = {
    # "versus", "evaluate for" and "rule out" leave the question open, and belong to DOUBT.
    "preceding_negations": sorted(
        set(_CLINICAL["preceding_negations"])
        - {"versus", "evaluate for", "rule out", "r/o", "ro", "doubt", "declined"}
        | {"clear of", "negative", "resolution of", "resolved", "neither", "nor", "rather than"}
    ),
    "following_negations": [
        *("unlikely", "was ruled out", "were ruled out", "absent", "resolved", "removed"),
        *("is not seen", "are not seen", "not identified", "not present", "not visualized", "not evident"),
        *(
            "not demonstrated",
            "is excluded",
            "are excluded",
            "within normal limits",
            "within limits of normal",
        ),
    ],
    "pseudo_negations": sorted(
        {*_CLINICAL["pseudo_negations"], *_EXCLUDE, "not entirely excluded", "without change in"}
        | {"without significant change", "no significant interval change", "less likely"}
    ),
    "termination": sorted({*_CLINICAL["termination"], *_END, "has developed", "is seen"}),
}
DOUBT = {
    "preceding_negations": [
        *("possible", "possibly", "probable", "probably", "may", "might", "could", "likely", "uncertain"),
        *(
            "suspect",
            "suspected",
            "suspicious for",
            "suspicion for",
            "concern for",
            "concerning for",
            "question",
        ),
        *(
            "questionable",
            "question of",
            "differential",
            "consideration",
            "suggest",
            "suggests",
            "suggesting",
        ),
        *("suggestive of", "versus", "vs", "evaluate for", "evaluation for", "rule out", "r/o", "borderline"),
        *sorted(_EXCLUDE),
    ],
    "following_negations": [
        *("versus", "vs", "is possible", "suspected", "is questioned", "may be present", "is uncertain"),
        *("cannot be excluded", "not excluded", "not entirely excluded", "cannot be ruled out"),
        "difficult to exclude",
    ],
    "pseudo_negations": ["likely unchanged"],
    "termination": ["but", "however", "although", *sorted(_END)],
}
LONGEST_WORD = 100  # the tokenizer takes minutes for a run of 20,000 brackets
_ORDER = ("present", "uncertain", "absent")  # what a text says of a finding when it says several things


def _plural(term: str) -> str:
    if term.endswith("y") and term[-2:-1] not in "aeiou":
        return term[:-1] + "ies"
    return term + ("es" if term.endswith(("s", "x", "h")) else "s")


def _between(limit: int) -> dict[str, Any]:
    return {"LOWER": {"NOT_IN": [*NOT, ",", ";", "but", "and"]}, "OP": f"{{0,{limit}}}"}


def _patterns() -> list[dict[str, Any]]:
    """Patterns of spaCy's entity ruler; the id of each is "polarity:finding[, finding...]"."""
    found: list[dict[str, Any]] = []
    for name, entry in FINDINGS.items():
        terms = {name, *entry.synonyms, *REPORT_WORDS.get(name, ())}
        terms |= {_plural(term) for term in terms}
        found += [{"label": "F", "pattern": term, "id": f"present:{name}"} for term in sorted(terms)]
    for subject, said, names, polarity in STATEMENTS:
        start, ends = {"LOWER": {"IN": subject.split()}}, {"LOWER": {"IN": said.split()}}
        key = f"{polarity}:{names}"
        found.append({"label": "F", "pattern": [start, _between(5), ends], "id": key})
        # "The heart is not enlarged"; "not normal" says that something is wrong, not what.
        opposite = f"{'absent' if polarity == 'present' else 'ignored'}:{names}"
        negated = [start, _between(3), {"LOWER": {"IN": list(NOT)}}, _between(2), ends]
        found.append({"label": "F", "pattern": negated, "id": opposite})
    for word in ("clear", "normal"):  # "clear lungs", "normal heart size"
        names, subject = (CLEAR, LUNGS) if word == "clear" else ("cardiomegaly", HEART)
        pattern = [{"LOWER": word}, {"IS_ALPHA": True, "OP": "{0,1}"}, {"LOWER": {"IN": subject.split()}}]
        found.append({"label": "F", "pattern": pattern, "id": f"absent:{names}"})
    return found


@cache
def _pipeline() -> Language:
    nlp = spacy.blank("en")
    # English tokenizers keep "Mass." together, for Massachusetts.
    nlp.tokenizer.rules = {text: rule for text, rule in nlp.tokenizer.rules.items() if text != "Mass."}
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    ruler.add_patterns(_patterns())
    nlp.add_pipe("negex", name="negation", config={"neg_termset": NEGATION, "extension_name": "negated"})
    nlp.add_pipe("negex", name="doubt", config={"neg_termset": DOUBT, "extension_name": "doubted"})
    return nlp


@lru_cache(maxsize=100_000)
def _findings_in(text: str) -> tuple[tuple[str, str], ...]:
    said: dict[str, set[str]] = {}
    for entity in _pipeline()(text).ents:
        polarity, names = entity.ent_id_.split(":")
        if polarity == "present":
            polarity = "absent" if entity._.negated else "uncertain" if entity._.doubted else "present"
        for name in names.split(", "):
            said.setdefault(name, set()).add(polarity)
    return tuple(
        (name, next(p for p in _ORDER if p in polarities))
        for name, polarities in sorted(said.items())
        if polarities & set(_ORDER)
    )


def findings_in(text: str) -> dict[str, str]:
    """Findings a text speaks of: canonical name -> present | absent | uncertain, names sorted.

    When sentences differ, present goes before uncertain and uncertain before absent: a report that
    denies a *large* effusion and describes a small one describes an effusion. A run of more than
    `LONGEST_WORD` characters without a space is no word and is left out.

    >>> findings_in("No pneumothorax. Small left effusion, possible pneumonia.")
    {'pleural effusion': 'present', 'pneumonia': 'uncertain', 'pneumothorax': 'absent'}
    """
    return dict(_findings_in(" ".join(word for word in text.split() if len(word) <= LONGEST_WORD)))
