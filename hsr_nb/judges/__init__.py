"""Frozen networks that look at pictures: backbones, detectors, attribute and identity networks, perceptual distances."""

from .detectors import Detector, load_detector, require_independent

__all__ = ["Detector", "load_detector", "require_independent"]
