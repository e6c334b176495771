"""Where in the chest a finding lies: how its place is written, and which places exclude each other.

The sources decide which places a finding can have; a place that is unknown here is written as it stands.
"""

import polars as pl

from cxrtrek_lib.findings import DEVICES

# Places of which there is a left and a right one: the word for both. "In the left shoulder" takes the side of
# the finding; in the superior vena cava, a catheter that came in from the right has a side of its own.
PAIRED = {
    "upper lobe": "upper lobes", "lower lobe": "lower lobes",
    "upper lung zone": "upper lung zones", "mid lung zone": "mid lung zones",
    "lower lung zone": "lower lung zones", "lung apex": "lung apices", "lung base": "lung bases",
    "lung": "lungs", "hilum": "hila", "perihilar region": "perihilar regions",
    "suprahilar region": "suprahilar regions", "infrahilar region": "infrahilar regions",
    "paracardiac region": "paracardiac regions", "paramediastinal region": "paramediastinal regions",
    "subpleural region": "subpleural regions", "paratracheal region": "paratracheal regions",
    "paravertebral region": "paravertebral regions", "pectoral region": "pectoral regions",
    "costophrenic angle": "costophrenic angles", "cardiophrenic angle": "cardiophrenic angles",
    "interlobar fissure": "interlobar fissures", "major fissure": "major fissures",
    "ribs": "ribs", "anterior ribs": "anterior ribs", "posterior ribs": "posterior ribs",
    "costal cartilages": "costal cartilages", "clavicle": "clavicles", "scapula": "scapulae",
    "humerus": "humeri", "humeral head": "humeral heads", "humeral neck": "humeral necks",
    "shoulder": "shoulders", "glenohumeral joint": "glenohumeral joints",
    "acromioclavicular joint": "acromioclavicular joints",
    "sternoclavicular joint": "sternoclavicular joints", "rotator cuff": "rotator cuffs",
    "supraspinatus tendon": "supraspinatus tendons", "axilla": "axillae", "breast": "breasts",
}  # fmt: skip
# Places that only one side has.
ONE_SIDED = {"middle lobe": "right", "minor fissure": "right", "lingula": "left"}
AT = ("lung apex", "lung base", "hilum")  # "at the hilum"; everything else lies "in" its place

# Places of one kind: what lies in one of them does not lie in another. The lingula is no lobe, and the
# retrocardiac region is part of the left base, so these and others have no clear rivals.
KINDS = (
    ("upper lobe", "middle lobe", "lower lobe"),
    ("upper lung zone", "mid lung zone", "lower lung zone"),
    ("lung apex", "perihilar region", "lung base"),
    ("suprahilar region", "hilum", "infrahilar region"),
    ("anterior mediastinum", "middle mediastinum", "posterior mediastinum"),
    ("cervical spine", "thoracic spine", "lumbar spine"),
)


# What lies in the pleural cavity lies in no lobe and at no hilum, whatever a label says.
PLEURAL = ("pleural effusion", "pneumothorax", "hydropneumothorax")
PARENCHYMAL = (
    "upper lobe", "middle lobe", "lower lobe", "lingula", "hilum", "perihilar region", "suprahilar region",
    "infrahilar region",
)  # fmt: skip


def sensible() -> pl.Expr:
    """`place`, but null where it does not go with `side` (a left middle lobe) or `name` (PLEURAL)."""
    own = pl.col("place").replace_strict(ONE_SIDED, default=None, return_dtype=pl.String)
    elsewhere = pl.col("name").is_in(PLEURAL) & pl.col("place").is_in(PARENCHYMAL)
    return pl.when((own == pl.col("side")).fill_null(True) & ~elsewhere).then("place")


def words(*, with_side: bool) -> pl.Expr:
    """The place as it stands after "the": "lung bases" (both sides), "right lower lobe", "middle lobe".

    From the columns place and side. Without with_side, left and right are left out.
    """
    side, place = pl.col("side"), pl.col("place")
    one = pl.concat_str(side, pl.lit(" "), place) if with_side else place
    return (
        pl.when(side.is_null() | ~place.is_in(list(PAIRED))).then(place)
        .when(side == "bilateral").then(place.replace(PAIRED))
        .otherwise(one)
    )  # fmt: skip


def takes_side() -> pl.Expr:
    """Whether the place, as `words` tells it with its side, says the side of the finding as well."""
    paired = pl.col("place").is_in(list(PAIRED)) & (pl.col("side") != "bilateral")
    return (paired | pl.col("place").is_in(list(ONE_SIDED))).fill_null(False)


def side_word(side: str, name: str) -> pl.Expr:
    """The side (a column) as it stands before the name (a column): "left", before a device "left-sided"."""
    device = pl.col(name).is_in(list(DEVICES)) & (pl.col(side) != "bilateral")
    return pl.when(device).then(pl.concat_str(side, pl.lit("-sided"))).otherwise(side)


def rivals() -> pl.DataFrame:
    """(place, left, option): the places of its kind that a place can be told from, itself included.

    left  whether the finding is known to be on the left, where there is no middle lobe; each (place, left)
          has its options, places without clear rivals have no rows
    """
    rows = [
        (place, left, option)
        for kind in KINDS
        for place in kind
        for option in kind
        for left in (False, True)
        if not (left and "right" in (ONE_SIDED.get(place), ONE_SIDED.get(option)))
    ]
    return pl.DataFrame(rows, schema=["place", "left", "option"], orient="row")
