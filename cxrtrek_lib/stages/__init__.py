"""The eight clinical reasoning stages in order: what each asks, and from which evidence.

Every builder takes `Evidence` (one chunk of studies) and the templates of its stage, and returns frames with
the columns of ROW. A stage without evidence for a study gives no row. Rules that hold everywhere:
- "No" needs an absence at tier 1 or 2; nothing is asked about findings of unknown status.
- Wrong options are false by evidence: findings known to be absent (and not a special or general form of a
  present one), or the other values of an attribute whose value is known.
- What is drawn (phrasing, options, order) depends on the study's key and the question only.
"""

from cxrtrek_lib.stages import attributes, changes, diagnosis, identification, relations, reporting

BUILDERS = {
    1: identification.image_validation,
    2: identification.identification,
    3: attributes.attributes,
    4: relations.relations,
    5: changes.comparison,
    6: changes.trend,
    7: diagnosis.diagnosis,
    8: reporting.report,
}
