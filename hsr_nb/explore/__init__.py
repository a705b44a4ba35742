"""Explore: pictures from seeds, and later the explorer and the survey."""
from .generate import (GenerateConfig, class_labels, draw, images_for_seeds, parse_seeds, style_mixing_grid, ws_for_seeds, write_png,
                       z_from_seed)
from .explorer import Explorer
from .latent_explorer import LatentExplorer
from .recipe import Edit, Recipe
