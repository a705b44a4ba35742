"""Inversion: the latent of a picture, found by descent, by tuning the generator, or by both."""

from .dragging import Dragging, drag
from .pivotal import Tuning, tune
from .projector import Projection, Projector
from .result import Inversion, load_inversion
from .ways import invert

__all__ = [
    "Dragging",
    "Inversion",
    "Projection",
    "Projector",
    "Tuning",
    "drag",
    "invert",
    "load_inversion",
    "tune",
]
