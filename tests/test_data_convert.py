"""The converter: what it writes, what it refuses, and that a failure leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import BAD, make_bad_set, make_set, picture, rgb16_png, sideways
from PIL import Image

from hsr_nb.base.whole import _machine
from hsr_nb.data import DataError, ImageDataset, check_dataset, output, sources
from hsr_nb.data.convert import convert_dataset, main
from hsr_nb.data.files import open_files
from hsr_nb.data.prepare import crop_box, transformed


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory):
    return make_bad_set(tmp_path_factory.mktemp("bad") / "s")


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
    assert meta["labels"][3] == ["00000/img00000003.png", 1]
    assert meta["hsr_nb"]["resize_filter"] == "none"
    assert len(meta["hsr_nb"]["source_sha256"]) == 64
    a = ImageDataset(tmp_path / "a.zip", labels=True)
    s = ImageDataset(tmp_path / "s", labels=True)
    assert torch.equal(a.images(range(12)), s.images(range(12)))
    assert torch.equal(a.labels(range(12)), s.labels(range(12)))
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
    wide = transform == "center-crop-wide"
    size = (32, 64) if wide else (64, 64)
    got = np.asarray(transformed(Image.fromarray(x), size, transform, "box", said))
    assert got.shape == (64, 64, 3)
    pieces = {"none": x, "center-crop": x[:, 32:128], "center-crop-wide": x[8:88]}
    piece = Image.fromarray(pieces[transform])
    want = np.asarray(piece.resize(size[::-1], Image.Resampling.BOX))
    assert np.array_equal(got[16:48] if wide else got, want)
    if wide:
        assert got[:16].max() == 0
        assert got[48:].max() == 0
    assert any("stretched" in s for s in said) == (transform == "none")


def test_crop_box_is_centred_and_largest():
    for w, h, W, H in ((100, 60, 32, 32), (60, 100, 32, 32), (64, 64, 32, 32), (200, 100, 64, 32), (101, 77, 48, 64)):
        left, top, right, bottom = crop_box(w, h, W, H)
        piece_w, piece_h = right - left, bottom - top
        assert piece_w == w or piece_h == h
        assert abs((w - right) - left) <= 1
        assert abs((h - bottom) - top) <= 1
        assert abs(piece_w * H - piece_h * W) <= max(W, H)


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
    convert_dataset(tmp_path / "box.zip", tmp_path / "same.zip", progress=False)
    # nothing resized: what was recorded stays
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
    upright = [np.asarray(base), np.rot90(np.asarray(base), 2)]
    assert any(np.array_equal(x["exif.png"], way) for way in upright)
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
        assert (x[:, :, ::2] == value).all()
        assert np.array_equal(x[:, :, 1::2].permute(1, 2, 0), np.asarray(rgba)[:, 1::2, :3])
    convert_dataset(tmp_path / "s", tmp_path / "rgba.zip", mode="rgba", progress=False)
    assert ImageDataset(tmp_path / "rgba.zip", alpha=True).image_shape == (4, 16, 16)


def test_class_folders_and_missing_labels(tmp_path):
    make_set(tmp_path / "s", 9)
    convert_dataset(tmp_path / "s", tmp_path / "f.zip", labels="folders", progress=False)
    ds = ImageDataset(tmp_path / "f.zip", labels=True)
    assert ds.label_dim == 3
    assert ds.labels(range(9)).argmax(1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    picture(0).save(tmp_path / "s/top.png")
    summary = convert_dataset(tmp_path / "s", tmp_path / "g.zip", labels="folders", progress=False)
    assert summary["distinct_labels"] == 0
    assert any("without a label" in k for k in summary["done"])
    meta = json.loads(zipfile.ZipFile(tmp_path / "g.zip").read("dataset.json"))
    assert meta["labels"] is None


def contents(folder):
    return {p: (p.read_bytes() if p.is_file() else None) for p in folder.rglob("*")}


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
    before = contents(tmp_path)
    photos, to = str(root), str(tmp_path / "x.zip")
    for source, dest, options, say in (
        (photos, str(tmp_path / "full"), "", "not empty"),
        (photos, str(tmp_path / "there.zip"), "", "exists already"),
        (photos, str(tmp_path / "x.tar"), "", "must end in .zip"),
        (photos, to, "--width 48", "no power of two"),
        (photos, to, "--width 0", "at least 1"),
        (photos, to, "--transform center-crop", "needs --width"),
        (str(grey), to, "", "z.png is L and the first picture RGB"),
        (str(odd), to, "", "z.png is 16x8 and the first picture 16x16"),
        (str(tmp_path / "none"), to, "", "holds no images"),
        (str(tmp_path / "gone"), to, "", "does not exist"),
        (str(tmp_path / "full/keep.txt"), to, "", "neither a folder nor a .zip"),
        (photos, str(tmp_path / "full/keep.txt/x.zip"), "", "keep.txt"),
    ):
        assert main(["--source", source, "--dest", dest, *options.split()]) == 2, say
        lines = capsys.readouterr().err.splitlines()
        err = " ".join(line for line in lines if "image/s]" not in line and "?image" not in line)
        assert say in err and "Traceback" not in err
        assert contents(tmp_path) == before, say
    assert main(["--source", photos, "--transform", "sideways"]) == 2


def test_bad_pictures_are_all_named_or_skipped(bad_set, tmp_path, capsys):
    with pytest.raises(DataError) as e:
        convert_dataset(bad_set, tmp_path / "x.zip", width=16, mode="rgb", progress=False)
    assert "text.png" in str(e.value) or "... and" in str(e.value)
    assert not list(tmp_path.iterdir())
    summary = convert_dataset(
        bad_set, tmp_path / "x.zip", width=16, mode="rgb", background="white", skip_bad=True, progress=False
    )
    assert check_dataset(tmp_path / "x.zip").ok
    skipped = {name for name, _ in summary["skipped"]}
    assert {"bad/text.png", "bad/truncated.png", "bad/animated.gif", "bad/bomb.png", "bad/empty.png"} <= skipped
    assert summary["images"] + len(summary["skipped"]) == 40 + len(BAD)


def test_full_disk_and_signals(tmp_path):
    "A write that fails and a SIGTERM in the middle: exit code not 0, one sentence, nothing left."
    make_set(tmp_path / "s", 150, size=(64, 64))
    script = """
import resource, signal, sys
limit = int(sys.argv[1])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv = ["hsr_data"] + sys.argv[2:]
from hsr_nb.data.convert import main
sys.exit(main())
"""
    out = tmp_path / "out"
    out.mkdir()
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

    def full(self, name, data):
        raise OSError(28, "No space left on device")

    for kind, dest in (("ZipOutput", "x.zip"), ("FolderOutput", "folder")):
        monkeypatch.setattr(getattr(output, kind), "write", full)
        assert main(["--source", str(tmp_path / "s"), "--dest", str(tmp_path / dest)]) == 2
        assert f"cannot write {tmp_path / dest}: No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_ctrl_c_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    make_set(tmp_path / "s", 3)

    def interrupted(self, name, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(output.ZipOutput, "write", interrupted)
    assert main(["--source", str(tmp_path / "s"), "--dest", str(tmp_path / "x.zip")]) == 130
    assert "hsr_data: interrupted; nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("dest", ["x.zip", "folder"])
def test_what_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, capsys, dest):
    make_set(tmp_path / "s", 3)
    monkeypatch.chdir(tmp_path)
    close = output.ZipOutput.close if dest == "x.zip" else output.FolderOutput.close

    def late(self):
        close(self)
        if dest == "x.zip":
            Path(dest).write_bytes(b"precious")
        else:
            Path(dest).mkdir()
            Path(dest, "keep.txt").write_bytes(b"precious")

    monkeypatch.setattr(output.ZipOutput if dest == "x.zip" else output.FolderOutput, "close", late)
    assert main(["--source", "s", "--dest", dest]) == 2
    said = capsys.readouterr().err
    assert f"hsr_data: the destination {dest} has appeared meanwhile; nothing was written" in said
    kept = Path(dest) if dest == "x.zip" else Path(dest, "keep.txt")
    assert kept.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["s", dest])


def test_leftovers_of_a_killed_conversion_go_with_the_next(tmp_path):
    make_set(tmp_path / "s", 3)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / f".x.zip.{_machine()}-{gone.stdout.strip()}-0123abcd.part"
    left.mkdir()
    (left / "x.zip").write_bytes(b"half a zip")
    convert_dataset(tmp_path / "s", tmp_path / "y.zip", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "y.zip"]


def test_a_disk_that_cannot_be_read_is_the_source(tmp_path, monkeypatch, capsys):
    def broken(path, split):
        yield "a", np.zeros((4, 4, 3), np.uint8), 0
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sources, "read_cifar10", broken)
    (tmp_path / "c.tar.gz").write_bytes(b"")
    assert main(["--source", str(tmp_path / "c.tar.gz"), "--dest", str(tmp_path / "x.zip")]) == 2
    assert "c.tar.gz: cannot be read (Input/output error)" in capsys.readouterr().err


def test_a_deep_picture_on_its_side_is_turned(tmp_path):
    "Sixteen bits and an EXIF orientation together."
    (tmp_path / "s").mkdir()
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 8
    Image.fromarray(grey).save(tmp_path / "s/a.png", exif=sideways())
    summary = convert_dataset(tmp_path / "s", tmp_path / "x.zip", progress=False)
    assert summary["done"] == {"turned upright (EXIF)": 1, "cut from 16 to 8 bits": 1}
    got = ImageDataset(tmp_path / "x.zip")[0][0][0].numpy()
    assert np.array_equal(got, np.rot90(grey >> 8, -1))  # orientation 6: a quarter turn clockwise


def test_non_square_output(tmp_path):
    make_set(tmp_path / "s", 3, size=(100, 80))
    convert_dataset(tmp_path / "s", tmp_path / "n.zip", width=96, height=64, transform="center-crop", progress=False)
    assert ImageDataset(tmp_path / "n.zip").image_shape == (3, 64, 96)
    convert_dataset(tmp_path / "s", tmp_path / "b.zip", width=48, base_size=(6, 6), progress=False)
    assert ImageDataset(tmp_path / "b.zip").image_shape == (3, 48, 48)
    with pytest.raises(ValueError, match="one of none"):
        convert_dataset(tmp_path / "s", tmp_path / "c.zip", transform="cut", progress=False)
