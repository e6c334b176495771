"""What can be quoted from a report: its legible sentences, and those that advise something.

Column-wise: every function takes and returns an expression. `XXXX` stands for words that were removed before
a report was published; no sentence that holds it is quoted.
"""

import polars as pl

# What may be done after a film, as reports name it.
_STEP = (
    r"(?:follow[- ]?ups?|imaging|images|\S*CT|MRI|PET|ultrasound|tomography|scan|bronchoscopy|biopsy"
    r"|fluoroscop\w+|echocardiogra\w+|radiograph\w*|films?|views?|x-?rays?|rib series|stud(?:y|ies)"
    r"|exam(?:ination)?s?|evaluation|assessment|characterization|work-?up|investigation|correlation"
    r"|comparison|repositioning)"
)
_MODAL = r"\b(?:may|might|could|would|can|should|must|will) (?:also )?be "
# One pattern per way of advising; a sentence that matches any of them advises something. Advice against a
# further step ("no follow-up is needed") is advice too. Mere description is not: "suggesting edema", "seen on
# prior CT".
ADVICE = (
    r"\brecommend(?:s|ed|ing|ations?)?\b",
    r"\badvi[sc](?:e|es|ed|ing|able)\b",
    # "Suggest clinical correlation."; "Follow-up imaging in 6 months is suggested."
    rf"(?:^|[,;] |please |would )suggest (?:\S+ ){{0,3}}(?:{_STEP}|reference)\b",
    r"\b(?:follow[- ]?up|imaging|CT|MRI|correlation|comparison|evaluation)\b.* (?:is|are) suggested\b",
    # "Further imaging is not indicated."; "No follow-up needed."
    rf"\b{_STEP}\b.* (?:is|are) (?:not )?(?:indicated|warranted|needed|required|necessary)\b",
    rf"\b{_STEP} (?:not )?(?:warranted|needed|required|necessary)\b",
    rf"\bfurther {_STEP}\b.* (?:will|may|would|might) require\b",
    # "Please correlate clinically."; not "no discrete correlate"
    r"(?:^|[,;] |please |and )correlate\b",
    r"\bclinical(?:ly)? correlat(?:ion|e)\b",
    # "consider dedicated rib series"; not "consider pneumonia"
    rf"\bconsider (?:[\w/-]+ ){{0,4}}{_STEP}\b",
    rf"\b{_STEP}\b[^,;]*{_MODAL}(?:considered|performed|obtained|initiated)\b",
    rf"\b{_STEP}\b[^,;]*{_MODAL}(?:warranted|indicated|needed|repeated)\b",
    rf"{_MODAL}(?:helpful|useful|beneficial|of (?:benefit|help|use|value))\b",
    rf"{_MODAL}(?:further |better )?(?:evaluated|assessed|characterized|confirmed)"
    r"(?: further)? (?:with|by|on) ",
    rf"\b{_STEP}\b.* would better (?:evaluate|assess|characterize)\b",
    r"\b(?:should|must|could|may) be (?:correlated|followed|repositioned|retracted|advanced|withdrawn)\b",
    r"\b(?:should|must) be (?:excluded|ruled out)\b",
    # "Follow up to resolution."; "Repeat PA radiograph in 3 days."
    r"^(?:\S+ ){0,2}follow[- ]?up (?:until|with|to (?:ensure|document|confirm|assess|exclude|resolution))\b",
    rf"^repeat (?:[\w-]+ ){{0,3}}{_STEP}\b",
)  # fmt: skip
_ADVISES = "(?i)" + "|".join(f"(?:{pattern})" for pattern in ADVICE)
# Somebody advised before, or somebody was told: no advice of this report.
_REPORTED = r"(?i)\b(?:as|as was|as previously|previously|was|were|been) (?:recommended|advised)\b"


def sentences(text: pl.Expr) -> pl.Expr:
    """List of the sentences of a text, without those that hold XXXX or no word at all.

    A numbered item ("2. Clear lungs.") begins a sentence and keeps its number.
    """
    # These patterns have no look-around: the full stops of item numbers are hidden while the text is cut.
    text = text.str.replace_all(r"\s+", " ").str.replace_all(r"(?:^| )(\d)\. ", "\x1f$1\x1e")
    text = text.str.replace_all(r"([.!?]) ", "$1\x1f").str.replace_all("\x1e", ". ", literal=True)
    kept = pl.element().str.contains(r"\pL|\d") & ~pl.element().str.contains("XXXX", literal=True)
    return text.str.split("\x1f").list.eval(pl.element().filter(kept))


def legible(text: pl.Expr) -> pl.Expr:
    """The text without the sentences that hold XXXX or no word at all; "" when none is left.

    >>> pl.select(legible(pl.lit("Normal chest x-XXXX. . The heart is normal."))).item()
    'The heart is normal.'
    """
    return sentences(text).list.join(" ")


def advice(text: pl.Expr) -> pl.Expr:
    """List of the sentences of a text that advise something (ADVICE), without the numbers of list items.

    >>> pl.select(advice(pl.lit("1. Nodule. 2. Recommend CT. Suggestive of scar."))).item().to_list()
    ['Recommend CT.']
    """
    item = pl.element().str.replace(r"^\d\. ", "")
    own = item.str.replace_all(_REPORTED, "")
    return sentences(text).list.eval(item.filter(own.str.contains(_ADVISES)))
