"""Inversion: the latent of a picture, found by descent, by tuning the generator, or by both."""

from .pivotal import Tuning, tune
from .projector import Projection, Projector
from .result import Inversion, load_inversion
from .ways import invert

__all__ = [
    "Inversion",
    "Projection",
    "Projector",
    "Tuning",
    "invert",
    "load_inversion",
    "tune",
]
