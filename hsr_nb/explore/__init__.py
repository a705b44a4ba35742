"""Explore: pictures from seeds, and later the explorer and the survey."""

from .explorer import Explorer
from .generate import (
    GenerateConfig,
    class_labels,
    draw,
    images_for_seeds,
    parse_seeds,
    style_mixing_grid,
    write_png,
    ws_for_seeds,
    z_from_seed,
)
from .latent_explorer import LatentExplorer
from .recipe import Edit, Recipe
