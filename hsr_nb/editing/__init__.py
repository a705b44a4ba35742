"""Editing: directions in W, and editors that move latents by attribute and strength in one common unit."""

from .directions import Directions, load_directions, save_directions
from .dplase import DPLaSE
from .editor import Edit, Editor
from .ganspace import GANSpace
from .interfacegan import InterFaceGAN
from .latents import LatentSet, load_latents
from .methods import load_editor
from .sefa import SeFa

__all__ = [
    "DPLaSE",
    "Directions",
    "Edit",
    "Editor",
    "GANSpace",
    "InterFaceGAN",
    "LatentSet",
    "SeFa",
    "load_directions",
    "load_editor",
    "load_latents",
    "save_directions",
]
