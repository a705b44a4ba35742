"""Explore: pictures from seeds, and the explorer."""

from ..base.pictures import write_png
from ..nets.seeds import class_labels, draw, images_for_seeds, ws_for_seeds, z_from_seed
from .explorer import Explorer
from .generate import GenerateConfig, parse_seeds, style_mixing_grid
from .latent_explorer import LatentExplorer
from .recipe import Edit, Recipe

__all__ = [
    "Edit",
    "Explorer",
    "GenerateConfig",
    "LatentExplorer",
    "Recipe",
    "class_labels",
    "draw",
    "images_for_seeds",
    "parse_seeds",
    "style_mixing_grid",
    "write_png",
    "ws_for_seeds",
    "z_from_seed",
]
