"""CXRTrek: a reproducible study of stage-by-stage chest X-ray reading (arXiv 2505.23143)."""

__version__ = "0.1.0"
