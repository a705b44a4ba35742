"""The order of images: uniform, resumable, the same with workers and several processes, which end with the program."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import GOOD, make_set, zip_of

from hsr_nb.data import DataError, ImageDataset
from hsr_nb.data.sampler import batches, image_order


@pytest.mark.parametrize("n, seed, mirror", [(1, 0, False), (7, 0, False), (7, 3, True), (100, 123456789, False)])
def test_order_properties(n, seed, mirror):
    full = n * (2 if mirror else 1)
    stream = image_order(n, seed, 0, 5 * full, mirror)
    assert stream.dtype == np.int64
    for e in range(5):
        assert sorted(stream[e * full : (e + 1) * full]) == list(range(full))
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = sorted(rng.integers(0, len(stream) + 1, 2))
        assert np.array_equal(image_order(n, seed, int(a), int(b - a), mirror), stream[a:b])
    if n > 6:
        epochs = stream.reshape(5, full)
        assert len({tuple(e) for e in epochs}) == 5
        assert not np.array_equal(stream, image_order(n, seed + 1, 0, 5 * full, mirror))


def test_order_is_pinned_and_leaves_numpy_alone():
    state = np.random.get_state()[1].copy()
    assert image_order(10, 0, 0, 12).tolist() == PINNED
    assert image_order(5, 1, 10**12, 3).shape == (3,)  # far along needs no walk
    assert np.array_equal(np.random.get_state()[1], state)
    for bad in ((0, 0, 0, 1), (3, -1, 0, 1), (3, 0, -1, 1), (3, 0, 0, -1)):
        with pytest.raises(ValueError):
            image_order(*bad)


PINNED = [0, 8, 9, 3, 7, 5, 1, 2, 6, 4, 3, 7]


def test_order_is_uniform():
    "Every image is equally likely in every place: chi-square over 4 000 epochs of 6 images."
    n, epochs = 6, 4000
    stream = image_order(n, 0, 0, n * epochs).reshape(epochs, n)
    counts = np.stack([np.bincount(stream[:, p], minlength=n) for p in range(n)])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 52.6  # 25 degrees of freedom, p = 0.001
    pairs = {tuple(p) for p in stream[:, :2]}
    assert len(pairs) == n * (n - 1)


class Numbered:
    name, image_shape, label_dim = "numbered", (1, 2, 4), 2

    def __init__(self, n):
        self.n = n
        self.pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 4)
        self.pixels[..., 0] = 255

    def __len__(self):
        return self.n

    def images(self, i):
        return self.pixels[torch.as_tensor(np.asarray(i))]

    def labels(self, i):
        return torch.stack([torch.as_tensor(np.asarray(i)).float(), torch.ones(len(i))], 1)


def test_batches_resume_ranks_and_flips():
    ds = Numbered(10)
    one = list(itertools.islice(batches(ds, 8, 5, mirror=True), 12))
    order = image_order(10, 5, 0, 96, mirror=True).reshape(12, 8)
    for (x, c), idx in zip(one, order):
        assert x.shape == (8, 1, 2, 4) and c[:, 0].tolist() == (idx % 10).tolist()
        flipped = x[:, 0, 0, 3] == 255
        assert flipped.tolist() == (idx >= 10).tolist() and x[:, 0, 0, 1].tolist() == (idx % 10).tolist()
    resumed = batches(ds, 8, 5, start=24, mirror=True)
    for (a, _), (b, _) in zip(resumed, one[3:]):
        assert torch.equal(a, b)
    for world in (2, 4):
        ranks = [batches(ds, 8, 5, mirror=True, rank=r, world=world) for r in range(world)]
        for whole, _ in one[:5]:
            parts = [next(r)[0] for r in ranks]
            assert all(torch.equal(p, whole[r::world]) for r, p in enumerate(parts))
    assert ds.pixels[:, 0, 0, 0].min() == 255  # flipping did not touch the set's own tensor
    with pytest.raises(ValueError, match="'numbered' has 10 images, fewer than one batch of 12"):
        batches(ds, 12, 0)
    with pytest.raises(ValueError, match="10 images .20 with the mirrored copies., fewer than one batch of 21"):
        batches(ds, 21, 0, mirror=True)
    for kw, say in (
        (dict(world=3), "divide among 3"),
        (dict(rank=2, world=2), "rank 2 of 2"),
        (dict(start=-1), ">= 0"),
    ):
        with pytest.raises(ValueError, match=say):
            batches(ds, 8, 0, **kw)


@pytest.mark.parametrize("mirror", [False, True])
def test_two_workers_give_the_same_batches(tmp_path, mirror):
    ds = ImageDataset(zip_of(make_set(tmp_path / "s", 20, labels=lambda i: i % 3), tmp_path / "s.zip"), labels=True)
    here = list(itertools.islice(batches(ds, 6, seed=3, start=12, mirror=mirror), 8))
    state = torch.get_rng_state()
    loader = batches(ds, 6, seed=3, start=12, mirror=mirror, workers=2)
    there = list(itertools.islice(loader, 8))
    assert torch.equal(state, torch.get_rng_state())
    for (a, la), (b, lb) in zip(here, there):
        assert torch.equal(a, b) and torch.equal(la, lb)


def test_worker_errors_reach_the_loop(tmp_path):
    root = make_set(tmp_path / "s", 8)
    ds = ImageDataset(root)
    (root / "1/004.png").write_bytes(GOOD[:100])
    with pytest.raises(DataError, match="1/004.png"):
        list(itertools.islice(batches(ds, 4, 0, workers=2), 4))


OURS = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def lives(pid):
    "Whether a process is there, and no zombie that waits to be fetched."
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return False
    _, after_name = stat.read_text().rsplit(")", 1)
    return after_name.split()[0] != "Z"


def test_workers_end_with_the_program(tmp_path):
    "A batch iterator that is still open when the program ends does not keep it from ending."
    program = """
from hsr_nb.data import open_dataset
from hsr_nb.data.sampler import batches
stream = batches(open_dataset("digits"), 8, seed=0, workers=2)
next(stream)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100, env=OURS)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_program_that_is_killed(method):
    "Also where they are children of a fork server, which lives on."
    program = f"""
import multiprocessing, time
from hsr_nb.data import open_dataset
from hsr_nb.data.sampler import batches
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    stream = batches(open_dataset("digits"), 8, seed=0, workers=2)
    next(stream)
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
"""
    p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=OURS)
    pids = [int(x) for x in p.stdout.readline().split()]
    assert len(pids) == 2 and all(Path(f"/proc/{i}").exists() for i in pids)
    p.kill()
    p.wait()

    end = time.monotonic() + 60
    while any(map(lives, pids)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(map(lives, pids))
