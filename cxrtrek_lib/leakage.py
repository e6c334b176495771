"""What is tested on was never trained on: two sets of studies share no patient, image or image source."""

import polars as pl

from cxrtrek_lib.sources import ONE_IMAGE_SOURCE

NAMED = 3  # shared patients or images that a message names


def refuse_shared(external: pl.DataFrame, training: pl.DataFrame) -> None:
    """Raise ValueError, one line with the overlap, when studies to be tested on share anything with training.

    external, training  source, patient_id, images (tables.STUDIES); training: of every split that is trained
    or tuned on, or held out from the same patients' sources
    Shared is a source, or one that holds the same images under other names (sources.ONE_IMAGE_SOURCE), a
    patient, or an image file.
    """
    tested, trained = (set(studies["source"].unique()) for studies in (external, training))
    for group in (*ONE_IMAGE_SOURCE, *((name,) for name in sorted(tested & trained))):
        if (here := sorted(tested.intersection(group))) and (there := sorted(trained.intersection(group))):
            raise ValueError(
                f"leakage: {', '.join(here)} would be tested on and {', '.join(there)} is trained on, which "
                "hold the same images; give them one role in dataset.roles"
            )
    for what, column in (("patient", pl.col("patient_id")), ("image", pl.col("images").explode())):
        shared = external.select(it=column).join(training.select(it=column), on="it", how="semi")
        names = shared["it"].unique().sort().to_list()
        if names:
            more = ", ..." if len(names) > NAMED else ""
            raise ValueError(
                f"leakage: {what}s to be tested on are trained on, too ({len(names):,}): "
                f"{', '.join(names[:NAMED])}{more}; take their studies out of one of the two"
            )
