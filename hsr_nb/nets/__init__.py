"""The StyleGAN2 networks, StyleGAN1's beside them, and the one way from a seed to a picture."""

from .discriminator import Discriminator
from .generator import Generator
from .seeds import generator_hash, images_for_seeds, ws_for_seeds, z_from_seed
from .stylegan1 import StyleGAN1Discriminator, StyleGAN1Generator

__all__ = [
    "Discriminator",
    "Generator",
    "StyleGAN1Discriminator",
    "StyleGAN1Generator",
    "generator_hash",
    "images_for_seeds",
    "ws_for_seeds",
    "z_from_seed",
]
