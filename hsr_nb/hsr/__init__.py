"""Hierarchical Semantic Regularization: teachers, heads and the loss."""

from .heads import Head, build_heads
from .regularizer import HSR
from .teachers import PAIRINGS, TAPS, TEACHERS, Teacher, load_teacher, pair_taps

__all__ = ["HSR", "Head", "PAIRINGS", "TAPS", "TEACHERS", "Teacher", "build_heads", "load_teacher", "pair_taps"]
