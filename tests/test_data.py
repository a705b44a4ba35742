"""Data sets of files, the checks, the converter, the sampler: bad input of every kind, identities, several processes."""

import gzip
import hashlib
import io
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hsr_nb.base.errors import shown
from hsr_nb.base.pictures import to_uint8
from hsr_nb.data import DataError, Digits, ImageDataset, check_dataset, image_grid, open_dataset
from hsr_nb.data.archives import read_cifar10, read_idx, read_lmdb, read_mnist, read_plain_pickle
from hsr_nb.data.check import base_of, require_dataset
from hsr_nb.data.convert import convert_dataset, main
from hsr_nb.data.files import open_files, unsafe
from hsr_nb.data.images import subset
from hsr_nb.data.prepare import crop_box, transformed
from hsr_nb.data.sampler import batches, image_order


def picture(seed=0, mode="RGB", size=(16, 16)):
    x = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    return Image.fromarray(x).convert(mode)


def encoded(im, format="png", **kw):
    out = io.BytesIO()
    im.save(out, format, **kw)
    return out.getvalue()


def make_set(root, n=12, labels=None, size=(16, 16), mode="RGB"):
    for i in range(n):
        p = Path(root) / f"{i % 3}/{i:03d}.png"
        p.parent.mkdir(parents=True, exist_ok=True)
        picture(i, mode, size).save(p)
    if labels is not None:
        names = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*.png"))
        (Path(root) / "dataset.json").write_text(json.dumps({"labels": [[n, labels(i)] for i, n in enumerate(names)]}))
    return Path(root)


def zip_of(root, dest, order=None, compress=zipfile.ZIP_STORED):
    files = [p for p in Path(root).rglob("*") if p.is_file()]
    (order or (lambda x: None))(files)
    with zipfile.ZipFile(dest, "w", compress) as z:
        for p in files:
            z.write(p, p.relative_to(root).as_posix())
    return dest


# ------------------------------------------------------------------------------------------------ the format


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


# ------------------------------------------------------------------------------------------------ identity


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


# ------------------------------------------------------------------------------------------------ processes and threads


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


def test_a_changed_zip_is_noticed(tmp_path):
    ds = ImageDataset(zip_of(make_set(tmp_path / "s", 5), tmp_path / "s.zip"))
    blob = pickle.dumps(ds)
    zip_of(make_set(tmp_path / "s", 7), tmp_path / "s.zip")
    with pytest.raises(DataError, match="changed"):
        pickle.loads(blob).images([0])


# ------------------------------------------------------------------------------------------------ bad files


def bad_png(width, height):
    "A tiny PNG that claims to be enormous."

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def rgb16_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x12\x34" * 48 for _ in range(16))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def bitflip(data, at=-40):
    data = bytearray(data)
    data[at] ^= 1
    return bytes(data)


def sideways():
    e = Image.Exif()
    e[0x112] = 6
    return e


GOOD = encoded(picture(0))
BAD = {
    "text.png": (b"just some words", "holds text"),
    "binary.png": (bytes(range(200)), "is not an image"),
    "empty.png": (b"", "is empty"),
    "truncated.png": (GOOD[:-200], "truncated or damaged"),
    "noend.png": (GOOD[:-12], "truncated or damaged"),
    "header_only.png": (GOOD[:40], "truncated"),
    "truncated.jpg": (encoded(picture(0), "jpeg")[:-100], "truncated or damaged"),
    "truncated.webp": (encoded(picture(0), "webp", lossless=True)[:-100], "truncated|not an image|broken"),
    "bitflip.png": (bitflip(GOOD), "damaged"),
    "size.png": (encoded(picture(0, size=(16, 24))), "is 24x16 RGB; expected 16x16 RGB"),
    "grey.png": (encoded(picture(0, "L")), "grey; expected 16x16 RGB"),
    "rgba.png": (encoded(picture(0, "RGBA")), "alpha channel"),
    "la.png": (encoded(picture(0, "LA")), "alpha channel"),
    "palette.png": (encoded(picture(0).quantize(9)), "palette"),
    "transparent.png": (encoded(picture(0), transparency=(1, 2, 3)), "transparent colour"),
    "deep.png": (encoded(Image.fromarray(np.full((16, 16), 700, np.uint16))), "16 or more bits"),
    "deep_rgb.png": (rgb16_png(), "16 or more bits"),
    "deep.tif": (encoded(Image.fromarray(np.full((16, 16), 700, np.uint16)), "tiff"), "16 or more bits"),
    "float.tif": (encoded(Image.fromarray(np.ones((16, 16), np.float32)), "tiff"), "bits|mode F"),
    "bilevel.png": (encoded(picture(0, "1")), "mode 1"),
    "cmyk.jpg": (encoded(picture(0, "CMYK"), "jpeg"), "mode CMYK"),
    "animated.png": (encoded(picture(0), save_all=True, append_images=[picture(1)]), "animated"),
    "animated.webp": (encoded(picture(0), "webp", save_all=True, append_images=[picture(1)]), "animated"),
    "animated.gif": (encoded(picture(0), "gif", save_all=True, append_images=[picture(1)]), "animated"),
    "sideways.jpg": (encoded(picture(0), "jpeg", exif=sideways()), "EXIF orientation 6"),
    "bomb.png": (bad_png(60000, 60000), "decompression bomb"),
    "half_bomb.png": (bad_png(9460, 9460), "decompression bomb"),
    "liar.png": (bad_png(2000, 2000), "truncated|2000x2000"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n", "is not an image"),
}


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp("bad") / "s", 40)
    for name, (data, _) in BAD.items():
        (root / "bad" / name).parent.mkdir(exist_ok=True)
        (root / "bad" / name).write_bytes(data)
    return root


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_bad_file_is_named_with_its_reason(bad_set, tmp_path):
    import re

    for path in (bad_set, zip_of(bad_set, tmp_path / "bad.zip")):
        report = check_dataset(path)
        found = dict(report.problems)
        assert set(found) == {f"bad/{n}" for n in BAD} and len(report.problems) == len(BAD)
        for name, (_, reason) in BAD.items():
            assert re.search(reason, found[f"bad/{name}"]), (name, found[f"bad/{name}"])
        assert report.shape == (3, 16, 16) and report.count == 40 + len(BAD)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", [n for n in BAD if n not in ("size.png", "grey.png", "noend.png", "bitflip.png")])
def test_the_loader_refuses_what_the_check_refuses(tmp_path, name):
    "Size and mode are told against the first image, checksums are the check's business; all else the loader sees itself."
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        ImageDataset(tmp_path)


@pytest.mark.filterwarnings("error")
def test_bombs_are_refused_even_when_warnings_are_errors(tmp_path):
    (tmp_path / "bomb.png").write_bytes(BAD["half_bomb.png"][0])
    report = check_dataset(tmp_path)
    assert not report.ok and "bomb" in report.problems[0][1]


def test_the_report_counts_what_it_does_not_show(tmp_path):
    for i in range(25):
        (tmp_path / f"{i:02d}.png").write_text("x")
    report = check_dataset(tmp_path)
    text = report.text(10)
    assert len(report.problems) == 25 and "00.png" in text and "... and 15 more" in text and "10.png" not in text
    with pytest.raises(DataError, match="and 15 more"):
        require_dataset(tmp_path)
    picture(0).save(tmp_path / "good.png")
    assert check_dataset(tmp_path).shape == (3, 16, 16)


def test_labels_are_judged(tmp_path):
    root = make_set(tmp_path / "s", 6)
    names = open_files(root).names

    def problems(table, **kw):
        (root / "dataset.json").write_text(json.dumps({"labels": table}))
        return dict(check_dataset(root, **kw).problems)

    whole = [[n, i] for i, n in enumerate(names)]
    assert problems(whole) == {} and check_dataset(root).labels == "6 classes"
    assert problems(whole[1:]) == {names[0]: "has no label"}
    assert problems(whole + [["gone.png", 1]]) == {"gone.png": "has a label but no image"}
    assert problems(whole + [whole[2]]) == {names[2]: "is labelled twice"}
    assert "negative label -3" in problems([[names[0], 1], [names[1], -3]] + whole[2:])[names[1]]
    for odd in ("cat", 1.5, True, None, [1.0], 1 << 40, {"a": 1}):
        assert "has the label" in problems(whole[:4] + [[names[4], odd]] + whole[5:])[names[4]]
    vectors = [[n, [1.0, 2.0]] for n in names]
    assert problems(vectors) == {}
    assert "list of 2 numbers" in problems(vectors[:5] + [[names[5], [1.0]]])[names[5]]
    assert "not finite" in problems(vectors[:5] + [[names[5], [1.0, 1e300]]])[names[5]]
    assert "not [path, label]" in problems(whole + [["only a path"]])["dataset.json"]
    assert problems(whole[1:], labels=False) == {}
    (root / "dataset.json").write_text('{"labels": [')
    assert "not valid JSON" in dict(check_dataset(root).problems)["dataset.json"]
    (root / "dataset.json").write_text('{"labels": ' + "[" * 100000)
    assert "dataset.json" in dict(check_dataset(root).problems)
    (root / "dataset.json").write_text(f'{{"labels": [["{names[0]}", [NaN]]]}}')
    assert "not finite" in dict(check_dataset(root).problems)[names[0]]
    (root / "dataset.json").unlink()
    assert dict(check_dataset(root, labels=True).problems) == {
        "dataset.json": "has no labels, and labels are asked for"
    }


@pytest.mark.alone
def test_links_pipes_and_litter(tmp_path):
    root = make_set(tmp_path / "s", 3)
    picture(7).save(tmp_path / "outside.png")
    (tmp_path / "more").mkdir()
    picture(8).save(tmp_path / "more/x.png")
    os.symlink(tmp_path / "outside.png", root / "out.png")
    os.symlink(root / "nothing.png", root / "dangling.png")
    os.symlink(tmp_path / "more", root / "folder")
    os.symlink(root, root / "loop")
    os.mkfifo(root / "pipe.png")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/._a.png").write_bytes(b"litter")
    (root / "._b.png").write_bytes(b"litter")
    start = time.time()
    report = check_dataset(root)
    assert time.time() - start < 5
    found = dict(report.problems)
    assert (
        "leaves the folder" in found["out.png"]
        and "does not exist" in found["dangling.png"]
        and "not a regular file" in found["pipe.png"]
    )
    assert (
        "not followed" in found["folder"] and "not followed" in found["loop"] and len(found) == 5 and report.count == 3
    )
    with pytest.raises(DataError):
        ImageDataset(root)
    inside = make_set(tmp_path / "t", 2)
    os.symlink(inside / "0/000.png", inside / "same.png")  # a link that stays inside is fine
    report = check_dataset(inside)
    assert report.ok and report.count == 3 and "1 exact cop" in report.notes[0]


def test_hostile_zip_members(tmp_path):
    path = tmp_path / "evil.zip"
    hostile = ["../slip.png", "a/../../slip.png", "/abs.png", "C:/drive.png", "..\\win.png", "\\\\share\\x.png"]
    with zipfile.ZipFile(path, "w") as z:
        for i in range(4):
            z.writestr(f"ok/{i}.png", encoded(picture(i)))
        for n in hostile:
            z.writestr(n, GOOD)
        with pytest.warns(UserWarning, match="Duplicate"):
            z.writestr("ok/0.png", GOOD)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(link, "/etc/passwd")
        z.writestr(zipfile.ZipInfo("lz.png"), GOOD, compress_type=zipfile.ZIP_LZMA)
    found = dict(check_dataset(path).problems)
    assert {
        "../slip.png",
        "a/../../slip.png",
        "/abs.png",
        "C:/drive.png",
        "..\\win.png",
        "\\\\share\\x.png",
        "ok/0.png",
        "link.png",
        "lz.png",
    } == set(found)
    assert (
        "twice" in found["ok/0.png"]
        and "link" in found["link.png"]
        and "method 14" in found["lz.png"]
        and "absolute" in found["/abs.png"]
    )
    with pytest.raises(DataError):
        ImageDataset(path)
    with pytest.raises(ValueError):
        convert_dataset(path, tmp_path / "out.zip", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"] and not (tmp_path.parent / "slip.png").exists()


def test_zip_bomb_is_bounded(tmp_path):
    "A member that states a small size but unpacks to 200 MB is cut at the stated size; one that states its size is refused or found to be no image."
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a.png", GOOD)
        z.writestr("zeros.png", b"\0" * (200 << 20))
    raw = bytearray(path.read_bytes())
    for sig, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # let both headers of the second member lie
        i = raw.rfind(sig)
        raw[i + at : i + at + 4] = struct.pack("<I", 100)
    (tmp_path / "liar.zip").write_bytes(raw)
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int({6 << 30}), int({6 << 30})))
from hsr_nb.data.check import check_dataset
import resource as r
before = r.getrusage(r.RUSAGE_SELF).ru_maxrss
print(check_dataset({str(tmp_path / "liar.zip")!r}))
print("grew", r.getrusage(r.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "zeros.png" in out.stdout and int(out.stdout.split("grew")[1]) < 100_000, out.stdout + out.stderr


def test_broken_and_encrypted_zips(tmp_path):
    good = zip_of(make_set(tmp_path / "s", 5), tmp_path / "g.zip")
    raw = Path(good).read_bytes()
    for name, data in (("cut.zip", raw[: len(raw) // 2]), ("text.zip", b"hello"), ("empty.zip", b"")):
        (tmp_path / name).write_bytes(data)
        report = check_dataset(tmp_path / name)
        assert not report.ok and "no readable zip" in str(report) and name in str(report)
        with pytest.raises(DataError, match=name):
            ImageDataset(tmp_path / name)
    spoiled = bytearray(raw)
    spoiled[raw.index(b"IDAT") + 30] ^= 255  # content changed, CRC not
    (tmp_path / "crc.zip").write_bytes(spoiled)
    assert len(check_dataset(tmp_path / "crc.zip").problems) == 1
    secret = bytearray(raw)
    secret[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    assert "encrypted" in check_dataset(tmp_path / "secret.zip").problems[0][1]


def test_random_damage_never_escapes(tmp_path):
    "Two hundred mutations of a zip and of each image format: a report or a DataError, nothing else."
    rng = np.random.default_rng(0)
    seeds = [encoded(picture(1), f) for f in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm")]
    (tmp_path / "f").mkdir()
    for i in range(140):
        raw = bytearray(seeds[i % len(seeds)])
        for at in rng.integers(0, len(raw), 6):
            raw[at] = rng.integers(256)
        (tmp_path / f"f/{i:03d}.png").write_bytes(raw[: rng.integers(1, len(raw) + 1)] if i % 3 == 0 else raw)
    report = check_dataset(tmp_path / "f")
    assert report.count == 140 and report.problems
    raw = Path(zip_of(make_set(tmp_path / "s", 4, labels=lambda i: i), tmp_path / "g.zip")).read_bytes()
    for i in range(60):
        hurt = bytearray(raw)
        for at in rng.integers(0, len(raw), 12):
            hurt[at] = rng.integers(256)
        hurt[-200:] = bytearray(b ^ (rng.integers(256) if rng.random() < 0.03 else 0) for b in hurt[-200:])
        (tmp_path / "hurt.zip").write_bytes(hurt)
        assert isinstance(str(check_dataset(tmp_path / "hurt.zip")), str)


def test_empty_missing_and_wrong_paths(tmp_path):
    assert "holds no images" in str(check_dataset(tmp_path))
    with pytest.raises(DataError, match="holds no images"):
        ImageDataset(tmp_path)
    for use in (check_dataset, ImageDataset):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            use(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(GOOD)
    assert "neither a folder nor a .zip" in str(check_dataset(tmp_path / "a.png"))


def test_sizes_a_network_can_have(tmp_path):
    assert [base_of(*s) for s in ((4, 4), (1024, 1024), (128, 192), (192, 128), (96, 64))] == [
        (4, 4),
        (4, 4),
        (4, 6),
        (6, 4),
        (6, 4),
    ]
    for h, w in ((48, 48), (100, 100), (2, 2), (64, 100), (101, 64)):
        with pytest.raises(ValueError):
            base_of(h, w)
    assert base_of(48, 48, (6, 6)) == (6, 6) and base_of(48, 48, 3) == (3, 3)
    with pytest.raises(ValueError, match="doubled"):
        base_of(64, 64, (5, 5))
    report = check_dataset(make_set(tmp_path / "s", 3, size=(48, 48)))
    assert "no power of two" in str(report) and check_dataset(tmp_path / "s", base_size=6).ok
    report = check_dataset(make_set(tmp_path / "n", 3, size=(24, 16)))
    assert report.ok and "base_size=(4, 6)" in report.notes[0]
    assert check_dataset(tmp_path / "n", resolution=8).problems
    mixed = make_set(tmp_path / "m", 3)
    picture(5, size=(64, 64)).save(mixed / "z.png")
    assert check_dataset(mixed, resolution=32, resize_filter="box").ok and not check_dataset(mixed).ok
    ds = ImageDataset(mixed, resolution=32, resize_filter="box")
    assert ds.images(range(4)).shape == (4, 3, 32, 32)


def test_names_cannot_speak_to_the_terminal(tmp_path):
    (tmp_path / "\x1b[31mred\n.png").write_text("x")
    text = str(check_dataset(tmp_path))
    assert "\x1b" not in text and "\\x1b[31mred\\n.png" in text and shown("a\u202eb") == "a\\u202eb"
    assert unsafe("fine/a.png") is None


def test_headers_only_is_quicker_and_misses_damage(tmp_path):
    root = make_set(tmp_path / "s", 5)
    (root / "0/000.png").write_bytes(GOOD[:-200])
    assert check_dataset(root, full=False).ok and not check_dataset(root).ok


@pytest.mark.alone
def test_ten_thousand_images_are_checked_in_seconds(tmp_path):
    pngs = [encoded(picture(i, size=(64, 64))) for i in range(40)]
    with zipfile.ZipFile(tmp_path / "big.zip", "w") as z:
        for i in range(10000):
            z.writestr(f"{i // 1000:05d}/img{i:08d}.png", pngs[i % 40])
    start = time.perf_counter()
    report = check_dataset(tmp_path / "big.zip", progress=False)
    seconds = time.perf_counter() - start
    assert report.ok and report.count == 10000 and seconds < 60
    print(f"10 000 images checked in {seconds:.1f} s")


# ------------------------------------------------------------------------------------------------ pictures, registry, digits


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
    assert len({Digits(r, l).identity["sha256"] for r in (16, 32) for l in (False, True)}) == 4
    with pytest.raises(ValueError, match="8 to 1024"):
        Digits(4)


# ------------------------------------------------------------------------------------------------ sampler


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


def test_worker_errors_reach_the_loop(tmp_path):
    root = make_set(tmp_path / "s", 8)
    ds = ImageDataset(root)
    (root / "1/004.png").write_bytes(GOOD[:100])
    with pytest.raises(DataError, match="1/004.png"):
        list(itertools.islice(batches(ds, 4, 0, workers=2), 4))


# ------------------------------------------------------------------------------------------------ archives


class Canary:
    "Unpickling it makes a folder."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def cifar(path, n=10, batches=("data_batch_1", "data_batch_2"), protocol=2, change=None, raw=None):
    images = np.random.default_rng(0).integers(0, 256, (len(batches), n, 3072), dtype=np.uint8)
    with tarfile.open(path, "w:gz") as tar:
        for k, b in enumerate(batches):
            d = {
                "data": images[k],
                "labels": [(i + k) % 10 for i in range(n)],
                "batch_label": "a",
                "filenames": [f"{i}.png" for i in range(n)],
            }
            data = raw or pickle.dumps((change or (lambda d: d))(d), protocol)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{b}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return images


def python2_batch(images, labels):
    "The very instructions that Python 2 wrote into CIFAR-10: short strings for bytes, numpy.core.multiarray."

    def s(text):
        text = text if isinstance(text, bytes) else text.encode()
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    ints = b"".join(b"K" + bytes([v]) for v in labels)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        + s("b")
        + b"\x87R(K\x01"
        + b"K"
        + bytes([len(images)])
        + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\n"
        + s("u1")
        + b"K\x00K\x01\x87R(K\x03"
        + s("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + s(images.tobytes())
        + b"tb"
    )
    return b"\x80\x02}(" + s("data") + array + s("labels") + b"](" + ints + b"eu."


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar(tmp_path, protocol):
    images = cifar(tmp_path / "c.tar.gz", protocol=protocol)
    got = list(read_cifar10(tmp_path / "c.tar.gz"))
    assert len(got) == 20 and [l for *_, l in got[:3]] == [0, 1, 2]
    for k, (_, x, _) in enumerate(got):
        assert np.array_equal(x.transpose(2, 0, 1).ravel(), images.reshape(20, 3072)[k])
    summary = convert_dataset(tmp_path / "c.tar.gz", tmp_path / "c.zip", progress=False)
    assert summary["images"] == 20 and summary["shape"] == (3, 32, 32) and summary["resize_filter"] == "none"
    ds = ImageDataset(tmp_path / "c.zip", labels=True)
    assert ds.label_dim == 10 and torch.equal(ds.images(range(20)), torch.from_numpy(images.reshape(20, 3, 32, 32)))
    with pytest.raises(DataError, match="test_batch"):
        list(read_cifar10(tmp_path / "c.tar.gz", "test"))


def test_cifar_as_python_2_wrote_it(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (5, 3072), dtype=np.uint8)
    raw = python2_batch(images, [3, 1, 4, 1, 5])
    want = pickle.loads(raw, encoding="latin1")  # our own bytes: the real machine agrees that they are a batch
    assert np.array_equal(want["data"], images)
    got = read_plain_pickle(raw)
    assert np.array_equal(got["data"], images) and got["labels"] == [3, 1, 4, 1, 5]


def attacks(canary):
    yield pickle.dumps({"data": Canary(canary), "labels": []}, 2)
    yield pickle.dumps({"data": Canary(canary), "labels": []}, 4)
    yield pickle.dumps(Canary(canary), 0)
    yield f"cos\nmkdir\n(S'{canary}'\ntR.".encode()
    yield f"(S'{canary}'\nios\nmkdir\n.".encode()  # INST
    yield f"(cos\nmkdir\nS'{canary}'\no.".encode()  # OBJ
    yield b"\x80\x02cbuiltins\neval\nX\x1c\x00\x00\x00__import__('os').mkdir('x9y8')\x85R."
    yield b"\x80\x02cnumpy\nsave\n)R."
    yield b"\x80\x02cnumpy.core.multiarray\nscalar\n)R."
    yield b"\x80\x02ccopyreg\n_reconstructor\n)R."
    yield b"\x80\x02\x82\x01."  # EXT1
    yield b"\x80\x02X\x01\x00\x00\x00aQ."  # BINPERSID
    yield b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93."  # STACK_GLOBAL
    yield b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x81."  # NEWOBJ
    yield b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f."  # BYTEARRAY8 of 9 EB
    yield b"\x80\x02r\xff\xff\xff\x7f."  # LONG_BINPUT far away, empty stack
    yield b"]" * 5000 + b"a" * 4999 + b"."  # deep nesting
    yield b"\x80\x02}(X\x04\x00\x00\x00data" + b"]q\x01(" + b"h\x01" * 3 + b"eu."  # a list that holds itself
    yield b""
    yield b"not a pickle"
    yield b"\x80\x02."
    yield b"\x80\x02R."
    yield b"\x80\x02)Rb."


def test_hostile_pickles_do_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "owned"
    for i, raw in enumerate(attacks(canary)):
        cifar(tmp_path / "evil.tar.gz", raw=raw or b"\n")
        with pytest.raises(DataError):
            list(read_cifar10(tmp_path / "evil.tar.gz"))
        assert main(["--source", "evil.tar.gz", "--dest", "out.zip"]) == 2
        assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.tar.gz"], i
    with pytest.raises(FileExistsError):  # the attack is a real one: two real loads do strike
        pickle.loads(next(attacks(canary)))
        pickle.loads(next(attacks(canary)))


@pytest.mark.alone
def test_nested_references_do_not_multiply():
    laughs = b"\x80\x02]q\x00(X\x02\x00\x00\x00haX\x02\x00\x00\x00hae"
    for i in range(60):  # each level holds the one below twice
        laughs += b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e"
    start = time.time()
    try:
        read_plain_pickle(laughs + b".")
    except DataError:
        pass
    assert time.time() - start < 1


@pytest.mark.parametrize(
    "change, say",
    [
        (lambda d: {**d, "data": d["data"].astype(np.int64)}, "type"),
        (lambda d: {**d, "data": d["data"][:, :100]}, "3072"),
        (lambda d: {**d, "labels": d["labels"][:3]}, "n classes"),
        (lambda d: {**d, "labels": ["x"] * 10}, "n classes"),
        (lambda d: [1, 2], "no CIFAR-10 batch"),
        (lambda d: {**d, "labels": [-1] * 10}, "n classes"),
        (lambda d: {"data": d["data"]}, "n classes"),
    ],
)
def test_cifar_that_is_none(tmp_path, change, say):
    cifar(tmp_path / "c.tar.gz", change=change)
    with pytest.raises(DataError, match=say):
        list(read_cifar10(tmp_path / "c.tar.gz"))


def test_cifar_broken_tar_and_tar_bomb(tmp_path):
    cifar(tmp_path / "c.tar.gz")
    raw = (tmp_path / "c.tar.gz").read_bytes()
    for name, data in (("cut.tar.gz", raw[: len(raw) // 2]), ("text.tar.gz", b"hello"), ("empty.tar.gz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            list(read_cifar10(tmp_path / name))
    with gzip.open(tmp_path / "pax.tar.gz", "wb", 1) as f:  # a header that says it has 8 GB
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 8 << 30
        f.write(info.tobuf())
        f.write(b"\0" * (1 << 20))
    with pytest.raises(DataError, match="256 MB|readable"):
        list(read_cifar10(tmp_path / "pax.tar.gz"))


def idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_mnist(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte.gz", x)
    assert (
        convert_dataset(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "unlabelled.zip", progress=False)[
            "distinct_labels"
        ]
        == 0
    )
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(7, dtype=np.uint8))
    summary = convert_dataset(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "m.zip", progress=False)
    assert summary["shape"] == (1, 32, 32) and summary["distinct_labels"] == 7
    ds = ImageDataset(tmp_path / "m.zip", labels=True)
    assert (
        torch.equal(ds.images(range(7))[:, 0, 2:-2, 2:-2], torch.from_numpy(x))
        and ds.images(range(7))[:, :, :2].max() == 0
    )
    assert ds.labels([5]).argmax() == 5
    idx(tmp_path / "t10k-images-idx3-ubyte", x)
    idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(6, np.uint8))
    with pytest.raises(DataError, match="6 labels for 7 images"):
        list(read_mnist(tmp_path / "t10k-images-idx3-ubyte"))
    raw = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    for data in (raw[:-1], raw + b"x", b"", b"\0\0\x0d\x01" + raw[4:], b"hello world", raw[:3] + b"\xff" + raw[4:]):
        (tmp_path / "bad-idx3-ubyte").write_bytes(data)
        with pytest.raises(DataError):
            read_idx(tmp_path / "bad-idx3-ubyte")
    (tmp_path / "bad-idx3-ubyte.gz").write_bytes(gzip.compress(raw)[:-20])
    with pytest.raises(DataError, match="gzip"):
        read_idx(tmp_path / "bad-idx3-ubyte.gz")


def test_lsun(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "church_lmdb").mkdir()
    with lmdb.open(str(tmp_path / "church_lmdb"), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i in range(5):
            txn.put(f"{i:03d}".encode(), encoded(picture(i, size=(40, 32)), "webp", lossless=True))
    before = sorted((p.name, p.stat().st_size) for p in (tmp_path / "church_lmdb").iterdir())
    summary = convert_dataset(
        tmp_path / "church_lmdb", tmp_path / "c.zip", width=32, transform="center-crop", progress=False
    )
    assert summary["images"] == 5 and summary["shape"] == (3, 32, 32) and summary["done"] == {}
    want = np.asarray(picture(2, size=(40, 32)))[:, 4:36]
    assert np.array_equal(ImageDataset(tmp_path / "c.zip")[2][0].permute(1, 2, 0), want)
    assert sorted((p.name, p.stat().st_size) for p in (tmp_path / "church_lmdb").iterdir()) == before
    (tmp_path / "bad_lmdb").mkdir()
    (tmp_path / "bad_lmdb/data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match="LMDB"):
        list(read_lmdb(tmp_path / "bad_lmdb"))


# ------------------------------------------------------------------------------------------------ converter


def test_layout_of_the_zip(tmp_path):
    make_set(tmp_path / "s", 12, labels=lambda i: i % 2)
    for name in ("a.zip", "b.zip"):
        convert_dataset(tmp_path / "s", tmp_path / name, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        infos = z.infolist()
        assert [i.filename for i in infos] == [f"00000/img{k:08d}.png" for k in range(12)] + ["dataset.json"]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in infos)
        assert z.getinfo("00000/img00000003.png").file_size > 16 * 16 * 3  # compress level 0
        meta = json.loads(z.read("dataset.json"))
    assert meta["labels"][3] == ["00000/img00000003.png", 1] and meta["hsr_nb"]["resize_filter"] == "none"
    assert len(meta["hsr_nb"]["source_sha256"]) == 64
    a, s = ImageDataset(tmp_path / "a.zip", labels=True), ImageDataset(tmp_path / "s", labels=True)
    assert torch.equal(a.images(range(12)), s.images(range(12))) and torch.equal(
        a.labels(range(12)), s.labels(range(12))
    )
    convert_dataset(tmp_path / "s", tmp_path / "folder", progress=False)
    assert ImageDataset(tmp_path / "folder", labels=True).identity["sha256"] == a.identity["sha256"]
    (tmp_path / "empty").mkdir()
    convert_dataset(tmp_path / "a.zip", tmp_path / "empty", max_images=5, progress=False)
    assert len(ImageDataset(tmp_path / "empty")) == 5


def test_thousands_go_into_numbered_folders(tmp_path):
    (tmp_path / "s").mkdir()
    for i in range(1002):
        (tmp_path / f"s/{i:05d}.pgm").write_bytes(b"P5 4 4 255 " + bytes([i % 256] * 16))
    convert_dataset(tmp_path / "s", tmp_path / "s.zip", progress=False)
    names = open_files(tmp_path / "s.zip").names
    assert names[999] == "00000/img00000999.png" and names[1000] == "00001/img00001000.png"
    assert ImageDataset(tmp_path / "s.zip").images([1001]).unique().tolist() == [1001 % 256]


@pytest.mark.parametrize("transform", ["none", "center-crop", "center-crop-wide"])
def test_transforms(transform):
    x = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    said = []
    size = (32, 64) if transform == "center-crop-wide" else (64, 64)
    got = np.asarray(transformed(Image.fromarray(x), size, transform, "box", said))
    assert got.shape == (64, 64, 3)
    piece = {"none": x, "center-crop": x[:, 32:128], "center-crop-wide": x[8:88]}[transform]
    want = np.asarray(Image.fromarray(piece).resize(size[::-1], Image.Resampling.BOX))
    assert np.array_equal(got[16:48] if transform == "center-crop-wide" else got, want)
    if transform == "center-crop-wide":
        assert got[:16].max() == 0 and got[48:].max() == 0
    assert any("stretched" in s for s in said) == (transform == "none")


def test_crop_box_is_centred_and_largest():
    for w, h, W, H in ((100, 60, 32, 32), (60, 100, 32, 32), (64, 64, 32, 32), (200, 100, 64, 32), (101, 77, 48, 64)):
        l, t, r, b = crop_box(w, h, W, H)
        assert (
            (r - l == w or b - t == h)
            and abs((w - r) - l) <= 1
            and abs((h - b) - t) <= 1
            and abs((r - l) * H - (b - t) * W) <= max(W, H)
        )


def test_resize_filters_differ_and_are_recorded(tmp_path):
    make_set(tmp_path / "s", 4, size=(64, 64))
    ids = {}
    for f in ("lanczos", "box"):
        convert_dataset(tmp_path / "s", tmp_path / f"{f}.zip", width=32, resize_filter=f, progress=False)
        ids[f] = ImageDataset(tmp_path / f"{f}.zip").identity
        want = np.asarray(picture(0, size=(64, 64)).resize((32, 32), getattr(Image.Resampling, f.upper())))
        assert np.array_equal(ImageDataset(tmp_path / f"{f}.zip")[0][0].permute(1, 2, 0), want)
        assert ids[f]["resize_filter"] == f
    assert ids["box"]["sha256"] != ids["lanczos"]["sha256"]
    again = ImageDataset(tmp_path / "box.zip", resolution=16, resize_filter="lanczos")
    assert again.identity["resize_filter"] == "box+lanczos"
    convert_dataset(
        tmp_path / "box.zip", tmp_path / "same.zip", progress=False
    )  # nothing resized: what was recorded stays
    assert ImageDataset(tmp_path / "same.zip").identity["resize_filter"] == "box"


def test_pictures_made_plain(tmp_path):
    root = tmp_path / "s"
    root.mkdir()
    base = picture(3)
    base.quantize(16).save(root / "palette.png")
    base.convert("CMYK").save(root / "cmyk.jpg")
    base.convert("RGBA").save(root / "rgba.png")
    (root / "deep.png").write_bytes(rgb16_png())
    base.rotate(90, expand=True).save(root / "exif.png", exif=sideways())
    base.save(root / "plain.png")
    summary = convert_dataset(root, tmp_path / "out.zip", mode="rgb", progress=False)
    done = " ".join(f"{k}: {v};" for k, v in summary["done"].items())
    for said in ("CMYK converted: 1", "palette converted: 1", "turned upright (EXIF): 1", "cut from 16 to 8 bits: 1"):
        assert said in done, done
    ds = ImageDataset(tmp_path / "out.zip")
    order = sorted(p.name for p in root.iterdir())
    x = {n: ds[i][0].permute(1, 2, 0).numpy() for i, n in enumerate(order)}
    assert np.array_equal(x["exif.png"], np.asarray(base)) or np.array_equal(
        x["exif.png"], np.rot90(np.asarray(base), 2)
    )
    assert (x["deep.png"] == 0x12).all() and np.array_equal(x["plain.png"], np.asarray(base))
    assert check_dataset(tmp_path / "out.zip").ok


def test_exif_orientation_is_undone(tmp_path):
    (tmp_path / "s").mkdir()
    base = picture(1, size=(32, 16))
    turned = {
        1: base,
        3: base.transpose(Image.Transpose.ROTATE_180),
        6: base.transpose(Image.Transpose.ROTATE_90),
        8: base.transpose(Image.Transpose.ROTATE_270),
    }
    for o, im in turned.items():
        e = Image.Exif()
        e[0x112] = o
        im.save(tmp_path / f"s/{o}.png", exif=e)
    convert_dataset(tmp_path / "s", tmp_path / "o.zip", progress=False)
    ds = ImageDataset(tmp_path / "o.zip")
    assert all(torch.equal(ds[i][0], ds[0][0]) for i in range(4)) and len(ds) == 4


def test_transparency_needs_a_decision(tmp_path):
    (tmp_path / "s").mkdir()
    rgba = picture(0, "RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (16, 8))))
    rgba.save(tmp_path / "s/a.png")
    with pytest.raises(DataError, match="transparent in places"):
        convert_dataset(tmp_path / "s", tmp_path / "x.zip", progress=False)
    for back, value in (("white", 255), ("black", 0)):
        convert_dataset(tmp_path / "s", tmp_path / f"{back}.zip", background=back, progress=False)
        x = ImageDataset(tmp_path / f"{back}.zip")[0][0]
        assert (x[:, :, ::2] == value).all() and np.array_equal(
            x[:, :, 1::2].permute(1, 2, 0), np.asarray(rgba)[:, 1::2, :3]
        )
    convert_dataset(tmp_path / "s", tmp_path / "rgba.zip", mode="rgba", progress=False)
    assert ImageDataset(tmp_path / "rgba.zip", alpha=True).image_shape == (4, 16, 16)


def test_class_folders_and_missing_labels(tmp_path):
    make_set(tmp_path / "s", 9)
    convert_dataset(tmp_path / "s", tmp_path / "f.zip", labels="folders", progress=False)
    ds = ImageDataset(tmp_path / "f.zip", labels=True)
    assert ds.label_dim == 3 and ds.labels(range(9)).argmax(1).tolist() == [0] * 3 + [1] * 3 + [2] * 3
    picture(0).save(tmp_path / "s/top.png")
    summary = convert_dataset(tmp_path / "s", tmp_path / "g.zip", labels="folders", progress=False)
    assert summary["distinct_labels"] == 0 and any("without a label" in k for k in summary["done"])
    assert json.loads(zipfile.ZipFile(tmp_path / "g.zip").read("dataset.json"))["labels"] is None


def test_refusals_leave_nothing(tmp_path, capsys):
    root = make_set(tmp_path / "s", 5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/keep.txt").write_text("precious")
    (tmp_path / "there.zip").write_bytes(b"precious")
    grey = make_set(tmp_path / "mixed", 5)
    picture(0, "L").save(grey / "z.png")
    odd = make_set(tmp_path / "odd", 5)
    picture(0, size=(16, 8)).save(odd / "z.png")
    (tmp_path / "none").mkdir()
    before = {p: (p.read_bytes() if p.is_file() else None) for p in tmp_path.rglob("*")}
    s = str
    for args, say in (
        (["--source", s(root), "--dest", s(tmp_path / "full")], "not empty"),
        (["--source", s(root), "--dest", s(tmp_path / "there.zip")], "exists already"),
        (["--source", s(root), "--dest", s(tmp_path / "x.tar")], "must end in .zip"),
        (["--source", s(root), "--dest", s(tmp_path / "x.zip"), "--width", "48"], "no power of two"),
        (["--source", s(root), "--dest", s(tmp_path / "x.zip"), "--width", "0"], "at least 1"),
        (["--source", s(root), "--dest", s(tmp_path / "x.zip"), "--transform", "center-crop"], "needs --width"),
        (["--source", s(grey), "--dest", s(tmp_path / "x.zip")], "z.png is L and the first picture RGB"),
        (["--source", s(odd), "--dest", s(tmp_path / "x.zip")], "z.png is 16x8 and the first picture 16x16"),
        (["--source", s(tmp_path / "none"), "--dest", s(tmp_path / "x.zip")], "holds no images"),
        (["--source", s(tmp_path / "gone"), "--dest", s(tmp_path / "x.zip")], "does not exist"),
        (["--source", s(tmp_path / "full/keep.txt"), "--dest", s(tmp_path / "x.zip")], "neither a folder nor a .zip"),
        (["--source", s(root), "--dest", s(tmp_path / "full/keep.txt/x.zip")], "keep.txt"),
    ):
        assert main(args) == 2, args
        err = [l for l in capsys.readouterr().err.splitlines() if "image/s]" not in l and "?image" not in l]
        assert say in " ".join(err) and "Traceback" not in " ".join(err), (args, err)
        assert {p: (p.read_bytes() if p.is_file() else None) for p in tmp_path.rglob("*")} == before, args
    with pytest.raises(SystemExit) as e:
        main(["--source", s(root), "--transform", "sideways"])
    assert e.value.code == 2


def test_bad_pictures_are_all_named_or_skipped(bad_set, tmp_path, capsys):
    with pytest.raises(DataError) as e:
        convert_dataset(bad_set, tmp_path / "x.zip", width=16, mode="rgb", progress=False)
    assert "text.png" in str(e.value) or "... and" in str(e.value)
    assert not list(tmp_path.iterdir())
    summary = convert_dataset(
        bad_set, tmp_path / "x.zip", width=16, mode="rgb", background="white", skip_bad=True, progress=False
    )
    assert check_dataset(tmp_path / "x.zip").ok
    assert {"bad/text.png", "bad/truncated.png", "bad/animated.gif", "bad/bomb.png", "bad/empty.png"} <= {
        n for n, _ in summary["skipped"]
    }
    assert summary["images"] + len(summary["skipped"]) == 40 + len(BAD)


def test_full_disk_and_signals(tmp_path):
    "A write that fails and a SIGTERM in the middle: exit code not 0, one sentence, nothing left."
    make_set(tmp_path / "s", 150, size=(64, 64))
    script = (
        "import resource, signal, sys\n"
        "limit = int(sys.argv[1])\n"
        "if limit: signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "sys.argv = ['hsr_data'] + sys.argv[2:]\n"
        "from hsr_nb.data.convert import main\n"
        "sys.exit(main())\n"
    )
    out = tmp_path / "out"
    run = [sys.executable, "-c", script]
    args = ["--source", str(tmp_path / "s"), "--dest", str(out / "x.zip"), "--width", "512"]
    done = subprocess.run(run + ["8000000"] + args, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(out.iterdir()) == []
    child = subprocess.Popen(run + ["0"] + args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.time() + 60
    while not list(out.iterdir()) and time.time() < limit and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143 and list(out.iterdir()) == []


def test_a_failing_write_is_one_sentence(tmp_path, monkeypatch, capsys):
    make_set(tmp_path / "s", 3)
    from hsr_nb.data import output

    def full(self, name, data):
        raise OSError(28, "No space left on device")

    for kind, dest in (("ZipOutput", "x.zip"), ("FolderOutput", "folder")):
        monkeypatch.setattr(getattr(output, kind), "write", full)
        assert main(["--source", str(tmp_path / "s"), "--dest", str(tmp_path / dest)]) == 2
        assert f"cannot write {tmp_path / dest}: No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_non_square_output(tmp_path):
    make_set(tmp_path / "s", 3, size=(100, 80))
    convert_dataset(tmp_path / "s", tmp_path / "n.zip", width=96, height=64, transform="center-crop", progress=False)
    assert ImageDataset(tmp_path / "n.zip").image_shape == (3, 64, 96)
    convert_dataset(tmp_path / "s", tmp_path / "b.zip", width=48, base_size=(6, 6), progress=False)
    assert ImageDataset(tmp_path / "b.zip").image_shape == (3, 48, 48)
    with pytest.raises(ValueError, match="one of none"):
        convert_dataset(tmp_path / "s", tmp_path / "c.zip", transform="cut", progress=False)


def test_workers_end_with_the_program(tmp_path):
    "A batch iterator that is still open when the program ends does not keep it from ending."
    program = """
from hsr_nb.data import open_dataset
from hsr_nb.data.sampler import batches
stream = batches(open_dataset("digits"), 8, seed=0, start=0, mirror=False, rank=0, world=1, workers=2, pin_memory=False)
next(stream)
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_a_program_that_is_killed(method):
    "Also where they are children of a fork server, which lives on."
    program = f"""
import multiprocessing, time
from hsr_nb.data import open_dataset
from hsr_nb.data.sampler import batches
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    stream = batches(open_dataset("digits"), 8, seed=0, start=0, mirror=False, rank=0, world=1, workers=2, pin_memory=False)
    next(stream)
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
"""
    p = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    pids = [int(x) for x in p.stdout.readline().split()]
    assert len(pids) == 2 and all(Path(f"/proc/{i}").exists() for i in pids)
    p.kill()
    p.wait()

    def state(i):
        return (
            Path(f"/proc/{i}/stat").read_text().rsplit(")", 1)[1].split()[0] if Path(f"/proc/{i}").exists() else "gone"
        )

    end = time.monotonic() + 60
    while any(state(i) not in ("gone", "Z") for i in pids) and time.monotonic() < end:
        time.sleep(0.2)
    assert all(state(i) in ("gone", "Z") for i in pids)
