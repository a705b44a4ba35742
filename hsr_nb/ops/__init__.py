"""The operations StyleGAN2 is made of: reference and fast versions, twice differentiable."""

from .activation import bias_act
from .backend import backend_report
from .modulated_conv import modulated_conv2d
from .resample import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from .resampled_conv import conv2d_resample

__all__ = [
    "backend_report",
    "bias_act",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
