"""Simulated chest radiographs: findings inserted in 3-D into a real chest CT, projected, with exact truth."""

from cxrtrek_lib.simulate.catalogue import NOT_SHOWN, RENDERABLE
from cxrtrek_lib.simulate.scene import film, films

__all__ = ["NOT_SHOWN", "RENDERABLE", "film", "films"]
