"""Editing: directions in W, and editors that move latents by attribute and strength in one common unit."""

from .directions import load_directions, save_directions
from .dplase import DPLaSE
from .editor import Edit
from .ganspace import GANSpace
from .interfacegan import InterFaceGAN
from .latent_to_latent import LatentToLatent
from .latents import LatentSet, load_latents
from .methods import load_editor
from .sefa import SeFa
from .styleflow import StyleFlow

__all__ = [
    "DPLaSE",
    "Edit",
    "GANSpace",
    "InterFaceGAN",
    "LatentSet",
    "LatentToLatent",
    "SeFa",
    "StyleFlow",
    "load_directions",
    "load_editor",
    "load_latents",
    "save_directions",
]
