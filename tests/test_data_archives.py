"""CIFAR-10, MNIST and LSUN in their own formats, and what hostile files of theirs try."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import time

import numpy as np
import pytest
import torch
from data_sets import encoded, picture
from PIL import Image

from hsr_nb.data import DataError, ImageDataset
from hsr_nb.data.archives import read_cifar10, read_idx, read_mnist, read_plain_pickle
from hsr_nb.data.budget import TooMuch
from hsr_nb.data.convert import convert_dataset, main
from hsr_nb.data.lsun import read_lmdb
from hsr_nb.data.sources import in_parallel, open_source


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
    assert len(got) == 20 and [label for *_, label in got[:3]] == [0, 1, 2]
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
    summary = convert_dataset(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "unlabelled.zip", progress=False)
    assert summary["distinct_labels"] == 0
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(7, dtype=np.uint8))
    summary = convert_dataset(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "m.zip", progress=False)
    assert summary["shape"] == (1, 32, 32) and summary["distinct_labels"] == 7
    ds = ImageDataset(tmp_path / "m.zip", labels=True)
    padded = ds.images(range(7))
    assert torch.equal(padded[:, 0, 2:-2, 2:-2], torch.from_numpy(x)) and padded[:, :, :2].max() == 0
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


def database(folder, pictures: list[bytes]):
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i, data in enumerate(pictures):
            txn.put(f"{i:06d}".encode(), data)
    return folder


def test_an_lmdb_has_a_budget_of_pixels(tmp_path):
    "A lossless WebP of one colour has far more pixels a byte than a PNG can."
    out = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(out, "WEBP", lossless=True, quality=0, method=0)
    source = open_source(database(tmp_path / "db", [out.getvalue()] * 6))
    with pytest.raises(TooMuch, match="decompression bomb"):
        for _, data, _ in source.stream:
            source.budget.spend(data)
    with pytest.raises(DataError, match="000001 is one too many"):
        in_parallel(open_source(tmp_path / "db"), None, work=str, use=str, progress=False)


def test_an_lmdb_whose_nodes_are_one(tmp_path):
    "A leaf may point twenty thousand times to one picture."
    folder = database(tmp_path / "db", [bytes([i]) * 50 for i in range(8)])
    file = folder / "data.mdb"
    data = bytearray(file.read_bytes())
    eight_nodes = b"\2\0" + struct.pack("<H", 16 + 2 * 8)  # a leaf, and where its list of nodes ends
    leaf = next(at for at in range(0, len(data), 4096) if data[at + 10 : at + 14] == eight_nodes)
    data[leaf + 16 : leaf + 32] = data[leaf + 16 : leaf + 18] * 8
    file.write_bytes(data)
    with pytest.raises(DataError, match="two of its nodes are one"):
        list(read_lmdb(folder))


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
