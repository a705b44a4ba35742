"""SynthFaces: faces drawn from formulas, every factor known."""

from .dataset import SynthFaces, base_face, factor_sweep, render_faces, sample_factors, sweep_factors
from .factors import FACTOR_NAMES

__all__ = [
    "FACTOR_NAMES",
    "SynthFaces",
    "base_face",
    "factor_sweep",
    "render_faces",
    "sample_factors",
    "sweep_factors",
]
