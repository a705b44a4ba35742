"""Checkpoints: ours, and later other people's."""

from .safetensors import CheckpointError, load_checkpoint, load_generator, save_safetensors
