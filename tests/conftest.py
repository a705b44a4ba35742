"""What every test needs: no network, no windows, one thread per process, and no GPU tests without a GPU."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a look-up without a network takes 46 s to fail, this 0.2 s
os.environ.setdefault("MPLBACKEND", "agg")
# The networks are small, and two threads on a busy core are many times slower. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_collection_modifyitems(items):
    "Skip tests marked gpu, with the reason, where torch sees no GPU."
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in wanting:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU; torch.cuda.is_available() is False here"))
