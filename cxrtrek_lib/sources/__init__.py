"""Annotation tables that install with pip: one module each, read from the user's own installation."""

# Sources whose images are the same ones under other names: no mapping is packaged, so none may be trained on
# while another is tested on. Of the second pair, the studies themselves are the same.
ONE_IMAGE_SOURCE = (("nih", "rsna", "siim"), ("chexpert", "chexpert_plus"))
