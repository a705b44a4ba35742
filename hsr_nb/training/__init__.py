"""Train: configuration, losses, state and the loop."""

from .config import PRESETS, TrainConfig, config_from_dict, override, preset
from .run import Stopped, TrainingFailed, train
from .run_folder import best_checkpoints, read_metrics

__all__ = [
    "PRESETS",
    "Stopped",
    "TrainConfig",
    "TrainingFailed",
    "best_checkpoints",
    "config_from_dict",
    "override",
    "preset",
    "read_metrics",
    "train",
]
