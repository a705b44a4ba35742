"""The StyleGAN2 networks, and the one way from a seed to a picture."""

from .discriminator import Discriminator
from .generator import Generator
from .seeds import generator_hash, images_for_seeds, ws_for_seeds, z_from_seed

__all__ = ["Discriminator", "Generator", "generator_hash", "images_for_seeds", "ws_for_seeds", "z_from_seed"]
