"""Annotation tables that install with pip: one module each, read from the user's own installation."""
