from .check import check_dataset, require_dataset
from .convert import convert_dataset
from .digits import Digits
from .files import DataError
from .images import ImageDataset, ImageSet, image_grid, to_uint8
from .registry import open_dataset
from .sampler import batches, check_batch, image_order
from .synthfaces import FACTOR_NAMES, SynthFaces, base_face, factor_sweep, render_faces, sample_factors, sweep_factors
