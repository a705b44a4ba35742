"""Scores, each under a key that names the detector it was measured with."""
from .detectors import Detector, load_detector
from .fidelity import FeatureStats, feature_stats, frechet, frechet_distance
from .report import provenance, write_result
