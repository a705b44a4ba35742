"""Editing: directions in W, in units of their own spread, and the methods that find them."""

from .directions import Directions, load_directions, save_directions
from .ganspace import GANSpace
from .sefa import SeFa

__all__ = ["Directions", "GANSpace", "SeFa", "load_directions", "save_directions"]
