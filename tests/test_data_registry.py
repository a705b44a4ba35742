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
    assert g.shape == (12, 12, 3)
    fifth, rest_of_row = g[8:, :6], g[8:, 6:]
    assert fifth.min() == 255
    assert g[:8].max() == 0
    assert rest_of_row.max() == 0
    assert image_grid(x).size == (18, 8)
    assert image_grid(x[:, :1]).mode == "L"
    assert image_grid(torch.zeros(1, 4, 2, 2)).mode == "RGBA"
    assert image_grid(torch.zeros(2, 7, 2, 2)).mode == "RGB"
    lost = torch.full((1, 1, 2, 2), float("nan"))
    assert np.asarray(image_grid(lost)).shape == (2, 2)
    assert to_uint8(torch.tensor([-9.0, -1, 0, 1, 9])).tolist() == [0, 0, 128, 255, 255]
    assert image_grid(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)).size == (2, 2)
    for bad in (torch.zeros(3, 4, 4), torch.zeros(0, 3, 4, 4)):
        with pytest.raises(ValueError, match="grid needs images"):
            image_grid(bad)
    with pytest.raises(ValueError, match="uint8 or float"):
        image_grid(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_registry(tmp_path):
    root = make_set(tmp_path / "mine", 4, labels=lambda i: i)
    assert open_dataset(str(root), labels=True).label_dim == 4
    assert open_dataset(root, resolution=16).name == "mine"
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
    assert ds.name == "digits"
    assert ds.image_shape == (1, 32, 32)
    assert ds.label_dim == 10
    assert len(ds) == 1797
    x = ds.images(range(200)).float()
    classes = ds.labels(range(200)).argmax(1)
    means = torch.stack([x[classes == k].mean(0) for k in range(10)])
    others = ds.images(range(200, 400)).float()
    nearest = torch.cdist(others.flatten(1), means.flatten(1)).argmin(1)
    right = nearest == ds.labels(range(200, 400)).argmax(1)
    assert right.float().mean() > 0.8  # labels and pictures belong together
    small = Digits(8)
    first = small.images([0]).float()
    assert torch.equal(torch.nn.functional.avg_pool2d(first, 1), first)
    assert small.identity["resize_filter"] == "none"
    assert ds.identity["resize_filter"] == "bicubic"
    kinds = [(size, labels) for size in (16, 32) for labels in (False, True)]
    assert len({Digits(*kind).identity["sha256"] for kind in kinds}) == 4
    with pytest.raises(ValueError, match="8 to 1024"):
        Digits(4)
