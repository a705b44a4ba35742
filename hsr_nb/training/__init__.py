"""Train: configuration, losses, state and the loop."""
from .config import PRESETS, TrainConfig, config_from_dict, override, preset
from .run import TrainingFailed, read_metrics, train
