"""Simulated chest radiographs: findings inserted in 3-D into a real chest CT, projected, with exact truth."""

from cxrtrek_lib.simulate.scene import RENDERABLE, film

__all__ = ["RENDERABLE", "film"]
