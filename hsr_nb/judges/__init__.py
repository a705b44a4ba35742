"""Frozen networks that look at pictures: detectors, attributes, identities, perceptual distances."""

from .attributes import AttributeBank, load_bank
from .backbones import Backbone, build_backbone, load_embedded
from .cards import read_card
from .detectors import Detector, load_detector
from .identity import load_identity
from .independence import require_independent
from .perceptual import LPIPS, DetectorDistance

__all__ = [
    "AttributeBank",
    "Backbone",
    "Detector",
    "DetectorDistance",
    "LPIPS",
    "build_backbone",
    "load_bank",
    "load_detector",
    "load_embedded",
    "load_identity",
    "read_card",
    "require_independent",
]
