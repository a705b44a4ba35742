"""The commands: help and version at once, the work from the package that does it."""

from .front import (
    hsr_convert,
    hsr_data,
    hsr_edit,
    hsr_eval,
    hsr_generate,
    hsr_invert,
    hsr_survey,
    hsr_sweep,
    hsr_train,
)

__all__ = [
    "hsr_convert",
    "hsr_data",
    "hsr_edit",
    "hsr_eval",
    "hsr_generate",
    "hsr_invert",
    "hsr_survey",
    "hsr_sweep",
    "hsr_train",
]
