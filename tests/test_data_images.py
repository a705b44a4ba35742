"""Data sets of files: the format, their identity, several threads and processes."""

import hashlib
import json
import os
import pickle
import random
import shutil
import threading
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from data_sets import make_set, picture, zip_of
from PIL import Image

from hsr_nb.data import DataError, ImageDataset, check_dataset
from hsr_nb.data.images import subset


def test_protocol_folder_and_zip(tmp_path):
    root = make_set(tmp_path / "set", labels=lambda i: i % 4)
    for path in (root, zip_of(root, tmp_path / "set.zip")):
        ds = ImageDataset(path, labels=True)
        assert (ds.name, ds.image_shape, ds.label_dim, len(ds)) == ("set", (3, 16, 16), 4, 12)
        x = ds.images(torch.tensor([3, 0, 11]))
        assert x.dtype == torch.uint8 and x.shape == (3, 3, 16, 16) and x.is_contiguous()
        assert ds.labels([3, 0]).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
        image, label = ds[5]
        assert torch.equal(image, ds.images([5])[0]) and label.tolist() == [0, 1, 0, 0]
        assert torch.equal(ds[-1][0], ds[11][0]) and len(list(ds)) == 12
        for bad in ([12], [-13]):
            with pytest.raises(IndexError):
                ds.images(bad)
        assert ds.images([]).shape == (0, 3, 16, 16) and ds.labels([]).shape == (0, 4)
        json.dumps(ds.identity)


def test_path_order_is_lexicographic_with_slashes(tmp_path):
    names = ["b.png", "a/z.png", "a.png", "a/b/1.png", "10.png", "9.png", "B.png", "a-.png"]
    for i, n in enumerate(names):
        (tmp_path / n).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / n)
    ds = ImageDataset(tmp_path)
    assert ds._names == sorted(names)
    for i, n in enumerate(sorted(names)):
        assert np.array_equal(ds[i][0].permute(1, 2, 0), np.asarray(Image.open(tmp_path / n)))


@pytest.mark.parametrize(
    "mode, alpha, shape",
    [("L", False, (1, 16, 24)), ("RGB", False, (3, 16, 24)), ("RGBA", True, (4, 16, 24)), ("LA", True, (2, 16, 24))],
)
def test_channels_and_non_square(tmp_path, mode, alpha, shape):
    make_set(tmp_path / "s", 4, size=(24, 16), mode=mode)
    ds = ImageDataset(tmp_path / "s", alpha=alpha)
    assert ds.image_shape == shape and ds.images(range(4)).shape == (4, *shape)
    if alpha:
        with pytest.raises(DataError, match="alpha channel"):
            ImageDataset(tmp_path / "s")


def test_continuous_labels_and_json_variants(tmp_path):
    root = make_set(tmp_path / "s", 6, labels=lambda i: [0.5, -float(i)])
    ds = ImageDataset(root, labels=True)
    assert ds.label_dim == 2 and ds.labels([3]).tolist() == [[0.5, -3.0]] and ds.labels([3]).dtype == torch.float32
    table = json.loads((root / "dataset.json").read_text())["labels"]
    (root / "dataset.json").write_text(json.dumps({"labels": dict(table)}))
    assert torch.equal(ImageDataset(root, labels=True).labels(range(6)), ds.labels(range(6)))
    (root / "dataset.json").write_text(json.dumps({"labels": [[n.replace("/", "\\"), v] for n, v in table]}))
    assert torch.equal(ImageDataset(root, labels=True).labels(range(6)), ds.labels(range(6)))
    for none in ('{"labels": null}', "{}"):
        (root / "dataset.json").write_text(none)
        assert ImageDataset(root).label_dim == 0
        with pytest.raises(DataError, match="has no labels"):
            ImageDataset(root, labels=True)


def test_subset_is_the_official_one():
    for n, k, seed in ((10, 3, 0), (1000, 77, 5)):
        order = np.arange(n)
        np.random.RandomState(seed).shuffle(order)
        assert subset(n, k, seed).tolist() == sorted(order[:k].tolist())
    with pytest.raises(ValueError, match="at least 1"):
        subset(5, 0)


def test_other_size_needs_a_named_filter(tmp_path):
    root = make_set(tmp_path / "s", 3)
    with pytest.raises(DataError, match="16x16.*expected 8x8.*hsr_data.*resize_filter"):
        ImageDataset(root, resolution=8)
    with pytest.raises(ValueError, match="lanczos or box"):
        ImageDataset(root, resolution=8, resize_filter="cubic")
    with pytest.raises(DataError, match="another aspect"):
        ImageDataset(root, resolution=(8, 16), resize_filter="box")
    box = ImageDataset(root, resolution=8, resize_filter="box")
    mean = ImageDataset(root).images([1])[0].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    assert (box.images([1])[0].float() - mean).abs().max() <= 1  # a box of 2x2 is the mean, rounded twice
    for bad in (0, -4, "32", (8, 8, 8), 2.5):
        with pytest.raises((ValueError, TypeError)):
            ImageDataset(root, resolution=bad)


def test_kept_images_are_the_read_ones(tmp_path):
    root = make_set(tmp_path / "s", 30)
    kept, read = ImageDataset(root), ImageDataset(root, keep_mb=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        i = rng.integers(0, 30, 9)  # with repeats
        x = kept.images(i)
        assert torch.equal(x, read.images(i))
        x.zero_()  # a batch is a copy: changing it changes nothing
    assert read._kept is None and kept._kept is not None and len(pickle.dumps(kept)) < 20_000
    kept.images(range(30))
    shutil.rmtree(root)
    assert kept.images(range(30)).shape == (30, 3, 16, 16)  # everything is in memory by now


def test_differing_image_is_named_on_access(tmp_path):
    root = make_set(tmp_path / "s", 6)
    picture(1, size=(16, 8)).save(root / "2/005.png")
    ds = ImageDataset(root)
    with pytest.raises(DataError, match=r"2/005.png is 8x16 .*first image is 16x16"):
        ds.images(range(6))


def test_identity_does_not_depend_on_place_order_or_packing(tmp_path):
    root = make_set(tmp_path / "one", labels=lambda i: i % 2)
    ids = set()
    for labels in (False, True):
        paths = [
            root,
            zip_of(root, tmp_path / "a.zip", lambda f: f.sort()),
            zip_of(root, tmp_path / "b.zip", lambda f: f.sort(reverse=True)),
            zip_of(root, tmp_path / "c.zip", random.Random(1).shuffle, zipfile.ZIP_DEFLATED),
        ]
        copy = tmp_path / f"copy{labels}"
        copy.mkdir()
        for p in sorted(root.rglob("*"), reverse=True):  # created in another order, elsewhere
            if p.is_file():
                (copy / p.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(p, copy / p.relative_to(root))
        shas = {ImageDataset(p, labels=labels).identity["sha256"] for p in (*paths, copy)}
        assert len(shas) == 1
        ids |= shas
    assert len(ids) == 2 and all(len(s) == 64 and int(s, 16) >= 0 for s in ids)


def test_identity_covers_everything_that_matters(tmp_path):
    root = make_set(tmp_path / "s", 8, labels=lambda i: i % 2)
    shas = [
        ImageDataset(root, **kw).identity["sha256"]
        for kw in (
            {},
            {"labels": True},
            {"max_size": 4},
            {"max_size": 4, "seed": 1},
            {"resolution": 8, "resize_filter": "box"},
            {"resolution": 8, "resize_filter": "lanczos"},
            {"resolution": 4, "resize_filter": "box"},
        )
    ]
    before = shas[0]
    picture(99).save(root / "0/000.png")
    shas.append(ImageDataset(root).identity["sha256"])
    (root / "0/000.png").rename(root / "0/renamed.png")
    shas.append(ImageDataset(root).identity["sha256"])
    assert len(set(shas)) == len(shas)
    (root / "0/renamed.png").rename(root / "0/000.png")
    picture(0).save(root / "0/000.png")
    (root / "notes.txt").write_text("other files do not matter")
    assert ImageDataset(root).identity["sha256"] == before
    assert ImageDataset(root, resolution=16).identity["sha256"] == before  # the resolution they have anyway


def test_identity_is_pinned(tmp_path):
    "The hash of a fixed set must never change: checkpoints record it."
    (tmp_path / "a").mkdir()
    flat = b"P5 4 4 255 " + bytes(range(16))
    (tmp_path / "a/x.pgm").write_bytes(flat)
    (tmp_path / "y.pgm").write_bytes(flat[::1])
    ds = ImageDataset(tmp_path)
    header = {
        "format": "hsr_nb images 1",
        "image_shape": [1, 4, 4],
        "label_dim": 0,
        "labels": None,
        "resize_filter": "none",
        "subset": None,
    }
    h = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in ("a/x.pgm", "y.pgm"):
        h.update(len(name).to_bytes(4, "big") + name.encode() + hashlib.sha256(flat).digest())
    assert ds.identity["sha256"] == h.hexdigest()


def test_unicode_names_are_the_same_composed_or_not(tmp_path):
    shas = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        root.mkdir()
        for i, n in enumerate(["é.png", "日本.png", "ångström/ü.png", "z.png", "e.png"]):
            p = root / unicodedata.normalize(form, n)
            p.parent.mkdir(exist_ok=True)
            picture(i).save(p)
        ds = ImageDataset(root)
        zipped = ImageDataset(zip_of(root, tmp_path / f"{form}.zip"))
        assert torch.equal(ds.images(range(5)), zipped.images(range(5)))
        shas += [ds.identity["sha256"], zipped.identity["sha256"]]
        assert check_dataset(root).ok
    assert len(set(shas)) == 1


def test_pickle_threads_and_fork(tmp_path):
    zipped = zip_of(make_set(tmp_path / "s", 40), tmp_path / "s.zip", compress=zipfile.ZIP_DEFLATED)
    ds = ImageDataset(zipped, threads=4, keep_mb=0)
    want = ds.images(range(40))
    sha = ds.identity["sha256"]
    copy = pickle.loads(pickle.dumps(ds))
    assert torch.equal(copy.images(range(40)), want) and copy.identity["sha256"] == sha
    wrong = []

    def hammer(seed):
        order = np.random.default_rng(seed).permutation(40)
        for _ in range(5):
            if not torch.equal(ds.images(order), want[order]):
                wrong.append(seed)

    threads = [threading.Thread(target=hammer, args=(s,)) for s in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
    pid = os.fork()  # the child has the parent's handle and dead threads
    if pid == 0:
        os._exit(0 if torch.equal(ds.images(range(40)), want) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_changed_zip_is_noticed(tmp_path):
    ds = ImageDataset(zip_of(make_set(tmp_path / "s", 5), tmp_path / "s.zip"))
    blob = pickle.dumps(ds)
    zip_of(make_set(tmp_path / "s", 7), tmp_path / "s.zip")
    with pytest.raises(DataError, match="changed"):
        pickle.loads(blob).images([0])
