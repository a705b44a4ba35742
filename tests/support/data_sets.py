"""Pictures, good and bad, and folders and zips of them."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


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


def make_bad_set(root):
    "Forty good pictures, and a folder of bad ones."
    make_set(root, 40)
    (root / "bad").mkdir()
    for name, (data, _) in BAD.items():
        (root / "bad" / name).write_bytes(data)
    return root
