"""Hostile and broken files, written here: none runs, and memory stays bounded.

Each is refused with a typed error that names the file and the reason."""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import foreign
import fuzz_readers
import pytest
import torch

from hsr_nb.interop import CheckpointError, load_checkpoint, load_generator
from hsr_nb.nets import Discriminator, Generator
from hsr_nb.untrusted.unpickle import unpickle

ROOT = Path(__file__).resolve().parents[1]
TINY = dict(
    z_dim=4,
    w_dim=4,
    img_resolution=8,
    mapping_kwargs=dict(num_layers=1),
    synthesis_kwargs=dict(channel_base=64, channel_max=8),
)
COMMAND = "touch executed"


def tiny(**changes):
    "A small generator; changes are {name of a tensor: function}."
    (G,) = foreign.randomise(Generator(**TINY))
    with torch.no_grad():
        for k, f in changes.items():
            G.state_dict()[k].copy_(f(G.state_dict()[k]))
    return G


class Evil:
    def __reduce__(self):
        return os.system, (COMMAND,)


class Call:
    "Pickles as a call of anything."

    def __init__(self, f, *args):
        self.f, self.args = f, args

    def __reduce__(self):
        return self.f, self.args


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def name(module, attr):
    return f"c{module}\n{attr}\n".encode()


def stack_name(module, attr):
    return text(module) + text(attr) + b"\x93"


P2, P4, ARG = b"\x80\x02", b"\x80\x04", text(COMMAND) + b"\x85"


# ---- programs


def programs():
    "Pickles that ask for what they must not have: {name: (bytes, pattern of the reason)}."
    asks, found = "asks for", {}
    calls = {
        "os.system": ("os", "system"),
        "posix.system": ("posix", "system"),
        "eval": ("builtins", "eval"),
        "exec": ("builtins", "exec"),
        "eval of Python 2": ("__builtin__", "eval"),
        "compile": ("builtins", "compile"),
        "Popen": ("subprocess", "Popen"),
        "import_module": ("importlib", "import_module"),
        "__import__": ("builtins", "__import__"),
        "getattr": ("builtins", "getattr"),
        "run_path": ("runpy", "run_path"),
        "pickle.loads": ("pickle", "loads"),
        "torch.load": ("torch", "load"),
        "apply": ("numpy.testing._private.utils", "runstring"),
        "code": ("types", "CodeType"),
        "hub": ("torch.hub", "load"),
    }
    for k, (m, n) in calls.items():
        found[k] = P2 + name(m, n) + ARG + b"R.", asks
    found |= {f"{k} by STACK_GLOBAL": (P4 + stack_name(*calls[k]) + ARG + b"R.", asks) for k in ("os.system", "eval")}
    found |= {
        "protocol 0": (f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode(), asks),
        "INST": (f"(S'{COMMAND}'\nios\nsystem\n.".encode(), asks),
        "OBJ": (P2 + b"(" + name("os", "system") + text(COMMAND) + b"o.", asks),
        "NEWOBJ": (P2 + name("subprocess", "Popen") + ARG + b"\x81.", asks),
        "NEWOBJ_EX": (
            P4 + stack_name("collections", "OrderedDict") + b")}" + text("shell") + b"\x88s\x92.",
            "keyword arguments",
        ),
        "dotted attribute": (
            P4 + stack_name("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__") + b".",
            asks,
        ),
        "name from an allowed module": (P4 + stack_name("collections", "abc") + b".", asks),
        "other case": (P4 + stack_name("Collections", "ordereddict") + b".", asks),
        "name that is a list": (P4 + text("os") + b"]\x93.", "no text"),
        "name with a newline": (P4 + stack_name("os\nsystem", "x") + b".", asks),
        "call of a result": (P2 + name("collections", "OrderedDict") + b")R" + ARG + b"R.", "cannot be called"),
        "call of a string": (P2 + text("os.system") + ARG + b"R.", "cannot be called"),
        "call of a tag": (P2 + name("torch", "FloatStorage") + ARG + b"R.", "cannot be called"),
        "arguments that are a list": (P2 + name("collections", "OrderedDict") + b"]R.", "no tuple"),
        "BUILD on a name": (
            P2 + name("collections", "OrderedDict") + b"}" + text("__init__") + text("x") + b"sb.",
            "sets the state",
        ),
        "BUILD on a list": (P2 + b"]}b.", "sets the state"),
        "EXT1": (P2 + b"\x82\x01.", "extension registry"),
        "EXT2": (P2 + b"\x83\x01\x00.", "extension registry"),
        "EXT4": (P2 + b"\x84\x01\0\0\0.", "extension registry"),
        "PERSID": (b"Pstorage\n.", "persistent id"),
        "BINPERSID": (P2 + text("storage") + b"Q.", "persistent id"),
        "out-of-band buffer": (b"\x80\x05\x97.", "outside the file"),
    }
    return found


def bombs():
    "Pickles that would take all memory or time."
    levels = [b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(40)]
    laughs = P2 + b"]q\0" + b"".join(levels) + b"."
    deep = b")" + b"\x85" * 300_000  # the hash of such a tuple overflows the stack
    doubled = b"]q\0" + b"".join(
        b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
    )  # two to the power of 60 lists
    many = b"](" + b"N" * 100_000 + b"eq\0"
    long_text = text("x" * (1 << 20)) + b"q\0"
    return {
        "hash of a deep tuple, set": (P2 + name("builtins", "set") + b"]" + deep + b"a\x85R.", "a key of type tuple"),
        "hash of a deep tuple, dictionary": (
            P2 + name("collections", "OrderedDict") + b"]" + deep + b"N\x86a\x85R.",
            "a key of type tuple",
        ),
        "hash of a deep tuple, EasyDict": (
            P2 + name("dnnlib.util", "EasyDict") + b"]" + deep + b"N\x86a\x85R.",
            "a key of type tuple",
        ),
        "copies of text": (
            P2 + long_text + (name("_codecs", "encode") + b"h\0\x85R") * 1000 + b".",
            "too many copies",
        ),
        "copies of a list": (P2 + many + (name("torch", "Size") + b"h\0\x85R") * 1000 + b".", "too many copies"),
        "copies of a list, sets": (
            P2 + b"](" + b"K\1" * 100_000 + b"eq\0" + (name("builtins", "set") + b"h\0\x85R") * 1000 + b".",
            "too many copies",
        ),
        "a long list seen often": (P2 + many + b"0](" + b"h\0" * 100_000 + b"e.", "without networks"),
        "a long name, asked for often": (
            P4 + long_text + (text("torch.nn.modules.x") + b"h\0\x930") * 10_000 + b".",
            "asks for",
        ),
        "number of a type that is lists in lists": (
            P2
            + name("numpy.core.multiarray", "scalar")
            + name("numpy", "dtype")
            + doubled
            + b"\x85R"
            + text("x")
            + b"\x86R.",
            "of type 'a list'",
        ),
        "long arguments, copied into records": (
            P4 + b"(" + b"N" * 200_000 + b"tq\0000" + name("torch", "device") + b"q\x010" + b"h\1h\0R" * 1000 + b".",
            "too many copies",
        ),
        "instructions": (P2 + b"}0" * 700_000 + b".", "too many opcodes"),
        "memo": (P4 + b"N" + b"\x94" * 700_000 + b".", "too many memo"),
        "marks": (P2 + b"(" * 700_000 + b".", "too many memo"),
        "nesting": (P2 + b"]" * 300_000 + b"a" * 299_999 + b".", "nested more than"),
        "contains itself": (P2 + b"]q\0h\0a.", "contains itself"),
        "tuple in itself": (P2 + b"]q\0h\0\x85q\1a0h\1.", "contains itself"),
        "dictionary in itself": (P2 + b"}q\0" + text("a") + b"h\0s.", "contains itself"),
        "billion laughs": (laughs, "without networks"),
        "LONG4": (P2 + b"\x8b\xff\xff\xff\x7f" + b"x" * 99, "an integer of"),
        "LONG1": (P2 + b"\x8a\xff" + b"\x7f" * 255 + b".", "an integer of"),
        "LONG in digits": (b"L" + b"9" * 500_000 + b"L\n.", "does not end"),
        "negative LONG4": (P2 + b"\x8b\xff\xff\xff\xff.", "an integer of"),
        "text of 4 EB": (P4 + b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.", "a string of"),
        "bytes of 4 EB": (P4 + b"\x8e" + struct.pack("<Q", 1 << 62) + b"x.", "ends too early"),
        "much text": (P4 + (b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"0") * 40 + b".", "too many text"),
        "frame": (P4 + b"\x95" + struct.pack("<Q", 1 << 62) + b"N.", "a frame of"),
        "huge memo index": (P2 + b"Nr\xff\xff\xff\xff" + b"j\xff\xff\xff\x7f.", "recalls value"),
        "key that is a list": (P2 + b"}]Ns.", "a key of type"),
        "key of a thousand bits": (P2 + b"}\x8a\x40" + b"\x7f" * 64 + b"Ns.", "a key of type"),
        "unknown instruction": (P2 + b"\xfe.", "unknown instruction"),
        "protocol 9": (b"\x80\x09N.", "protocol 9"),
        "empty stack": (P2 + b"a.", "empty stack"),
        "no mark": (P2 + b"Nt.", "mark that is not there"),
        "half a key": (P2 + b"}(" + text("a") + b"u.", "without a value"),
        "no end": (P2 + b"N", "ends too early"),
        "list of nothing": (P2 + b"].", "without networks"),
        "nothing": (b"", "is empty"),
        "a poem": (b"roses are red", "no checkpoint of a known kind"),
    }


# ---- networks that contradict themselves


def _typed(t):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class is deprecated, the files that hold it remain
        return t.storage()


def official(top):
    "A pickle as the official code writes it."
    with foreign.modules():
        return pickle.dumps(top, 4)


def persistent(state, **changes):
    "A module of the official code with this state."
    meta = dict(type="class", version=6, module_src=foreign.SOURCE, class_name="Generator", state=state)
    return Call(foreign._reconstruct_persistent_obj, meta | changes)


def parameter(value):
    "A generator with one parameter."
    return official({"G_ema": persistent({"_parameters": {"w": value}})})


def tensor(*args):
    "A generator with a tensor of four numbers, seen with this offset, shape and stride."
    return parameter(Call(torch._utils._rebuild_tensor_v2, _typed(torch.zeros(4)), *args, False, {}))


def heap(data):
    "A generator with a tensor whose numbers are these bytes."
    storage = Call(torch.storage._load_from_bytes, data)
    return parameter(Call(torch._utils._rebuild_tensor_v2, storage, 0, (4,), (1,), False, {}))


def networks():
    "Files in the layouts of networks, broken or hostile inside."
    return official_networks() | tensors() | broken_networks() | state_dicts()


def official_networks():
    G = tiny()
    shared = persistent({"_modules": {}})
    for _ in range(60):
        shared = persistent({"_modules": {"a": shared, "b": shared}})
    return {
        "evil beside the networks": (official({"G_ema": foreign.Persistent(G), "x": Evil()}), "asks for"),
        "evil in the state": (
            official({"G_ema": persistent({"_parameters": {}, "_buffers": {"w": Evil()}})}),
            "asks for",
        ),
        "evil as class name": (official({"G_ema": persistent({}, class_name=Evil())}), "asks for"),
        "evil in a heap": (heap(pickle.dumps(Evil())), "asks for"),
        "evil in evil": (official(Call(foreign._reconstruct_persistent_obj, Call(dict, [("a", Evil())]))), "asks for"),
        "version 7": (official({"G_ema": persistent({}, version=7)}), "version 7"),
        "no source": (official({"G_ema": persistent({}, module_src=None)}), "without a class name or source"),
        "no module": (official({"G_ema": persistent({"_modules": {"a": 3}})}), "is no module"),
        "modules that are a number": (official({"G_ema": persistent({"_modules": 5})}), "are no dictionary"),
        "no tensor": (official({"G_ema": persistent({"_parameters": {"a": "b"}})}), "is no tensor"),
        "modules in modules": (official({"G_ema": shared}), "too many opcodes|nested more than"),
        "not StyleGAN2": (official({"G_ema": persistent({})}), "no StyleGAN2 generator"),
    }


def tensors():
    good = foreign.official(G_ema=tiny())
    return {
        "shape too large": (tensor(0, (5,), (1,)), "does not fit"),
        "offset too large": (tensor(3, (2,), (1,)), "does not fit"),
        "stride too large": (tensor(0, (2,), (4,)), "does not fit"),
        "negative stride": (tensor(3, (4,), (-1,)), "impossible shape"),
        "negative offset": (tensor(-1, (1,), (1,)), "impossible shape"),
        "a billion of one": (tensor(0, (1 << 30,), (0,)), "does not fit"),
        "overflowing shape": (tensor(0, (1 << 62, 1 << 62), (1, 1)), "impossible shape"),
        "shape of text": (tensor(0, ("4",), (1,)), "impossible shape"),
        "heap longer than its bytes": (
            good.replace(struct.pack("<q", 8 * 16), struct.pack("<q", 1 << 40)),
            "numbers are announced",
        ),
        "a heap that is no file": (heap(b"N."), "does not begin|ends too early|persistent"),
    }


def broken_networks():
    G = tiny()
    good, old = foreign.official(G_ema=G), foreign.saved(G.state_dict(), zip=False)
    nan = tiny(**{"synthesis.b4.const": lambda v: v * float("nan")})
    return {
        "cut in the middle": (good[: len(good) // 2], "ends too early|a frame of|announced"),
        "cut at the end": (good[:-1], "ends too early|a frame of"),
        "NaN": (foreign.official(G_ema=nan), "not finite"),
        "infinite, rosinality": (
            foreign.saved(foreign.rosinality(tiny(**{"mapping.w_avg": lambda v: v + float("inf")}))),
            "not finite",
        ),
        "old torch, cut": (old[:-3], "ends too early"),
        "old torch, other length": (
            old.replace(struct.pack("<q", 128), struct.pack("<q", 1 << 50), 1),
            "numbers are announced|announced",
        ),
        "old torch, evil": (foreign.saved({"a": Evil()}, zip=False), "asks for"),
        "new torch, evil": (foreign.saved({"a": Evil()}), "asks for"),
        "big-endian": (
            re.sub(rb"(little_endianq.)\x88", lambda m: m[1] + b"\x89", old, count=1, flags=re.S),
            "big-endian",
        ),
    }


def state_dicts():
    G, D = tiny(), Discriminator(img_resolution=8, channel_base=64, channel_max=8)
    twice = ("z",)
    for _ in range(60):
        twice = (twice, twice)  # a nesting of 60 tuples that would take 2^60 words to write down
    theirs = foreign.rosinality(G, average=False)
    return {
        "rosinality with one name more": (
            foreign.saved(foreign.rosinality(G) | {"g": foreign.rosinality(G)["g_ema"] | {"extra": torch.zeros(1)}}),
            "extra",
        ),
        "state dict with one tensor less": (
            foreign.saved({k: v for k, v in G.state_dict().items() if k != "synthesis.b8.conv0.bias"}),
            "lacks",
        ),
        "state dict with another shape": (
            foreign.saved(G.state_dict() | {"synthesis.b8.conv0.bias": torch.zeros(99)}),
            "has synthesis.b8.conv0.bias of the shape",
        ),
        "configuration of a giant": (
            foreign.saved({"G_ema": G.state_dict(), "config": {"G": TINY | {"z_dim": 1 << 50}}}),
            "describes no generator|of the shape",
        ),
        "configuration of lists in lists": (
            foreign.saved({"G_ema": G.state_dict(), "config": {"G": TINY | {"z_dim": twice}}}),
            "more than 10000 values",
        ),
        "activation that is lists in lists": (
            foreign.saved({"G_ema": G.state_dict(), "config": {"G": TINY | {"activation": twice}}}),
            "more than 10000 values",
        ),
        "rosinality with a number for a name": (
            foreign.saved({"g_ema": {"input.input": torch.zeros(1, 4, 4, 4), 3: torch.zeros(1), None: torch.zeros(1)}}),
            "lacks",
        ),
        "rosinality, latents too long to measure an average": (
            foreign.saved({"g_ema": theirs["g_ema"] | {"style.1.weight": torch.zeros(4, 100_000)}}),
            "too long to measure",
        ),
        "rosinality without a mapping network": (
            foreign.saved({"g_ema": {k: v for k, v in theirs["g_ema"].items() if not k.startswith("style.")}}),
            "no mapping network",
        ),
        "configuration with evil": (
            foreign.saved({"G_ema": G.state_dict(), "config": {"G": {"synthesis_kwargs": {"low_precision": "load"}}}}),
            "low_precision",
        ),
        "an activation that nobody knows": (
            foreign.saved(
                {
                    "G_ema": G.state_dict(),
                    "config": {"G": TINY | {"synthesis_kwargs": TINY["synthesis_kwargs"] | {"activation": "system"}}},
                }
            ),
            "activation to be",
        ),
        "array of objects": (
            foreign.tensorflow(G, D).replace(b"\x02\x00\x00\x00f4", b"\x02\x00\x00\x00O8"),
            "of type 'O8'",
        ),
        "TensorFlow, another network": (
            foreign.tensorflow(G, D).replace(b"4x4/Const/const", b"4x4/Const/Const"),
            "variable",
        ),
    }


# ---- containers


def safetensors_bytes(header, data=b"", length=None):
    h = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(h) if length is None else length) + h + data


def zipped(*members, method=zipfile.ZIP_STORED):
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", method) as z:
        for n, data in members:
            z.writestr(n, data)
    return f.getvalue()


def containers():
    "safetensors and zips that lie."
    G = tiny()

    def entry(a, b, shape=(2,)):
        return {"dtype": "F32", "shape": list(shape), "data_offsets": [a, b]}

    whole = {f"G_ema.{k}": v for k, v in G.state_dict().items()}

    def file(state, kwargs=G.init_kwargs):
        from safetensors.torch import save

        return save(
            {k: v.contiguous() for k, v in state.items()},
            {"G": kwargs if isinstance(kwargs, str) else json.dumps(kwargs)},
        )

    slip = "no complete safetensors"
    sparse = bytearray(zipped(("a/data.pkl", P2 + b"N."), ("a/data/0", b"abcd")))
    at = sparse.rindex(b"PK\1\2")
    sparse[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    directory = zipped(*((f"a/{i:0500}", b"") for i in range(9000)))
    return {
        "safetensors, overlapping": (safetensors_bytes({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), slip),
        "safetensors, beyond the end": (safetensors_bytes({"a": entry(0, 1 << 40, (1 << 38,))}, bytes(8)), slip),
        "safetensors, gap": (safetensors_bytes({"a": entry(8, 16)}, bytes(16)), slip),
        "safetensors, header of 4 EB": (safetensors_bytes({}, length=1 << 62), "its header claims"),
        "safetensors, giant header": (safetensors_bytes(b"{" + b" " * (9 << 20) + b"}"), "its header claims"),
        "safetensors, no JSON": (safetensors_bytes(b"{{{{{{{{"), slip),
        "safetensors, overflowing shape": (safetensors_bytes({"a": entry(0, 8, (1 << 62, 1 << 62))}, bytes(8)), slip),
        "safetensors, cut": (file(whole)[:-9], slip),
        "safetensors, metadata in metadata": (file(whole, "[" * 200_000), slip),
        "safetensors, metadata that is no JSON": (file(whole, "rm -rf"), slip),
        "safetensors, description that is a list": (file(whole, [1]), "G to be an object"),
        "safetensors, giant description": (file(whole, TINY | {"w_dim": 1 << 40}), "w_dim to be a whole number"),
        "safetensors, a billion layers": (file(whole, TINY | {"mapping_kwargs": {"num_layers": 1 << 30}}), "layers"),
        "safetensors, NaN": (file(whole | {"G_ema.mapping.w_avg": torch.full([4], float("nan"))}), "not finite"),
        "safetensors, one less": (file({k: v for k, v in whole.items() if "w_avg" not in k}), "lacks 1 tensor "),
        "safetensors, of something else": (file({"a": torch.zeros(2)}), "holds no averaged generator"),
        "zip slip": (zipped(("../../executed", b"x"), ("a/data.pkl", P2 + b"N.")), "leaves the archive"),
        "zip, absolute": (zipped(("/tmp/executed", b"x")), "leaves the archive"),
        "zip, backslashes": (zipped(("a\\..\\..\\executed", b"x")), "leaves the archive"),
        "zip, drive": (zipped(("C:/executed", b"x")), "leaves the archive"),
        "zip bomb": (zipped(("a/data.pkl", bytes(50 << 20)), method=zipfile.ZIP_DEFLATED), "claim more bytes"),
        "zip, compressed": (
            zipped(
                ("a/data.pkl", P2 + b"N."), ("a/data/0", random.Random(0).randbytes(2000)), method=zipfile.ZIP_DEFLATED
            ),
            "compressed",
        ),
        "zip, an entry before the beginning": (_zip_before_itself(), "before its beginning|is no complete zip"),
        "zip, lies about sizes": (bytes(sparse), "claim more bytes|is no complete zip"),
        "zip, giant directory": (directory, "directory is too long"),
        "zip, giant directory behind a second end": (_second_end(directory), "directory is too long"),
        "views with wide strides": (_wide_views(), "too many tensors"),
        "one tensor under many names": (_many_names(), "would take"),
        "zip, no pickle": (zipped(("a.txt", b"x")), "none that torch.save wrote"),
        "zip, two pickles": (zipped(("a/data.pkl", b"N."), ("b/data.pkl", b"N.")), "2 members"),
        "zip, lacks a heap": (_without_heap(), "lacks the numbers"),
        "zip, cut": (foreign.saved(G.state_dict())[:-40], "is no complete zip"),
        "zip, flipped pickle": (_flip(foreign.saved({"w": torch.arange(4.0)}), b"storage"), "checksum"),
        "zip, flipped weights": (
            _flip(
                foreign.saved({"G_ema": G.state_dict()}), G.synthesis.b8.conv1.weight.detach().numpy().tobytes()[:16]
            ),
            "checksum",
        ),
    }


def _flip(data, where):
    data = bytearray(data)
    data[data.index(where) + 2] ^= 4
    return bytes(data)


def _zip_before_itself():
    """The end record says that the directory begins later than it does (found by fuzzing).

    So every entry seems to lie before the file."""
    data = bytearray(zipped(("a/data.pkl", P2 + b"N."), ("a/data/0", b"abcd")))
    at = data.rindex(b"PK\5\6") + 16
    data[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", data, at)[0] + 30)
    return bytes(data)


def _second_end(data):
    "A signature of an end record in the disk numbers of the true one, which a search from behind finds first."
    at = data.rindex(b"PK\5\6")
    return data[: at + 4] + b"PK\5\6" + data[at + 8 :]


def _wide_views():
    "Two numbers each, as far from each other as the heap allows: every view reads all of it."
    heap = torch.zeros(50_000)
    return foreign.saved({"G_ema": {f"a{i}": heap.as_strided((2,), (49_999,)) for i in range(3000)}})


def _many_names():
    "A pickle remembers a tensor, so mentioning it again costs a few bytes."
    G = tiny()
    large = torch.zeros(1 << 20)
    return foreign.saved({"G_ema": G.state_dict() | {f"a{i}": large for i in range(1000)}})


def _without_heap():
    source = zipfile.ZipFile(io.BytesIO(foreign.saved({"w": torch.arange(4.0)})))
    return zipped(*((n, source.read(n)) for n in source.namelist() if not n.endswith("data/0")))


# ---- pictures


def png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pictures():
    "Data sets whose images lie, as zips."
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 60_000, 60_000)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HH", 60_000, 60_000)
        + b"\0\2\2L\1\0;"
    )
    large = bytearray(zipped(("a.png", bytes(1 << 20)), method=zipfile.ZIP_DEFLATED))
    at = large.rindex(b"PK\1\2")
    large[at + 24 : at + 28] = struct.pack("<I", 3 << 30)
    return {
        "picture of 10 billion pixels": (zipped(("a.png", png(100_000, 100_000))), "decompression bomb"),
        "picture shorter than it says": (
            zipped(("a.png", png(64, 64, b"\0" * 20))),
            "truncated or damaged|cannot be decoded",
        ),
        "animation of 60 000 pixels": (zipped(("a.gif", gif)), "decompression bomb|broken header|damaged"),
        "picture that is a pickle": (zipped(("a.png", pickle.dumps(Evil()))), "is not an image"),
        "data set that leaves its folder": (zipped(("../a.png", png(8, 8))), "leaves the folder"),
        "picture that unpacks to 3 GB": (bytes(large), "unpacks to"),
        "no pixels": (zipped(("a.png", png(0, 0))), "broken header|not an image|pixels|truncated"),
    }


# Reads every file of a folder in one process that is watched: an audit hook notes whatever starts a program, imports,
# compiles or connects; memory has a hard limit.
CHILD = """
import json, resource, sys, time
from pathlib import Path
import torch
from hsr_nb.interop import CheckpointError, load_generator
import hsr_nb.interop.convert
from hsr_nb.data import ImageDataset
from hsr_nb.base.errors import DataError
folder, good = Path(sys.argv[1]), sys.argv[2]
for kind in ("pkl", "pt"): load_generator(f"{good}.{kind}")         # whatever is imported late is imported now
ImageDataset(f"{good}.zip", threads=1).images([0])
seen = []
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "exec", "compile")
OTHERS = ("pickle", "socket", "ctypes", "marshal", "shutil", "os.remove", "os.rename")
def note(event, args):
    if event.startswith(PROGRAMS + OTHERS):
        seen.append(event)
sys.addaudithook(note)
def peak():  # ru_maxrss is inherited from the parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + (1 << 30),) * 2)
out, before = {}, peak()
for path in sorted(folder.iterdir()):
    start, was, seen[:] = time.monotonic(), peak(), []
    try:
        if path.suffix == ".zip": ImageDataset(path, threads=1).images([0]); said = None
        else: load_generator(path, tensorflow=True); said = None
    except (CheckpointError, DataError) as e: said = [type(e).__name__, str(e)]
    except BaseException as e: said = ["untyped", f"{type(e).__name__}: {e}"]
    out[path.stem] = dict(said=said, seen=[*seen], mb=peak() - was, s=time.monotonic() - start)
print(json.dumps(dict(files=out, mb=peak() - before)))
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    "What the reader said to every file, beside the reason that was expected, and what the process did meanwhile."
    home = tmp_path_factory.mktemp("hostile")
    corpus, images = {**programs(), **bombs(), **networks(), **containers()}, pictures()
    (home / "files").mkdir()
    for i, (data, _) in enumerate([*corpus.values(), *images.values()]):
        (home / "files" / f"{i:03d}{'.zip' if i >= len(corpus) else '.pkl'}").write_bytes(data)
    for kind, data in dict(
        pkl=foreign.official(G_ema=tiny()),
        pt=foreign.saved(tiny().state_dict()),
        zip=zipped(("a.png", png(8, 8, bytes(25 * 8)))),
    ).items():
        (home / f"good.{kind}").write_bytes(data)
    r = subprocess.run(
        [sys.executable, "-c", CHILD, str(home / "files"), str(home / "good")],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr[-3000:]
    found = json.loads(r.stdout)
    files = {
        what: found["files"][f"{i:03d}"] | {"id": f"{i:03d}", "expected": pattern}
        for i, (what, (_, pattern)) in enumerate({**corpus, **images}.items())
    }
    assert len(files) == len(corpus) + len(images) == len(found["files"])
    return files, found["mb"], [p.name for p in home.rglob("executed")] + [p.name for p in home.parent.glob("executed")]


def test_each_hostile_or_broken_file_is_refused_by_name_and_reason(verdicts):
    files, faults = verdicts[0], []
    assert len(files) >= 40
    for what, v in files.items():
        kind, message = v["said"] or ("none", "it was read as if nothing were wrong")
        if (
            kind not in ("CheckpointError", "UnsafeFile", "BrokenFile", "DataError")
            or v["id"] not in message
            or not re.search(v["expected"], message)
            or len(message) > 700
        ):
            wanted = f"expected a typed error that names file {v['id']} and matches {v['expected']!r}"
            faults.append(f"{what}: {wanted}, found {kind}: {message[:700]}")
    assert not faults, "\n" + "\n".join(faults)


def test_none_of_them_starts_anything(verdicts):
    "No program, no import, no compilation, no connection, no file; the canary is not there."
    files, _, executed = verdicts
    assert not executed and not (started := {what: v["seen"][:5] for what, v in files.items() if v["seen"]}), started


def test_none_of_them_takes_much_memory_or_time(verdicts):
    files, mb, _ = verdicts
    assert 0 < mb < 300 and not (
        large := {what: (v["mb"], v["s"]) for what, v in files.items() if v["mb"] > 150 or v["s"] > 60}
    ), large


def test_the_canary_sings(tmp_path, monkeypatch):
    "Python's own reader does run these files; so the absence of the canary elsewhere means something."
    monkeypatch.chdir(tmp_path)
    for what in ("os.system", "os.system by STACK_GLOBAL", "protocol 0", "INST", "OBJ"):
        pickle.loads(programs()[what][0])
        Path("executed").unlink()


def test_source_text_is_kept_as_a_hash_and_never_run(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(foreign.official(G_ema=tiny()))
    meta = load_checkpoint(tmp_path / "x.pkl")[1]
    assert (
        meta["sources"] == {hashlib.sha256(foreign.SOURCE.encode()).hexdigest(): len(foreign.SOURCE)}
        and not Path("executed").exists()
    )


def flips(data, n, seed):
    "n copies with one to three flipped bits."
    r = random.Random(seed)
    for _ in range(n):
        b = bytearray(data)
        for _ in range(r.randint(1, 3)):
            b[r.randrange(len(b))] ^= 1 << r.randrange(8)
        yield bytes(b)


@pytest.mark.parametrize(
    "kind", ["official", "official, protocol 2", "torch zip", "torch old", "rosinality", "tensorflow"]
)
def test_flipped_bits_end_in_a_network_or_a_typed_error(tmp_path, kind):
    G, D = tiny(), Discriminator(img_resolution=8, channel_base=64, channel_max=8)
    data = {
        "official": lambda: foreign.official(G_ema=G),
        "official, protocol 2": lambda: foreign.official(2, G_ema=G),
        "torch zip": lambda: foreign.saved(G.state_dict()),
        "torch old": lambda: foreign.saved(G.state_dict(), False),
        "rosinality": lambda: foreign.saved(foreign.rosinality(G)),
        "tensorflow": lambda: foreign.tensorflow(G, D),
    }[kind]()
    refused = 0
    for flipped in flips(data, 40, seed=len(kind)):
        (tmp_path / "x").write_bytes(flipped)
        try:
            load_generator(tmp_path / "x", tensorflow=True)
        except CheckpointError as e:
            refused += 1
            assert str(tmp_path / "x") in str(e)
    assert refused > 0


def test_random_programs_end_in_a_value_or_a_typed_error():
    "Instructions at random, weighted towards those that build something."
    r, codes = (
        random.Random(0),
        b"(.012FIJKLMNPQRSTUVX\x82\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x93\x94\x95]abcdeghijlopqrstu})",
    )
    values = 0
    for _ in range(5000):
        program = (
            b"".join(bytes([r.choice(codes)]) + r.randbytes(r.choice((0, 0, 0, 1, 2))) for _ in range(r.randint(1, 30)))
            + b"."
        )
        try:
            unpickle(program)
            values += 1
        except CheckpointError:
            pass
    assert values > 0


@pytest.mark.slow
def test_fuzzing_finds_no_other_outcome():
    pytest.importorskip("atheris", reason="atheris is not installed")
    import fuzz_unpickle

    found = fuzz_unpickle.run(20)
    assert (
        found["runs"] > found["seeds"]
        and found["refused"] > 0
        and found["read"] > 0
        and found["memory_grown_mb"] < 1000
    ), found


def test_a_short_fuzz_of_every_reader(tmp_path):
    "Another seed than that of the committed figures; inputs that fail are kept in the test's folder."
    names = [name for name in fuzz_readers.readers() if name != "LMDB" or importlib.util.find_spec("lmdb")]
    for found in fuzz_readers.run(names, seconds=1, seed=5, keep=tmp_path):
        assert not found["faults"], (found, list(tmp_path.iterdir()))
        assert found["seeds_read"] > 0 and found["runs"] > 0 and found["largest_mb"] < fuzz_readers.MOST_MB


def test_the_fuzz_finds_what_is_wrong(tmp_path):
    "A reader that lets errors, escapes and nameless refusals through is caught."
    path = tmp_path / "x"
    wrong = {
        "untyped TypeError": TypeError("x"),
        "untyped UnicodeDecodeError": UnicodeDecodeError("utf-8", b"x", 0, 1, str(path)),
        "does not name": CheckpointError("a file is no file"),
        "characters": ValueError(f"{path} {'x' * 800}"),
        "not printable": ValueError(f"{path} \x1b[2J"),
    }
    for what, error in wrong.items():
        assert what in fuzz_readers.fault_of(error, path)
    assert fuzz_readers.fault_of(CheckpointError(f"{path} is no checkpoint"), path) is None


# ---- checksums


def guarded(tmp_path, **meta):
    from hsr_nb.interop import save_safetensors

    G = tiny()
    tensors = {f"G_ema.{k}": v for k, v in G.state_dict().items()} | {"opt_G.step": torch.ones(3000)}
    return save_safetensors(tmp_path / "x.safetensors", tensors, {"G": G.init_kwargs, "kimg": 1.5} | meta)


def test_a_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    "In any tensor; and in the header, where it is not the very word that says where the checksum is."
    file = guarded(tmp_path)
    data = file.read_bytes()
    body = 8 + struct.unpack("<Q", data[:8])[0]
    want, meta = load_checkpoint(file)
    assert "checksum" not in meta
    r = random.Random(7)
    for i in range(120):
        flipped = bytearray(data)
        at = r.randrange(body, len(data)) if i < 60 else r.randrange(body)
        flipped[at] ^= 1 << r.randrange(8)
        file.write_bytes(flipped)
        try:
            found, said = load_checkpoint(file)
        except CheckpointError as e:
            assert "x.safetensors" in str(e) and "\n" not in str(e), (at, e)
            continue
        assert i >= 60 and said.keys() != meta.keys(), at  # the entry `checksum` itself has got another name
        assert all(torch.equal(found[k], v) for k, v in want.items())


def test_what_is_read_alone_is_compared_alone(tmp_path, monkeypatch):
    file = guarded(tmp_path)
    data = bytearray(file.read_bytes())
    data[data.rindex(struct.pack("<f", 1.0))] ^= 1  # in the optimiser's tensor
    file.write_bytes(data)
    load_generator(file)
    with pytest.raises(CheckpointError, match="damaged: the checksum of opt_G differs.*HSR_NB_VERIFY=0"):
        load_checkpoint(file)
    assert load_checkpoint(file, verify=False)[1]["kimg"] == 1.5
    monkeypatch.setenv("HSR_NB_VERIFY", "0")
    load_checkpoint(file)


def test_an_older_checkpoint_is_read_with_a_note(tmp_path):
    from safetensors.torch import save_file

    G = tiny()
    state = {f"G_ema.{k}": v.contiguous() for k, v in G.state_dict().items()}
    save_file(state, tmp_path / "x", {"G": json.dumps(G.init_kwargs), "format": '"hsr_nb 1"'})
    with pytest.warns(UserWarning, match="x carries no checksum"):
        load_checkpoint(tmp_path / "x")


def test_damaged_moments_and_counts_are_refused(tmp_path):
    "What only a run that goes on looks at."
    from fuzz_inputs import small_config

    from hsr_nb.interop import save_safetensors
    from hsr_nb.training.state import build_state, flatten, restore, save_state

    cfg = small_config()
    s = build_state(cfg, (3, 8, 8))
    for p in s.G.parameters():
        p.grad = torch.zeros_like(p)
    s.opt_G.step()
    file = save_state(tmp_path / "x.safetensors", s, cfg, {"name": "digits", "sha256": "0" * 64})
    tensors, meta = load_checkpoint(file)
    assert tensors.keys() == flatten(s).keys()
    restore(s, file)
    moment = next(name for name in tensors if name.startswith("opt_G.") and name.endswith(".exp_avg"))
    other = moment.removesuffix("exp_avg") + "another"
    wrong = {
        "expected": tensors | {moment: torch.zeros(1)},
        "another": {other if name == moment else name: v for name, v in tensors.items()},
        "how far": tensors | {"pl_mean": torch.zeros(2)},
    }
    for what, changed in wrong.items():
        save_safetensors(file, changed, meta)
        with pytest.raises(CheckpointError, match=f"x.safetensors.*{what}"):
            restore(s, file)
    for count in ({}, {"nimg": 8}, None):
        save_safetensors(file, tensors, {k: v for k, v in (meta | {"count": count}).items() if v is not None})
        with pytest.raises(CheckpointError, match="x.safetensors does not say how far"):
            restore(s, file)


# ---- metadata


WRONG = (None, True, 5, -1, 1.5, 10**30, "x", [], ["x"], {}, {"x": [1]}, [[1, 2]], "9" * 300)


def with_entry(meta: dict, path: str, value) -> dict:
    "A copy of metadata with one entry, however deep, replaced."
    head, _, rest = path.partition(".")
    inner = meta.get(head)
    if rest:
        value = with_entry(inner if isinstance(inner, dict) else {}, rest, value)
    return meta | {head: value}


def test_metadata_of_any_type_ends_in_one_typed_sentence(tmp_path):
    "Whoever uses an entry gets what it expects, or the file is refused by its name."
    from hsr_nb.interop import save_safetensors
    from hsr_nb.interop.convert import describe
    from hsr_nb.interop.metadata import ENTRIES, check_metadata
    from hsr_nb.judges.independence import require_independent
    from hsr_nb.training.checks import differences
    from hsr_nb.training.config import TrainConfig

    G = tiny()
    state = {f"G_ema.{k}": v for k, v in G.state_dict().items()}
    cfg = TrainConfig()
    good = {"format": "hsr_nb 1", "G": G.init_kwargs, "config": cfg.to_dict(), "count": {"nimg": 1, "step": 1}}
    good |= {"data": {"name": "a", "sha256": "0"}, "teacher": {"name": "b"}, "origin": {"format": "x"}}
    refused = 0
    for path in ENTRIES:
        for value in WRONG:
            with contextlib.suppress(CheckpointError):
                check_metadata(with_entry(good, path, value), "x")
    for path in [path for path in ENTRIES if path[:2] not in ("G.", "D.")]:  # those: test_claims
        for value in WRONG:
            file = save_safetensors(tmp_path / "x.safetensors", state, with_entry(good, path, value))
            try:
                load_generator(file)
                meta = load_checkpoint(file)[1]
                differences(meta, cfg, {"sha256": "0"}, None)
                require_independent(tiny_judge(), meta.get("teacher"))
                describe(file, meta, "generator")
            except ValueError as e:
                refused += 1
                assert "x.safetensors" in str(e) and len(str(e)) <= 700 and "\n" not in str(e), (path, value, e)
    assert refused > 200


def tiny_judge():
    import types

    return types.SimpleNamespace(name="judge", sha256="1")


def test_json_is_bounded():
    from hsr_nb.base.bounded_json import parse_json

    read = parse_json('{"a": [1, 2.5, null, "x"], "b": 18446744073709551615}', "x")
    assert read == {"a": [1, 2.5, None, "x"], "b": 2**64 - 1}
    for text in ("9" * 5000, "-" + "9" * 50, "1e999", "[" * 200_000, "[" * 60 + "]" * 60, "{", b"\xff", "{1: 2}"):
        with pytest.raises(ValueError, match="^a.json"):
            parse_json(text, "a.json")


def test_messages_are_short_and_plain(tmp_path):
    escape = "\x1b]0;owned\x07\x1b[2J\u202e\nall is well"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers = [
        {"__metadata__": {"G": "{}"}, f"G_ema.{escape}": entry},
        {"__metadata__": {escape: "1"}, "a": entry},
        {"__metadata__": {f"k{i}" * 50: "1" for i in range(2000)}, "a": entry},
        {"__metadata__": {"G": "9" * 5000}, "G_ema.a": entry},
        {"__metadata__": {"G": json.dumps({"z_dim": escape})}, "G_ema.a": entry},
    ]
    for i, header in enumerate(headers):
        file = tmp_path / f"{i}.safetensors"
        file.write_bytes(safetensors_bytes(header, bytes(4)))
        with pytest.raises(CheckpointError) as e:
            load_generator(file)
        said = str(e.value)
        assert said.isprintable() and len(said) <= 700 and file.name in said, said
    assert len(str(CheckpointError("\x07" * 100_000))) <= 700


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is no file"):
        load_checkpoint(tmp_path / "x.safetensors")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    os.mkfifo(tmp_path / "run/checkpoints/000000001.safetensors")
    (tmp_path / "run/checkpoints/²³.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="000000001.safetensors is no file"):
        load_checkpoint(tmp_path / "run")


def test_a_checkpoint_does_not_decide_which_folders_are_walked(tmp_path, monkeypatch):
    from hsr_nb.studies.subject import trained_on

    for folder in ("here/run/checkpoints", "here/images", "elsewhere/images", "work"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "here/run/checkpoints/000000001.safetensors"
    monkeypatch.chdir(tmp_path / "work")
    beside = str(tmp_path / "here/images")
    assert trained_on("digits", file) == "digits"
    assert trained_on("images", file) == trained_on(beside, file) == beside
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    for path in ("/usr/share/doc", "/", "..", "../..", "../elsewhere/images", "link/images", "~", "nowhere"):
        with pytest.raises(ValueError, match="000000001.safetensors (says|was trained on) .*beside the run.*--data"):
            trained_on(path, file)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert trained_on("images", file) == beside  # not the one where the command is given
    (tmp_path / "elsewhere/faces.zip").write_bytes(b"")
    assert trained_on("faces.zip", file) == str(tmp_path / "elsewhere/faces.zip")  # an archive is not walked
    for path in (".", str(tmp_path / "elsewhere/images")):
        with pytest.raises(ValueError, match="does not lie beside the run"):
            trained_on(path, file)
