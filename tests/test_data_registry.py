"""Data sets by their names, the scanned digits, grids of pictures."""

import numpy as np
import pytest
import torch
from data_sets import make_set

from hsr_nb.base.pictures import to_uint8
from hsr_nb.data import Digits, image_grid, open_dataset


def test_image_grid():
    x = torch.zeros(5, 3, 4, 6, dtype=torch.uint8)
    x[4] = 255
    g = np.asarray(image_grid(x, cols=2))
    assert g.shape == (12, 12, 3) and g[8:, :6].min() == 255 and g[:8].max() == 0 and g[8:, 6:].max() == 0
    assert image_grid(x).size == (18, 8) and image_grid(x[:, :1]).mode == "L"
    assert image_grid(torch.zeros(1, 4, 2, 2)).mode == "RGBA" and image_grid(torch.zeros(2, 7, 2, 2)).mode == "RGB"
    assert np.asarray(image_grid(torch.full((1, 1, 2, 2), float("nan")))).shape == (2, 2)
    assert to_uint8(torch.tensor([-9.0, -1, 0, 1, 9])).tolist() == [0, 0, 128, 255, 255]
    assert image_grid(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)).size == (2, 2)
    for bad in (torch.zeros(3, 4, 4), torch.zeros(0, 3, 4, 4)):
        with pytest.raises(ValueError, match="grid needs images"):
            image_grid(bad)
    with pytest.raises(ValueError, match="uint8 or float"):
        image_grid(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_registry(tmp_path):
    root = make_set(tmp_path / "mine", 4, labels=lambda i: i)
    assert open_dataset(str(root), labels=True).label_dim == 4 and open_dataset(root, resolution=16).name == "mine"
    assert open_dataset("digits", resolution=16).image_shape == (1, 16, 16)
    for spec in ("synthfacs", "nowhere", "", "/no/such.zip"):
        with pytest.raises(FileNotFoundError, match="synthfaces, digits, or the path") as e:
            open_dataset(spec)
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="no option 'max_size'"):
        open_dataset("digits", max_size=3)
    assert len(open_dataset("synthfaces", resolution=16, size=7)) == 7


def test_digits():
    ds = Digits(labels=True)
    assert ds.image_shape == (1, 32, 32) and len(ds) == 1797 and ds.label_dim == 10 and ds.name == "digits"
    x = ds.images(range(200)).float()
    classes = ds.labels(range(200)).argmax(1)
    means = torch.stack([x[classes == k].mean(0) for k in range(10)])
    nearest = torch.cdist(ds.images(range(200, 400)).float().flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == ds.labels(range(200, 400)).argmax(1)).float().mean() > 0.8  # labels and pictures belong together
    assert torch.equal(torch.nn.functional.avg_pool2d(Digits(8).images([0]).float(), 1), Digits(8).images([0]).float())
    assert ds.identity["resize_filter"] == "bicubic" and Digits(8).identity["resize_filter"] == "none"
    assert len({Digits(size, labels).identity["sha256"] for size in (16, 32) for labels in (False, True)}) == 4
    with pytest.raises(ValueError, match="8 to 1024"):
        Digits(4)
