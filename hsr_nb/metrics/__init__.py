"""Scores, each under a key that names the detector it was measured with."""

from ..judges.detectors import load_detector, require_independent
from .coverage import precision_recall
from .fidelity import FeatureStats, feature_stats, fid, fid_se, frechet, frechet_distance
from .kid_is import inception_score, kid
from .path_length import LPIPS, DetectorDistance, SquaredL2, ppl
from .real_features import collect_features, feature_scores, generated_images, reference_features, reference_stats

__all__ = [
    "DetectorDistance",
    "FeatureStats",
    "LPIPS",
    "SquaredL2",
    "collect_features",
    "feature_scores",
    "feature_stats",
    "fid",
    "fid_se",
    "frechet",
    "frechet_distance",
    "generated_images",
    "inception_score",
    "kid",
    "load_detector",
    "ppl",
    "precision_recall",
    "reference_features",
    "reference_stats",
    "require_independent",
]
