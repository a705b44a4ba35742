"""Nothing of a data set is lost silently, and no data set takes more memory than its bytes are worth."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_sets import encoded, make_set, picture
from PIL import Image, PngImagePlugin

from hsr_nb.data import DataError, ImageDataset, check_dataset, convert_dataset, open_dataset
from hsr_nb.data.archives import read_cifar10, read_idx, read_plain_pickle
from hsr_nb.data.celeba import CelebA, read_attributes
from hsr_nb.data.checked import open_checked
from hsr_nb.data.convert import main
from hsr_nb.data.files import open_files
from hsr_nb.data.lsun import read_lmdb

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)


def converted(source, **options):
    dest = source.parent / "converted.zip"
    dest.unlink(missing_ok=True)
    return convert_dataset(source, dest, progress=False, **options)


def label(root, pairs):
    (root / "dataset.json").write_text(json.dumps({"labels": pairs}, ensure_ascii=False), encoding="utf-8")


def exif(orientation):
    e = Image.Exif()
    e[0x112] = orientation
    return e


def flat(root, n=40):
    root.mkdir(parents=True)
    for i in range(n):
        picture(i).save(root / f"{i:03d}.png")
    return root


# --- pictures


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("IMG_1.HEIC", HEIC, "is HEIC"),
        ("IMG_1", HEIC, "is HEIC"),
        ("a.cr2", b"II*\0" + bytes(60), "is camera raw"),
        ("a.psd", b"8BPS" + bytes(60), "is Photoshop"),
        ("a.jxl", b"\xff\x0a" + bytes(60), "is JPEG XL"),
    ],
)
def test_pictures_of_other_kinds_are_counted_and_named(tmp_path, name, data, said, capsys):
    root = flat(tmp_path / "s", 8)
    for folder in ("", "more"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_bytes(data)
    archive = Path(shutil.make_archive(str(tmp_path / "z"), "zip", root))
    for source in (root, archive):
        for use in (converted, open_checked, lambda s: check_dataset(s).require()):
            with pytest.raises(DataError, match=rf"2 left out: .*{name} {said}") as e:
                use(source)
            assert "--allow-partial" in str(e.value) and len(str(e.value)) <= 700
        summary = converted(source, allow_partial=True)
        assert summary["images"] == 8 and said in summary["left_out"][0]
        for use in (lambda s: open_checked(s, allow_partial=True), open_dataset):
            with pytest.warns(UserWarning, match=said):
                assert len(use(source)) == 8
        assert said in check_dataset(source, allow_partial=True).notes[0]
    (tmp_path / "converted.zip").unlink()
    command = ["--source", str(root), "--dest", str(tmp_path / "converted.zip")]
    assert main(command) == 2 and main([*command, "--allow-partial"]) == 0
    assert f"2 left out: {name} {said}" in capsys.readouterr().out


def test_one_of_many_is_a_remark(tmp_path):
    root = flat(tmp_path / "s", 99)
    (root / "x.heic").write_bytes(HEIC)
    assert converted(root)["left_out"] == [f"pictures 1 left out: x.heic {check_reason()}"]
    with pytest.warns(UserWarning, match="1 left out: x.heic is HEIC"):
        open_checked(root, tmp_path / "run/data.json")
    (root / "y.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match="2 left out"):  # although the memo still holds
        open_checked(root, tmp_path / "run/data.json")


def check_reason():
    return "is HEIC, which is not read: save it as PNG or JPEG"


def test_a_file_is_known_by_its_bytes(tmp_path):
    root = flat(tmp_path / "s", 3)
    for name, kind in {"download": "png", "b.dat": "jpeg", "c.tmp": "webp", "d": "bmp", "e": "gif", "f": "ppm"}.items():
        (root / name).write_bytes(encoded(picture(7), kind))
    (root / "notes").write_text("P5 is a key of this piano")
    os.mkfifo(root / "pipe")
    files = open_files(root)
    assert len(files.names) == 9 and files.others == 2 and not files.left_out
    assert converted(root, mode="rgb")["images"] == 9
    assert "2 other files" in " ".join(check_dataset(root).notes)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root to drop")
def test_a_closed_folder_is_named(tmp_path):
    code = f"from hsr_nb.data import check_dataset; print(check_dataset({str(tmp_path / 's')!r}))"
    root = make_set(tmp_path / "s", 30)
    (root / "1").chmod(0)
    for parent in (*tmp_path.parents[:3], tmp_path):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-B", "-c", code]
    done = subprocess.run(nobody, capture_output=True, text=True, cwd="/")
    (root / "1").chmod(0o755)
    assert "1 is a folder that cannot be entered (Permission denied)" in done.stdout, done.stderr
    assert "1 problem" in done.stdout


# --- labels


@pytest.mark.parametrize("key", ["./{:03d}.png", "set/{:03d}.png", ".\\{:03d}.png"])
def test_keys_that_mean_a_picture_find_it(tmp_path, key):
    root = flat(tmp_path / "s")
    label(root, [[key.format(i), i % 2] for i in range(40)])
    assert check_dataset(root).labels == "2 classes" and ImageDataset(root, labels=True).label_dim == 2
    assert converted(root)["distinct_labels"] == 2


@pytest.mark.parametrize(
    "key, said",
    [
        ("{:03d}.jpg", "there is one of that name with another suffix"),
        ("img{:03d}.png", "has a label but no image"),
        ("bild\u00fc{:03d}.png", "another code page"),
    ],
)
def test_keys_that_fit_none_are_counted(tmp_path, key, said):
    root = flat(tmp_path / "s")
    label(root, [[key.format(i), i % 2] for i in range(40)])
    with pytest.raises(DataError, match=f"40 of 40 labels fit no picture .*--labels none.*{said}"):
        converted(root)
    assert not check_dataset(root).ok
    assert converted(root, labels="none")["distinct_labels"] == 0
    assert "labels 40 left out" in converted(root, allow_partial=True)["left_out"][0]


class Unflagged(zipfile.ZipInfo):
    "A member whose name is written in whatever code page, without a flag."

    def _encodeFilenameFlags(self):
        return self.filename.encode("cp437"), 0


@pytest.mark.parametrize("page", ["utf-8", "cp1252", "cp850"])
def test_names_in_another_code_page_find_their_labels(tmp_path, page):
    names = ["b\u00fcrste.png", "\u00e4pfel.png", "plain.png"]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as z:
        for i, name in enumerate(names):  # letters that the zip does not say the code page of
            z.writestr(Unflagged(name.encode(page).decode("cp437")), encoded(picture(i)))
        z.writestr("dataset.json", json.dumps({"labels": [[name, i] for i, name in enumerate(names)]}))
    assert ImageDataset(tmp_path / "p.zip", labels=True).label_dim == 3
    assert converted(tmp_path / "p.zip")["distinct_labels"] == 3


def test_half_of_the_labels_is_no_labels(tmp_path):
    root = flat(tmp_path / "s")
    label(root, [[f"{i:03d}.png", i % 2] for i in range(20)])
    with pytest.raises(DataError, match="20 of 40 pictures have no label"):
        converted(root)
    assert "without a label, so no labels were written" in converted(root, allow_partial=True)["done"]


def test_one_top_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for i in range(12):
            z.writestr(f"animals/{'cat' if i % 2 else 'dog'}/{i}.png", encoded(picture(i)))
        for name in ("__MACOSX/animals/cat/._1.png", "animals/Thumbs.db", "animals/.DS_Store"):
            z.writestr(name, b"x")
    assert converted(tmp_path / "a.zip", labels="folders")["distinct_labels"] == 2
    pairs = [[f"{'cat' if i % 2 else 'dog'}/{i}.png", i % 2] for i in range(12)]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as z:
        z.writestr("animals/dataset.json", json.dumps({"labels": pairs}))
    assert converted(tmp_path / "a.zip")["distinct_labels"] == 2
    assert ImageDataset(tmp_path / "a.zip", labels=True).label_dim == 2
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as z:
        z.writestr("other.png", encoded(picture(99)))
    with pytest.raises(DataError, match="animals/dataset.json holds labels, but lies neither"):
        converted(tmp_path / "a.zip")
    with pytest.raises(DataError, match="animals/dataset.json holds labels"):
        ImageDataset(tmp_path / "a.zip", labels=True)
    assert (
        converted(tmp_path / "a.zip", labels="none")["images"] == 13
        and check_dataset(tmp_path / "a.zip", labels=False).ok
    )


def test_what_labels_are_is_in_the_identity(tmp_path):
    root = flat(tmp_path / "s", 4)
    label(root, [[f"{i:03d}.png", [i / 5, 1.0, -0.5]] for i in range(4)])
    ds = open_checked(root, tmp_path / "data.json", labels=True)
    assert ds.identity["label_kind"] == "vectors of 3"
    assert open_checked(root, tmp_path / "data.json", labels=True).identity == ds.identity
    assert "label_kind" not in ImageDataset(root).identity


# --- single pictures


def test_orientation_of_deep_pictures_and_of_none(tmp_path):
    root = tmp_path / "s"
    root.mkdir()
    stripe = np.zeros((16, 16), np.uint16)
    stripe[:4] = 60000
    for o in range(10):
        Image.fromarray(stripe).save(root / f"{o}.png", exif=exif(o))
    summary = converted(root)
    x = ImageDataset(summary["dest"]).images(range(10))[:, 0].float()
    bright = {"top": x[:, :4], "right": x[:, :, -4:], "bottom": x[:, -4:], "left": x[:, :, :4]}
    where = [next(side for side, part in bright.items() if part[o].min() > 200) for o in range(10)]
    assert where == ["top", "top", "top", "bottom", "bottom", "left", "right", "right", "left", "top"]
    assert summary["done"]["turned upright (EXIF)"] == 7
    assert sum("which does not exist" in what for what in summary["done"]) == 2
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "zero.png", exif=exif(0))
    assert check_dataset(flat(tmp_path / "t", 2)).ok
    picture(5).save(tmp_path / "t/zero.jpg", exif=exif(0))
    assert check_dataset(tmp_path / "t").ok


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "late"])
def test_long_text_in_a_png_is_no_damage(tmp_path, kind):
    root = flat(tmp_path / "s", 2)
    plain = encoded(picture(5))
    body = {
        "zTXt": b"parameters\0\0" + zlib.compress(b"x" * (3 << 20)),
        "iTXt": b"parameters\0\1\0\0\0" + zlib.compress(b"x" * (3 << 20)),
        "iCCP": b"profile\0\0" + zlib.compress(b"x" * (3 << 20)),
    }.get(kind, b"parameters\0\0" + zlib.compress(b"x" * (3 << 20)))
    name = b"zTXt" if kind == "late" else kind.encode()
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    at = len(plain) - 12 if kind == "late" else 33
    (root / "z.png").write_bytes(plain[:at] + chunk + plain[at:])
    assert check_dataset(root).ok and check_dataset(root, full=False).ok and converted(root)["images"] == 3
    assert np.array_equal(ImageDataset(root)[2][0].permute(1, 2, 0), np.asarray(picture(5)))


def test_text_that_turns_a_picture_still_does(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    root = flat(tmp_path / "s", 2)
    picture(5).save(root / "z.png", pnginfo=info)
    assert "EXIF orientation 6" in str(check_dataset(root))


def test_a_large_picture_is_taken_when_asked(tmp_path, recwarn):
    root = flat(tmp_path / "s", 2)
    Image.new("L", (9500, 9500), 90).save(root / "pano.png")
    with pytest.raises(DataError, match="--max-pixels 90250000"):
        converted(root, width=16, mode="grey")
    assert converted(root, width=16, mode="grey", max_pixels=90_250_000)["images"] == 3
    assert "max-pixels" in str(check_dataset(root)) and not recwarn.list
    assert Image.MAX_IMAGE_PIXELS is not None


# --- what our tools make, our tools take


def test_four_channels_and_other_bases(tmp_path):
    root = make_set(tmp_path / "s", 6, mode="RGBA")
    with pytest.raises(DataError, match="--mode rgba makes a set of four channels"):
        open_checked(root)
    summary = converted(root, mode="rgba")
    assert check_dataset(summary["dest"]).shape == (4, 16, 16)
    assert open_checked(summary["dest"]).image_shape == (4, 16, 16) == ImageDataset(summary["dest"]).image_shape
    wide = make_set(tmp_path / "w", 3, size=(48, 48))
    with pytest.raises(DataError, match=r"0/000.png cannot .* 6 6 would do .*--net.base-size 6 6"):
        open_checked(wide)
    with pytest.raises(ValueError, match=r"0/000.png cannot .* 6 6 would do .*--base-size 6 6"):
        converted(wide)
    converted(wide, base_size=(6, 6))
    for base in ((6, 6), (3, 3), (12, 12)):
        assert open_checked(wide, tmp_path / "data.json", base_size=base).image_shape == (3, 48, 48)
    with pytest.raises(DataError, match="6 6 would do"):  # although the memo holds
        open_checked(wide, tmp_path / "data.json", base_size=(4, 4))


def test_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(flat(tmp_path / "set", 3))
    assert main(["--source=~/set", "--dest=~/out/set.zip"]) == 0
    assert (tmp_path / "out/set.zip").exists() and not Path("~").exists()
    assert check_dataset("~/out/set.zip").ok and len(open_checked("~/set")) == 3


def test_celeba_as_kaggle_packs_it(tmp_path):
    pictures = tmp_path / "kaggle/img_align_celeba/img_align_celeba"
    pictures.mkdir(parents=True)
    rows = ["image_id,Male,Smiling"]
    for i in range(6):
        picture(i, size=(36, 44)).save(pictures / f"{i + 1:06d}.jpg")
        rows.append(f"{i + 1:06d}.jpg,{1 if i % 2 else -1},{1 if i % 3 else -1}")
    table = tmp_path / "kaggle/list_attr_celeba.csv"
    for encoding in ("utf-8", "utf-8-sig"):
        table.write_bytes("\r\n".join(rows).encode(encoding))
        for path in (tmp_path / "kaggle", pictures):
            ds = CelebA(path, resolution=16)
            assert ds.attribute_names == ("Male", "Smiling") and ds.labels([1, 2])[:, 0].tolist() == [1, 0]
    txt = tmp_path / "list.txt"
    txt.write_bytes("\ufeff1\nMale\n000001.jpg -1\n".encode())
    assert read_attributes(txt)[0] == ["Male"]
    table.write_text("image_id,Male\n1.jpg,2\n")
    with pytest.raises(DataError, match="line 2"):
        read_attributes(table)


# --- budgets


def deep_png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((1 + width) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pixels_of_a_whole_archive(tmp_path):
    large = deep_png(8192, 8192)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(40):
            z.writestr(f"{i:03d}.png", large)
    with pytest.raises(DataError, match="002.png is one too many.* decompression bomb"):
        convert_dataset(tmp_path / "b.zip", tmp_path / "x.zip", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.zip"]


def test_members_that_share_their_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "o.zip", "w") as z:
        z.writestr("0.png", encoded(picture(0)))
        z.filelist += [zipfile.ZipInfo(f"{i}.png") for i in range(1, 9)]
        for info in z.filelist[1:]:
            info.CRC, info.compress_size, info.file_size = z.filelist[0].CRC, *[z.filelist[0].file_size] * 2
            info.header_offset = 0
            z.NameToInfo[info.filename] = info
    for use in (converted, lambda s: check_dataset(s).require()):
        with pytest.raises(DataError, match="overlaps another"):
            use(tmp_path / "o.zip")


def test_a_file_far_larger_than_its_picture_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("0.png", encoded(picture(0)))
        z.writestr("1.png", encoded(picture(1)) + bytes(64 << 20))
    assert "1.png has 64 MB, far too many for 16x16 pixels" in str(check_dataset(tmp_path / "t.zip"))


def test_labels_by_their_size(tmp_path):
    root = flat(tmp_path / "s", 1)
    for text in ('{"labels":[' + "[]," * 2_000_000 + "[]]}", '{"labels":' + "[" * 10**6, "9" * 5000, "[" * 100_000):
        (root / "dataset.json").write_text(text)
        said = str(check_dataset(root).problems[0])
        assert "dataset.json" in said and len(said) < 400
        with pytest.raises(DataError, match="dataset.json"):
            converted(root)
    for number in ("1e999", "1" + "0" * 400, "NaN", "-1", "1.5", "true", '"\u001b[31m"'):
        (root / "dataset.json").write_text(f'{{"labels": [["000.png", {number}]]}}')
        with pytest.raises(DataError) as e:
            converted(root)
        assert "\x1b" not in str(e.value) and len(str(e.value)) < 300


def test_messages_are_short(tmp_path):
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as z:
        for i in range(30):
            z.writestr(f"\x1b[31m{i}" + "x" * 60_000 + ".png", b"no picture")
    for use in (converted, lambda s: check_dataset(s).require(), open_checked):
        with pytest.raises(DataError) as e:
            use(tmp_path / "l.zip")
        assert len(str(e.value)) <= 700 and "\x1b" not in str(e.value) and "more" in str(e.value)


# --- archives


def test_idx_headers_and_pickles_are_bounded(tmp_path):
    for dims, more in (((2**32 - 1, 0, 0), b""), ((3, 0, 28), b""), ((1,) * 255, b"x"), ((1,) * 4, b"x")):
        raw = b"\0\0\x08" + bytes([len(dims)]) + b"".join(struct.pack(">I", d) for d in dims) + more
        (tmp_path / "x-images-idx3-ubyte").write_bytes(raw)
        with pytest.raises(DataError, match="x-images-idx3-ubyte"):
            read_idx(tmp_path / "x-images-idx3-ubyte")
    with pytest.raises(DataError, match="too many opcodes"):
        read_plain_pickle(b"\x80\x02" + b"}" * (2 << 20) + b".")
    assert len(read_plain_pickle(pickle.dumps({"labels": [3] * 100_000}, 2))["labels"]) == 100_000


def packed(*members, kind=tarfile.REGTYPE):
    "A tar.gz of these (name, content)."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = kind
            t.addfile(info, io.BytesIO(content))
    return out.getvalue()


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "data_batch_1"}


def sparse_map(entries: int) -> bytes:
    "A tar.gz whose member begins with a map of holes that has so many entries."
    content = f"{entries}\n".encode() + b"0\n" * 2 * entries
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as t:
        info = tarfile.TarInfo("data_batch_1")
        info.pax_headers = SPARSE
        info.size = len(content)
        t.addfile(info, io.BytesIO(content))
    return out.getvalue()


TARS = {
    "a member a header": lambda: packed(*((f"{i}", b"") for i in range(1001))),
    "a long name": lambda: packed(("data_batch_1", b"x" * (1 << 20)), kind=tarfile.GNUTYPE_LONGNAME),
    "a long extended header": lambda: packed(("x", b"20 a=bbbbbbbbbbbbbb\n" * 100_000), kind=tarfile.XHDTYPE),
    "a long map of holes": lambda: sparse_map(100_000),
    "much in all": lambda: packed(*((f"data_batch_{i}", bytes(6 << 20)) for i in range(5))),
}


@pytest.mark.parametrize("what", TARS)
def test_what_a_tar_says_about_itself_is_bounded(tmp_path, monkeypatch, what):
    monkeypatch.setattr("hsr_nb.data.archives._LIMIT", 24 << 20)
    file = tmp_path / "cifar-10-python.tar.gz"
    file.write_bytes(TARS[what]())
    tracemalloc.start()
    with pytest.raises(DataError, match="which CIFAR-10 has not|far more than CIFAR-10"):
        list(read_cifar10(file))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < (48 << 20 if what == "much in all" else 16 << 20)


@pytest.fixture
def church(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "church_lmdb"
    folder.mkdir()
    values = {}
    rng = np.random.default_rng(0)
    with lmdb.open(str(folder), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for i in range(700):
            key = f"{i * 7919 % 1000:06d}".encode() * (1 + i % 3)
            values[key.decode()] = rng.bytes(int(rng.integers(1, 9000)))
            txn.put(key, values[key.decode()])
    return folder, values


def test_lmdb_reads_what_the_library_wrote(church):
    folder, values = church
    read = [(key, value) for key, value, _ in read_lmdb(folder)]
    assert read == sorted(values.items())


def test_lmdb_damage_is_one_sentence(church):
    folder, _ = church
    raw = (folder / "data.mdb").read_bytes()
    rng = np.random.default_rng(1)
    for cut in (0, 10, 100, 4096, 9000, len(raw) // 2, len(raw) - 4096):
        (folder / "data.mdb").write_bytes(raw[:cut])
        with pytest.raises(DataError, match="data.mdb is no readable LMDB database"):
            list(read_lmdb(folder))
    for _ in range(60):
        hurt = bytearray(raw)
        for _ in range(40):
            page = int(rng.integers(0, len(raw) // 4096))
            hurt[page * 4096 + int(rng.integers(0, 64))] = int(rng.integers(256))
        (folder / "data.mdb").write_bytes(hurt)
        try:
            list(read_lmdb(folder))
        except DataError as e:
            assert len(str(e)) < 700
