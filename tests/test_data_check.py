"""Bad files, labels, links and zips: each is named with its reason, and nothing hostile gets through."""

import json
import os
import stat
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_sets import BAD, GOOD, encoded, make_bad_set, make_set, picture, zip_of

from hsr_nb.base.errors import shown
from hsr_nb.data import DataError, ImageDataset, check_dataset
from hsr_nb.data.check import base_of, require_dataset
from hsr_nb.data.convert import convert_dataset
from hsr_nb.data.files import open_files
from hsr_nb.untrusted.zips import unsafe


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory):
    return make_bad_set(tmp_path_factory.mktemp("bad") / "s")


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
    "Size and mode are told against the first image, checksums are the check's business; the loader sees all else."
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
    reasons = {
        "out.png": "leaves the folder",
        "dangling.png": "does not exist",
        "pipe.png": "not a regular file",
        "folder": "not followed",
        "loop": "not followed",
    }
    assert found.keys() == reasons.keys() and report.count == 3
    for name, reason in reasons.items():
        assert reason in found[name]
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
    assert set(found) == {*hostile, "ok/0.png", "link.png", "lz.png"}
    reasons = {"ok/0.png": "twice", "link.png": "link", "lz.png": "method 14", "/abs.png": "absolute"}
    for name, reason in reasons.items():
        assert reason in found[name]
    with pytest.raises(DataError):
        ImageDataset(path)
    with pytest.raises(ValueError):
        convert_dataset(path, tmp_path / "out.zip", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip"] and not (tmp_path.parent / "slip.png").exists()


def test_zip_bomb_is_bounded(tmp_path):
    "A member that states a small size but unpacks to 200 MB is cut at the stated size and found to be no image."
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
    for _ in range(60):
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
    bases = {(4, 4): (4, 4), (1024, 1024): (4, 4), (128, 192): (4, 6), (192, 128): (6, 4), (96, 64): (6, 4)}
    for size, base in bases.items():
        assert base_of(*size) == base
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
