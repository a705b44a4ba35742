"""Train: configuration, losses, state and the loop."""

from .augment import AugmentPipe
from .config import PRESETS, TrainConfig, config_from_dict, override, preset
from .diffaugment import DiffAugment
from .run import Stopped, TrainingFailed, train
from .run_folder import best_checkpoints, read_metrics

__all__ = [
    "AugmentPipe",
    "DiffAugment",
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
