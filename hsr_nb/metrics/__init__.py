"""Scores, each under a key that names the detector it was measured with."""

from ..judges.detectors import load_detector
from ..judges.perceptual import LPIPS, DetectorDistance
from .coverage import precision_recall
from .fidelity import feature_stats, fid, inception_score, kid
from .path_length import ppl
from .real_features import collect_features, generated_images, reference_features

__all__ = [
    "DetectorDistance",
    "LPIPS",
    "collect_features",
    "feature_stats",
    "fid",
    "generated_images",
    "inception_score",
    "kid",
    "load_detector",
    "ppl",
    "precision_recall",
    "reference_features",
]
