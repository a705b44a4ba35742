"""The StyleGAN2 networks, and frozen backbones."""

from .discriminator import Discriminator
from .generator import Generator
