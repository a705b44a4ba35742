"""Small hostile files that once took gigabytes or minutes. `python tests/support/attack_files.py DIR` writes them."""

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

P4 = b"\x80\x04"
MB = 1 << 20


def text(s) -> bytes:
    data = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def get(i: int) -> bytes:
    return b"h" + bytes([i])


# ---- pickles of 1 to 10 MB whose instructions are few and whose work is not

OBJECT = name("torch_utils.persistence", "_reconstruct_persistent_obj")


def persistent(state: bytes) -> bytes:
    "An object of the official code base with this state."
    about = text("type") + text("class") + text("version") + b"K\x06" + text("class_name") + text("G")
    return OBJECT + b"}(" + about + text("module_src") + text("") + text("state") + state + b"u\x85R"


def long_names() -> bytes:
    "One module with a name of a megabyte, mentioned 60 000 times."
    module = persistent(b"}" + text("_modules") + b"}" + text("n" * MB) + persistent(b"}") + b"ss")
    mentions = b"".join(text(f"{i:x}") + get(0) for i in range(60_000))
    root = persistent(b"}" + text("_modules") + b"}(" + mentions + b"us")
    return P4 + module + b"q\0000}" + text("G_ema") + root + b"s."


def source_again() -> bytes:
    "Eight megabytes of source that would be hashed for every mention."
    about = text("type") + text("class") + text("version") + b"K\x06" + text("class_name") + text("G")
    meta = b"}q\0(" + about + text("state") + b"}" + text("module_src") + text("#" * (8 * MB)) + b"u0"
    return P4 + meta + OBJECT + b"q\x010" + (get(1) + get(0) + b"\x85R0") * 190_000 + b"."


def dimensions() -> bytes:
    "A network of TensorFlow with an array of 60 000 dimensions."
    shape = name("numpy.core.multiarray", "_reconstruct") + b"N\x85R" + b"(K\x01(" + b"K\x01" * 60_000 + b"t"
    array = shape + name("numpy", "dtype") + text("f4") + b"\x85R\x89C\x04\0\0\0\0tb"
    network = name("dnnlib.tflib.network", "Network") + b")\x81}(" + text("version") + b"K\x04"
    network += text("variables") + b"]" + text("dlatent_avg") + array + b"\x86aub"
    return P4 + network + b"q\0" + get(0) + get(0) + b"\x87."


def pickles() -> dict[str, bytes]:
    entries = b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(100_000))
    copies = b"}q\0(" + entries + b"u0" + name("collections", "OrderedDict") + b"q\x010"
    encode = text("x" * MB) + b"q\0000" + text("latin1") + b"q\x010" + name("_codecs", "encode") + b"q\x020"
    arguments = b"(" + b"N" * 200_000 + b"tq\0000" + name("torch", "device") + b"q\x010"
    return {
        "copies-of-a-dictionary.pkl": P4 + copies + (get(1) + get(0) + b"\x85R") * 190_000 + b".",
        "copies-popped.pkl": P4 + copies + (get(1) + get(0) + b"\x85R0") * 190_000 + b".",
        "text-to-bytes.pkl": P4 + encode + (get(2) + get(0) + get(1) + b"\x86R") * 190_000 + b".",
        "arguments.pkl": P4 + arguments + (get(1) + get(0) + b"R") * 250_000 + b".",
        "long-names.pkl": long_names(),
        "source-hashed-again.pkl": source_again(),
        "dimensions-tf.pkl": dimensions(),
    }


def directory() -> bytes:
    "A zip directory of 15 MB, hidden from a reader that looks for the last PK 5 6, which stands within the end record."
    count = 300_000
    head = b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entries = []
    for number in (f"{i:x}".encode() for i in range(count)):
        fields = struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(number), 0, 0, 0, 0, 0, 0)
        entries.append(b"PK\1\2" + fields + number)
    listing = b"".join(entries)
    end = struct.pack("<HHIIH", count & 0xFFFF, count & 0xFFFF, len(listing), len(head), 0)
    return head + listing + b"PK\5\6PK\5\6" + end


def strided() -> bytes:
    "20 000 tensors of one number with odd strides, each of which would read and keep the whole heap."
    import torch

    heap = torch.zeros(250_000)
    views = {f"a{i}": heap.as_strided((1, 1), (7, 7)) for i in range(20_000)}
    out = io.BytesIO()
    torch.save({"G_ema": {"synthesis.b4.const": heap[:1]} | views, "config": {"G": {}}}, out)
    return out.getvalue()


def torch_zips() -> dict[str, bytes]:
    return {"directory.pt": directory(), "strided.pt": strided()}


# ---- safetensors whose refusal must be one sentence with the file's name and without control characters

ESCAPES = "\x1b]0;owned\x07\x1b[2Jall is well\n"


def stored(header: dict, data: bytes) -> bytes:
    said = json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + data


def safetensors() -> dict[str, bytes]:
    def one(meta, called="G_ema.a"):
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        return stored({"__metadata__": meta, called: entry}, bytes(4))

    many = {f"k{i}" * 50: "1" for i in range(2000)}
    return {
        "long-integer.safetensors": one({"G": "9" * 5000}),
        "escapes-name.safetensors": one({"G": "{}"}, "G_ema." + ESCAPES),
        "escapes-meta.safetensors": one({ESCAPES: "1"}),
        "long-meta.safetensors": one(many),
    }


# ---- data sets


def zeros(n: int) -> tuple[bytes, int]:
    "So many zeros, deflated, and their CRC32."
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece, parts, crc = bytes(MB), [], 0
    for _ in range(n // MB):
        parts.append(packer.compress(piece))
        crc = zlib.crc32(piece, crc)
    return b"".join([*parts, packer.flush()]), crc


def overlapping(names: list[bytes], data: bytes, crc: int, size: int) -> bytes:
    "A zip all of whose names point to the same deflated bytes."
    first = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(data), size, len(names[0]), 0)
    body = b"PK\3\4" + first + names[0] + data
    entries = []
    for each in names:
        fields = struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 8, 0, 0, crc, len(data), size, len(each), 0, 0, 0, 0, 0, 0)
        entries.append(b"PK\1\2" + fields + each)
    listing = b"".join(entries)
    return (
        body + listing + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(listing), len(body), 0)
    )


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for called, data in members.items():
            z.writestr(called, data)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    "A black picture."
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def batches(data: bytes) -> bytes:
    "A CIFAR archive whose batch holds this."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        info = tarfile.TarInfo("c/data_batch_1")
        info.size = len(data)
        t.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue())


def idx(*sides: int) -> bytes:
    return b"\0\0\x08" + bytes([len(sides)]) + b"".join(struct.pack(">I", side) for side in sides)


def cifar() -> dict[str, bytes]:
    long_text = pickle.dumps("x" * (20 * MB), 2)[2:-1]
    encoded = b"\x80\x02" + long_text + b"q\0000" + text("latin1") + b"q\x010" + name("_codecs", "encode") + b"q\x020"
    array = name("numpy.core.multiarray", "_reconstruct") + b")R(K\x01K\x01\x85" + name("numpy", "dtype")
    message = b"\x80\x02}" + text("data") + array + text("A" * (3 * MB)) + b"\x85R\x89C\x01\0tbs."
    wide = "\U0001f600" + "a" * (100 * MB)  # one such letter makes four bytes of each
    return {
        "cifar-wide.tar.gz": batches(pickle.dumps({"data": wide}, 2)),
        "cifar-dicts.tar.gz": batches(b"\x80\x02" + b"}" * (40 * MB) + b"."),
        "cifar-encode.tar.gz": batches(encoded + b"h\x02h\0h\x01\x86R" * 400 + b"."),
        "cifar-message.tar.gz": batches(message),
    }


def tiff(pages: int) -> bytes:
    "A picture of 8 x 8 pixels on the first of so many pages, which all share its pixels."
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 279: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    size = 2 + len(entries) + 4
    first = 8 + 64
    head = b"II*\0" + struct.pack("<I", first) + bytes(64)
    following = [first + size * (i + 1) for i in range(pages - 1)] + [0]
    return head + b"".join(struct.pack("<H", len(tags)) + entries + struct.pack("<I", at) for at in following)


def wide_labels(pictures: int) -> bytes:
    "Labels as long as so many pictures allow, each letter of which takes four bytes for the sake of one."
    size = (60 << 20) + (pictures << 15)
    labels = '{"labels":null,"x":"\U0001f600' + "a" * size + '"}'
    return zipped({f"{i}.png": b"" for i in range(pictures)} | {"dataset.json": labels.encode()})


def sets() -> dict[str, bytes]:
    size = 512 * MB
    data, crc = zeros(size)
    large = png(8192, 8192)
    lists = b'{"labels":[' + b"[]," * 60_000_000 + b"[]]}"
    return {
        "members-of-512-MB.zip": overlapping([f"{i:03d}.png".encode() for i in range(64)], data, crc, size),
        "labels-of-lists.zip": zipped({"a.png": png(8, 8), "dataset.json": lists}),
        "pictures-of-67-Mpx.zip": zipped({f"{i:03d}.png": large for i in range(64)}),
        "labels-wide.zip": wide_labels(3000),
        "pages.zip": zipped({"pages.tif": tiff(150_000)}),
        **cifar(),
        "pictures-of-1-pixel-idx3-ubyte.gz": gzip.compress(idx(250_000_000, 1, 1) + bytes(250_000_000), 1),
        "no-pixels-idx3-ubyte": idx(2**32 - 1, 0, 0),
        "empty-rows-idx3-ubyte": idx(3, 0, 28),
        "dimensions-idx3-ubyte": idx(*[1] * 255) + b"x",
    }


# ---- recipes


def recipes(generator: str) -> dict[str, bytes]:
    "Of a generator with this hash, so that they are read at all."
    plain = dict(seed=1, psi=0.7, cutoff=None, class_index=None, bred=[], mix_seed=None, mix_layers=[], edits=[])
    frame = dict(format="hsr_nb recipe 1", network="x", generator=generator, at=0, steps=[plain], named={})

    def recipe(**changes):
        return json.dumps(frame | changes).encode()

    def edited(direction, strength):
        return recipe(steps=[plain | {"edits": [dict(direction=direction, strength=strength, layers=[0, 1])]}])

    return {
        "bred-long.json": recipe(steps=[plain | {"bred": [[1, 0.1]] * 200_000}]),
        "named-many.json": recipe(named={f"n{i}": plain for i in range(2000)}),
        "psi-big.json": recipe(steps=[plain | {"psi": 10**400}]),
        "steps-many.json": recipe(steps=[{}] * 1_000_000),
        "strength-big.json": edited("pca 1", 10**400),
        "direction-long.json": edited("x" * 100_000, 1),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for group in (pickles(), torch_zips(), safetensors(), sets(), recipes("0" * 64)):
        for called, data in group.items():
            (folder / called).write_bytes(data)
            print(f"{len(data) / 1e6:8.3f} MB  {called}")
