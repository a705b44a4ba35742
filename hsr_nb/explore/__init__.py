"""Explore: pictures from seeds, recipes with undo, and sliders over one or two generators."""

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
    "ws_for_seeds",
    "z_from_seed",
]
