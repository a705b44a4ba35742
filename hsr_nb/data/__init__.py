"""Pictures to train on: folders, zips, archives, and faces drawn from formulas."""

from ..base.errors import DataError
from ..base.pictures import image_grid, to_uint8
from .check import check_dataset
from .convert import convert_dataset
from .digits import Digits
from .images import ImageDataset, ImageSet
from .registry import open_dataset
from .synthfaces import FACTOR_NAMES, SynthFaces

__all__ = [
    "FACTOR_NAMES",
    "DataError",
    "Digits",
    "ImageDataset",
    "ImageSet",
    "SynthFaces",
    "check_dataset",
    "convert_dataset",
    "image_grid",
    "open_dataset",
    "to_uint8",
]
