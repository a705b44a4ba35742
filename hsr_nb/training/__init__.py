"""Train: configuration, losses, state and the loop."""

from .config import PRESETS, TrainConfig, config_from_dict, override, preset
from .folder import best_checkpoints, read_metrics
from .run import Stopped, TrainingFailed, train
