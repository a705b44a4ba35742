"""Checkpoints of all origins, read without executing anything."""

from ..base.errors import CheckpointError
from .checkpoint import load_checkpoint, load_generator
from .safetensors import save_safetensors

__all__ = ["CheckpointError", "load_checkpoint", "load_generator", "save_safetensors"]
