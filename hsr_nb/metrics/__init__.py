"""Scores, each under a key that names the detector it was measured with."""

from .comparison import compare_reports, read_report
from .coverage import precision_recall
from .detectors import Detector, load_detector, require_independent
from .evaluate import EvalConfig, evaluate_run
from .fidelity import FeatureStats, feature_stats, fid, fid_se, frechet, frechet_distance
from .kid_is import inception_score, kid
from .path_length import LPIPS, DetectorDistance, SquaredL2, ppl
from .reference import collect_features, feature_scores, generated_images, reference_features, reference_stats
from .report import provenance, write_result
