"""StyleGAN2, Hierarchical Semantic Regularization and the Attribute Linearity Score as runnable notebooks."""

__version__ = "0.1.0"
