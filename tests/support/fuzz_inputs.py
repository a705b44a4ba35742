"""Files that readers have not seen before: seeds of every kind, and changes that keep enough of them to get inside."""

import copy
import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import data_sets
import foreign
import numpy as np
import torch

NUMBERS = (0, 1, 2, 7, 127, 255, 4096, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
MOST = 2_000_000  # bytes of an input, unless it is compressed


# ---- bytes


def flip(rng, data):
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)


def put_number(rng, data):
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(NUMBERS) % (1 << 8 * size)
    at = rng.randrange(len(data))
    data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def cut_out(rng, data):
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 30, 1000))]


def cut_end(rng, data):
    del data[rng.randrange(len(data)) :]


def repeat(rng, data):
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice((1, 2, 5, 20, 300))]
    times = rng.choice((1, 3, 100, 10_000, 200_000))
    data[at:at] = piece * min(times, max(1, (MOST - len(data)) // max(1, len(piece))))


def hurt(rng, data: bytes, others=()) -> bytes:
    "Some changes of bytes, at most eight; a piece of another file may come in."
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not new:
            break
        if others and rng.random() < 0.15:
            other = rng.choice(others)
            begin = rng.randrange(len(other) or 1)
            at = rng.randrange(len(new))
            new[at:at] = other[begin : begin + rng.choice((4, 40, 400))]
        else:
            rng.choice((flip, flip, put_number, put_number, cut_out, cut_end, repeat))(rng, new)
    return bytes(new)


# ---- JSON

LONG = "x" * 100_000
ESCAPES = "\x1b]0;owned\x07\x1b[2J"
ODD = (None, True, False, -1, 0, 1, 5, 2**31, 2**53 + 1, -0.5, 1e308, "", "0", "x", ESCAPES, "\ud800", LONG, "/")
ODD += ("../../etc/passwd", [], {}, [[]], [0], [1, 2], ["a", 1], [[0, 1]], {"a": {"a": {}}}, [0] * 100_000)
RAW = ("9" * 5000, "1e999", "NaN", "-Infinity", "1" * 19, "[" * 100_000, "[" * 60 + "]" * 60, '{"a":' * 50_000)


def places(value) -> list[tuple]:
    "(container, key) of everything inside a JSON value."
    found = []
    todo = [value]
    while todo:
        v = todo.pop()
        inside = v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ()
        for key, inner in inside:
            found.append((v, key))
            todo.append(inner)
    return found


def change_value(rng, value):
    "A JSON value of which something is another, missing, renamed, or there again and again."
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = places(value)
        if not found:
            return rng.choice(ODD)
        container, key = rng.choice(found)
        how = rng.random()
        if how < 0.6:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif how < 0.75:
            del container[key]
        elif how < 0.9:
            container[key] = f"RAW{rng.randrange(len(RAW))}"
        elif isinstance(container, dict):
            container[rng.choice((ESCAPES, LONG, "", "a.b.c", "__class__"))] = container.pop(key)
        else:
            item = container[key]
            times = min(rng.choice((1, 500, 20_000)), max(1, MOST // len(json.dumps(item))))
            container[key:key] = [copy.deepcopy(item) for _ in range(times)]  # one object would be changed everywhere
    return value


def as_text(value) -> str:
    text = json.dumps(value)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"RAW{number}"', raw, 10)
    return text


def change_json(rng, seeds: list[bytes]) -> bytes:
    data = rng.choice(seeds)
    if rng.random() < 0.15:
        return hurt(rng, data, seeds)
    return as_text(change_value(rng, json.loads(data))).encode()


# ---- networks


def small_networks():
    from hsr_nb.nets import Discriminator, Generator

    synthesis = dict(channel_base=16, channel_max=2)
    G = Generator(z_dim=2, w_dim=2, img_resolution=8, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=synthesis)
    D = Discriminator(img_resolution=8, **synthesis)
    return G, D


def pickles() -> list[bytes]:
    G, D = small_networks()
    files = [foreign.official(protocol, G_ema=G, p=0.5) for protocol in range(6)]
    files += [foreign.tensorflow(G, D, protocol) for protocol in (3, 4)]
    files += [foreign.saved(v, zip=False) for v in (foreign.rosinality(G, D), G.state_dict(), {"w": torch.ones(2)})]
    plain = {"a": [1, 2**70, "x", b"y", {1, 2}, (None, True, 1.5)]}
    return files + [pickle.dumps(plain, p) for p in range(6)]


CODES = b"(.012FIJKLMNPQRSTUVX\x82\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x93\x94\x95]abcdeghijlopqrstu})"
CALLS = (
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
    b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cdnnlib.tflib.network\nNetwork\n",
    b"ctorch\nSize\n",
    b"cbuiltins\nset\n",
)
ROUNDS = (
    b"h\0h\1R0",
    b"h\0h\1\x85R0",
    b"h\0h\1h\1\x86R0",
    b"h\1h\0\x81}b0",
    b"h\1e",
    b"]h\1a0",
    b"}h\1Ns0",
    b"h\1\x85q\1",
)


def program(rng) -> bytes:
    "Instructions at random, weighted towards those that build something; perhaps a round of them, very often."
    parts = [b"\x80\x04", rng.choice(CALLS), b"q\0"]
    for _ in range(rng.randint(1, 30)):
        parts.append(bytes([rng.choice(CODES)]) + rng.randbytes(rng.choice((0, 0, 0, 1, 2))))
    if rng.random() < 0.5:
        big = (
            b"(" + b"N" * 50_000 + b"t",
            b"X" + struct.pack("<I", 1 << 19) + b"x" * (1 << 19),
            b"}(" + b"K\1N" * 9 + b"u",
        )
        parts[3:] = [rng.choice(big), b"q\1", rng.choice(ROUNDS) * rng.choice((10, 10_000, 190_000))]
    return b"".join(parts) + b"."


def change_pickle(rng, seeds):
    if rng.random() < 0.3:
        return program(rng)
    return hurt(rng, rng.choice(seeds), seeds)


def torch_zips() -> list[bytes]:
    G, D = small_networks()
    views = torch.arange(12.0)
    values = [foreign.rosinality(G, D), G.state_dict(), {"w": torch.ones(2)}]
    values.append({"G_ema": {"a": views[2:6], "b": views.as_strided((3, 3), (1, 2)), "c": views.half()}})
    return [foreign.saved(v) for v in values]


# ---- zips, tars, gzip


def rename(rng, name: str) -> str:
    return rng.choice(("../" + name, "/" + name, "a" * 5000 + name, ESCAPES + name, "", name + "/", "é" + name, "a\0b"))


def change_zip(rng, data: bytes, change) -> bytes:
    "A zip whose members are others; `change` makes new content of a member's name and content."
    if rng.random() < 0.3:
        return hurt(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        members = [(info.filename, z.read(info)) for info in z.infolist()]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(members))
        name, content = members[at]
        how = rng.random()
        if how < 0.8:
            members[at] = name, change(name, content)
        elif how < 0.9:
            members[at] = rename(rng, name), content
        else:
            members[at:at] = [(name, content)] * rng.choice((1, 3))
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as z:
        for name, content in members:
            z.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def change_torch_zip(rng, seeds):
    def change(name, content):
        return change_pickle(rng, [content]) if name.endswith("data.pkl") else hurt(rng, content or b"\0")

    return change_zip(rng, rng.choice(seeds), change)


def cifar() -> list[bytes]:
    rng = np.random.default_rng(0)
    files = []
    for protocol in (2, 4):
        batch = {b"data": rng.integers(0, 255, (3, 3072), dtype=np.uint8), b"labels": [1, 2, 3]}
        files.append(tar_of({f"cifar-10-batches-py/data_batch_{i}": pickle.dumps(batch, protocol) for i in (1, 2)}))
    return files


def cifar_archives() -> list[bytes]:
    return [gzip.compress(data) for data in cifar()]


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    return out.getvalue()


SIZES = (0, 1, 511, 513, 2**20, 2**28, 2**28 + 1, 2**33 - 1, 2**60)
KINDS = b"0125gxLKSDN"  # of a tar's members: files, links, folders, extended headers, long names, sparse ones


def change_header(rng, data: bytes) -> bytes:
    "A tar whose header says something else, with the right sum."
    new = bytearray(data)
    at = 512 * rng.randrange(len(new) // 512)
    how = rng.random()
    if how < 0.5:
        size = rng.choice(SIZES)
        new[at + 124 : at + 136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    elif how < 0.8:
        new[at + 156] = rng.choice(KINDS)
    else:
        new[at + rng.randrange(512)] = rng.randrange(256)
    new[at + 148 : at + 156] = b" " * 8
    new[at + 148 : at + 156] = b"%06o\0 " % sum(new[at : at + 512])
    return bytes(new)


def change_cifar(rng, seeds):
    "The tar is changed and packed again, or what was packed is changed."
    data = gzip.decompress(rng.choice(seeds))
    how = rng.random()
    if how < 0.4:
        with tarfile.open(fileobj=io.BytesIO(data)) as t:
            members = {m.name: t.extractfile(m).read() for m in t}
        name = rng.choice(list(members))
        members[name] = change_pickle(rng, [members[name]])
        data = tar_of(members)
    elif how < 0.7:
        data = change_header(rng, data)
    elif how < 0.9:
        data = hurt(rng, data)
    packed = gzip.compress(data, 1)
    return packed if how < 0.9 else hurt(rng, packed)


# ---- safetensors


def split_safetensors(data: bytes) -> tuple[dict, bytes]:
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def join_safetensors(header: str, body: bytes) -> bytes:
    text = header.encode()
    return len(text).to_bytes(8, "little") + text + body


def small_config():
    from hsr_nb.training import override, preset

    small = {"net.channel_max": 4, "net.z_dim": 4, "net.w_dim": 4, "hsr.teacher": "none", "data.path": "digits"}
    return override(preset("tiny32"), **small)


def checkpoints() -> list[bytes]:
    "A run's, and directions of its network, without a checksum, which would be all that is ever looked at."
    from hsr_nb.interop import save_safetensors
    from hsr_nb.nets.seeds import generator_hash
    from hsr_nb.training.state import build_state, save_state

    cfg = small_config()
    state = build_state(cfg, (3, 8, 8))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.safetensors")
        save_state(file, state, cfg, {"name": "digits", "sha256": "0" * 64})
        whole = file.read_bytes()
        about = {"method": "pca", "layers": [0, 3], "generator": generator_hash(state.G)}
        save_safetensors(file, {"vectors": torch.eye(2, 4), "sigma": torch.ones(2)}, {"directions": about})
        return [unguarded(whole), unguarded(file.read_bytes()), whole]


def unguarded(data: bytes) -> bytes:
    header, body = split_safetensors(data)
    del header["__metadata__"]["checksum"]
    return join_safetensors(json.dumps(header), body)


def change_safetensors(rng, seeds):
    "The header as JSON, the bytes, or the length that the file begins with."
    data = rng.choice(seeds)
    if rng.random() < 0.3:
        return hurt(rng, data, seeds)
    header, body = split_safetensors(data)
    text = as_text(change_value(rng, header))
    if rng.random() < 0.2:
        body = hurt(rng, body + b"\0")
    return join_safetensors(text, body)


def change_metadata(rng, seeds):
    "An entry of the metadata, which is JSON within JSON, while the tensors stay."
    header, body = split_safetensors(rng.choice(seeds[:2]))
    meta = header["__metadata__"]
    name = rng.choice(list(meta))
    meta[name] = as_text(change_value(rng, [json.loads(meta[name])]))[1:-1]  # the entry alone, whatever it is now
    if rng.random() < 0.1:
        meta[rng.choice((ESCAPES, "x" * 5000, "G", "config"))] = meta.pop(name)
    return join_safetensors(json.dumps(header), body)


# ---- small files that claim something


def cards() -> list[bytes]:
    "Of a judge with two attributes."
    half = [0.5] * 3
    kwargs = {"widths": [4, 8], "attributes": 2, "feature_stages": [-1]}
    card = {
        "name": "mine",
        "attributes": ["a", "b"],
        "input": {"size": [16, 16], "mean": half, "std": half},
        "architecture": {"class": "hsr_nb.judges.detectors.AttributeNet", "kwargs": kwargs},
        "holds": {"sides": [16, 32], "measure": "r2"},
        "scores": {"auc": {"a": 0.9}, "r2": {}},
    }
    for side in ("16", "32"):
        for row in (side, f"{side} blurred"):
            card["scores"]["r2"][row] = {"a": 0.5, "b": 0.9}
    timm = {k: v for k, v in card.items() if k not in ("architecture", "holds", "scores")}
    timm["timm"] = {"name": "test_resnet", "kwargs": {"global_pool": "avg"}}
    return [json.dumps(card).encode(), json.dumps(timm).encode()]


def latent_set(G):
    from hsr_nb.editing.latents import LatentSet
    from hsr_nb.nets.seeds import generator_hash

    gen = torch.Generator().manual_seed(0)
    z, scores = torch.randn(40, G.z_dim, generator=gen), torch.randn(40, 2, generator=gen)
    return LatentSet(z, G.mapping(z)[:, 0].detach(), scores, ("a", "b"), 0, generator_hash(G), "judge", "0" * 64)


def _unguarded_bytes(save) -> bytes:
    "What is saved at a path, without its checksum."
    with tempfile.TemporaryDirectory() as folder:
        return unguarded(save(Path(folder, "a.safetensors")).read_bytes())


def editors(G) -> list[bytes]:
    from hsr_nb.editing import GANSpace, InterFaceGAN, SeFa
    from hsr_nb.editing.editor import Calibration

    fitted = [SeFa(components=2).fit(G), GANSpace(components=2, samples=100).fit(G)]
    fitted.append(InterFaceGAN(0.2).fit(G, latent_set(G)))
    grid = torch.tensor([-1.0, 0, 2])
    fitted[-1].calibration["a"] = Calibration(grid, grid / 2)
    return [_unguarded_bytes(editor.save) for editor in fitted]


def latents(G) -> list[bytes]:
    return [_unguarded_bytes(latent_set(G).save)]


def change_file_of_claims(rng, seeds):
    "What a file says about itself, mostly; else its header or its bytes."
    if rng.random() < 0.4:
        return change_safetensors(rng, seeds)
    return change_metadata(rng, seeds)


def logs() -> list[bytes]:
    rows = [{"nimg": n, "kimg": n / 1000, "step": n // 8, "loss/G": 0.5, "fid[x]": 9.5 - n} for n in range(8, 80, 8)]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def change_log(rng, seeds):
    "Lines are other values, or bytes are hurt."
    data = rng.choice(seeds)
    if rng.random() < 0.3:
        return hurt(rng, data, seeds)
    rows = data.decode().splitlines()
    for at in rng.sample(range(len(rows)), rng.choice((1, 1, 3))):
        rows[at] = as_text(change_value(rng, json.loads(rows[at])))
    return "\n".join(rows).encode("utf-8", "surrogatepass")


def provenances() -> list[bytes]:
    session = {"device": "cpu", "git": "0" * 12, "versions": {"python": "3"}, "processes": 1, "threads": 2}
    return [json.dumps(session | {"earlier": [session | {"until_nimg": 80}]}).encode()]


LOGITS_ABOUT = dict(seed=0, mode="random", generator="0", bank="b", bank_sha256="1", names=["a", "b"])


def logits() -> list[bytes]:
    out = io.BytesIO()
    np.savez_compressed(out, logits=np.zeros((2, 3, 2), np.float32), about=np.array(json.dumps(LOGITS_ABOUT)))
    return [out.getvalue()]


def change_logits(rng, seeds):
    "Members are hurt, say that they have another shape, or hold another text."

    def change(name, content):
        how = rng.random()
        if how < 0.3:
            return hurt(rng, content)
        if name == "about.npy":
            array = np.array(as_text(change_value(rng, LOGITS_ABOUT)))
        else:
            array = np.zeros((1, 2, 2), rng.choice(("f4", "f8", "f2", "i8", "c8", "U3", "?")))
        out = io.BytesIO()
        shape = tuple(rng.choice(NUMBERS) for _ in range(rng.choice((1, 3, 30)))) if how < 0.6 else array.shape
        header = {"descr": array.dtype.str, "fortran_order": how < 0.4, "shape": shape}
        np.lib.format.write_array_header_2_0(out, header)
        return out.getvalue() + array.tobytes()

    return change_zip(rng, rng.choice(seeds), change)


# ---- pictures


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    at = 8
    while at < len(data):
        n = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + n]))
        at += 12 + n
    return found


def join_png(chunks) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)


ZEROS = zlib.compress(bytes(1 << 26), 9)  # 64 MB in 65 kB
EXTRA = (
    (b"zTXt", b"a\0\0" + ZEROS),
    (b"iTXt", b"a\0\1\0\0\0" + ZEROS),
    (b"iCCP", b"a\0\0" + ZEROS),
    (b"tEXt", b"a\0" + b"x" * 100_000),
    (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
    (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    (b"tRNS", b"\0" * 6),
    (b"IDAT", ZEROS),
)
SIDES = (0, 1, 15, 17, 4096, 8192, 20_000, 65_535, 2**31 - 1, 2**32 - 1)


def change_png(rng, data: bytes) -> bytes:
    "A chunk is another, with the right sum."
    chunks = png_chunks(data)
    how = rng.random()
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    if how < 0.25:
        sides = [rng.choice(SIDES), rng.choice(SIDES)] if rng.random() < 0.5 else [16, 16]
        form = [rng.choice((1, 2, 4, 8, 16)), rng.choice((0, 2, 3, 4, 6)), 0, 0, rng.choice((0, 1))]
        chunks[0] = b"IHDR", struct.pack(">II5B", *sides, *form)
    elif how < 0.5:
        chunks.insert(rng.randint(1, len(chunks)), rng.choice(EXTRA))
    elif how < 0.75 and kind == b"IDAT":
        chunks[at] = kind, zlib.compress(hurt(rng, zlib.decompress(content)))
    else:
        chunks[at] = kind, hurt(rng, content + b"\0")
    return join_png(chunks)


def image_sets() -> list[bytes]:
    "Zips of pictures of every format that is read, with labels."
    forms = ("png", "jpeg", "webp", "bmp", "tiff", "png")
    files = [data_sets.encoded(data_sets.picture(i), forms[i]) for i in range(6)]
    out = []
    for labels in ([1, 0, 1, 0, 1, 2], [[0.5, 1], [1, 2], [1, 2], [0, 0], [1, 1], [2, 2]]):
        pages = io.BytesIO()
        names = [f"a/{i}.{forms[i]}" for i in range(6)]
        said = {
            "labels": [[n, v] for n, v in zip(names, labels)],
            "hsr_nb": {"resize_filter": "lanczos", "mode": "RGB"},
        }
        with zipfile.ZipFile(pages, "w") as z:
            for name, content in zip(names, files):
                z.writestr(name, content)
            z.writestr("dataset.json", json.dumps(said))
        out.append(pages.getvalue())
    return out


def change_images(rng, seeds):
    def change(name, content):
        if name.endswith(".png") and rng.random() < 0.8:
            return change_png(rng, content)
        return content if name == "dataset.json" else hurt(rng, content)

    return change_zip(rng, rng.choice(seeds), change)


def change_labels(rng, seeds):
    "dataset.json alone."
    with zipfile.ZipFile(io.BytesIO(rng.choice(seeds))) as z:
        members = {info.filename: z.read(info) for info in z.infolist()}
    members["dataset.json"] = change_json(rng, [members["dataset.json"]])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return out.getvalue()


# ---- idx and LMDB


def idx() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [bytes([0, 0, 8, 3]) + struct.pack(">III", 3, side, side) + rng.bytes(3 * side * side) for side in (28, 8)]


def change_idx(rng, seeds):
    data = bytearray(hurt(rng, rng.choice(seeds)) if rng.random() < 0.5 else rng.choice(seeds))
    for at in (4, 8, 12):
        if rng.random() < 0.4:
            data[at : at + 4] = struct.pack(">I", rng.choice(NUMBERS) % 2**32)
    return bytes(data)


def lmdbs() -> list[bytes]:
    import lmdb

    rng = np.random.default_rng(0)
    found = []
    for count, most in ((300, 300), (12, 9000)):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 24) as env, env.begin(write=True) as txn:
                for i in range(count):
                    picture = data_sets.encoded(data_sets.picture(i, size=(4, 4)))
                    txn.put(f"{i:06d}".encode(), picture + rng.bytes(int(rng.integers(0, most))))
            found.append(Path(folder, "data.mdb").read_bytes())
    return found


def change_lmdb(rng, seeds):
    "Mostly the heads of pages, where all that is followed stands."
    data = bytearray(rng.choice(seeds))
    if rng.random() < 0.2:
        return hurt(rng, bytes(data))
    for _ in range(rng.choice((1, 1, 2, 6))):
        page = rng.choice((0, 1, rng.randrange(len(data) // 4096)))
        at = page * 4096 + rng.randrange(160 if page < 2 else 60)
        size = rng.choice((1, 2, 2, 4, 8))
        number = rng.choice((*NUMBERS, rng.randrange(20), rng.randrange(4096))) % (1 << 8 * size)
        data[at : at + size] = number.to_bytes(size, "little")
    return bytes(data)
