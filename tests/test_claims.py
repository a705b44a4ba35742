"What small files of strangers claim: cards, editors, latent sets, logits, arguments of networks, kinds of numbers."

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hsr_nb.base.bounded_json import read_json
from hsr_nb.base.errors import CheckpointError
from hsr_nb.base.whole import write_whole
from hsr_nb.editing.ganspace import GANSpace
from hsr_nb.editing.interfacegan import InterFaceGAN
from hsr_nb.editing.latents import LatentSet, check_set, load_latents
from hsr_nb.editing.methods import load_editor
from hsr_nb.editing.protocol import load_cell
from hsr_nb.editing.sefa import SeFa
from hsr_nb.interop.architecture import fill
from hsr_nb.interop.metadata import ARGUMENTS, check_metadata
from hsr_nb.interop.safetensors import load_safetensors, save_safetensors
from hsr_nb.judges.attributes import load_bank
from hsr_nb.judges.backbones import build_net
from hsr_nb.judges.cards import read_weights
from hsr_nb.judges.detectors import AttributeNet
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import generator_hash
from hsr_nb.studies.stored_logits import load_logits
from hsr_nb.training.run_folder import earlier_sessions, read_metrics

ESCAPES = "\x1b]0;owned\x07\x1b[2J"
ODD = (None, True, -1, 1.5, 10**18, "x", ESCAPES, "y" * 300, [], {}, [[]], ["a", 1], {"a": {"a": 1}}, [0] * 1000)
TINY = dict(z_dim=4, w_dim=4, img_resolution=8, mapping_kwargs=dict(num_layers=1))


def tiny(**changes):
    torch.manual_seed(0)
    return Generator(**(TINY | dict(synthesis_kwargs=dict(channel_base=32, channel_max=4)) | changes)).eval()


def places(value, path=()):
    "The way to everything inside a JSON value."
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    "A copy of a JSON value in which one place holds something else."
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copy


def variants(value):
    "A JSON value with something odd in each of its places, and without each of its entries."
    for path in places(value):
        for odd in ODD:
            yield path, odd, replaced(value, path, odd)
    for key in value:
        yield (key,), "missing", {k: v for k, v in value.items() if k != key}


def fault_of(e: Exception, name: str) -> str | None:
    "What is wrong with a refusal."
    said = str(e)
    if not isinstance(e, ValueError) or isinstance(e, UnicodeError):
        return f"untyped {type(e).__name__}"
    if len(said) > 700 or not said.isprintable():
        return f"{len(said)} characters, printable: {said.isprintable()}"
    return None if name in said else "the file is not named"


def faults(cases, use, name):
    "What is wrong with how each of (path, value, claims) is met; how many are used without complaint."
    found, used = [], 0
    for path, odd, claims in cases:
        try:
            use(claims)
            used += 1
        except Exception as e:
            wrong = fault_of(e, name)
            found += [(path, str(odd)[:40], wrong, str(e)[:200])] if wrong else []
    return found, used


# ---- cards of judges


CARD = {
    "name": "mine",
    "attributes": ["a", "b.c"],
    "input": {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3},
    "architecture": {
        "class": "hsr_nb.judges.detectors.AttributeNet",
        "kwargs": {"widths": [4, 8], "attributes": 2, "feature_stages": [0]},
    },
    "holds": {"sides": [16], "measure": "r2"},
    "scores": {"auc": {"a": 0.9}, "r2": {"16": {"a": 0.5, "b.c": 0.9}, "16 blurred": {"a": 0.4, "b.c": 0.9}}},
}


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    "A file of weights, and how a card beside it is used."
    file = tmp_path_factory.mktemp("judge") / "mine.safetensors"
    torch.manual_seed(0)
    save_file(AttributeNet((4, 8), 2, (0,)).state_dict(), file)
    return file


def use_card(file: Path, card):
    file.with_suffix(".json").write_text(json.dumps(card))
    bank = load_bank(file)
    bank(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    bank.reliable(0.0, 16)


@pytest.mark.filterwarnings("ignore")
def test_a_card_of_any_kind_ends_in_one_typed_sentence(judge):
    use_card(judge, CARD)
    found, used = faults(variants(CARD), lambda card: use_card(judge, card), "mine")
    assert not found, found[:5]
    assert used < 120
    for text in ("", "[]", "5", "[" * 100_000, '{"attributes": ' + "9" * 5000 + "}", "\xff"):
        judge.with_suffix(".json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="mine.json"):
            load_bank(judge)


def test_what_a_card_says_of_its_size_costs_nothing(judge):
    "Networks of a terabyte are held against the weights before memory is spent."
    for widths in ([60_000, 60_000], [4, 8, *[60_000] * 10]):
        wrong = replaced(CARD, ("architecture", "kwargs", "widths"), widths)
        with pytest.raises(CheckpointError, match="mine.safetensors does not fit"):
            use_card(judge, wrong)
    giant = {k: v for k, v in CARD.items() if k != "architecture"}
    for timm in ({"name": "convnext_xlarge"}, {"name": "resnet18", "kwargs": {"channels": [9999] * 4}}):
        with pytest.raises(CheckpointError, match="mine.safetensors does not fit"):
            use_card(judge, giant | {"timm": timm})
    with pytest.raises(ValueError, match="attributes to be a list of 0 to 30000"):
        use_card(judge, CARD | {"attributes": ["a"] * 100_000})


def test_a_card_steers_no_library(judge, monkeypatch):
    "Only names that timm lists, and arguments that say how a network is built."
    import timm

    reached = []
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: reached.append((args, kwargs)))
    card = {k: v for k, v in CARD.items() if k != "architecture"}
    places = ("hf-hub:timm/resnet18", "hf_hub:resnet18", "local-dir:/tmp/resnet18", "../resnet18", "a/b/resnet18", "")
    for name in (*places, "resnet18\n", "RESNET18", "nowhere"):
        with pytest.raises(ValueError, match="timm has no network|timm.name"):
            use_card(judge, card | {"timm": {"name": name}})
        with pytest.raises(ValueError, match="timm has no network"):
            build_net(name)
    for kwargs in ({"checkpoint_path": "x"}, {"pretrained": True}, {"cache_dir": "x"}, {"num_classes": 10**9}):
        with pytest.raises(ValueError, match="the arguments of resnet18"):
            use_card(judge, card | {"timm": {"name": "resnet18", "kwargs": kwargs}})
    with pytest.raises(ValueError, match="pretrained_cfg"):
        build_net("resnet18", {"pretrained_cfg": {"url": "http://x"}})
    assert not reached


# ---- arguments of networks


def test_arguments_of_a_network_are_refused_early_or_draw():
    "What was accepted used to end in a TypeError when the first picture was drawn."
    G = tiny()
    state = G.state_dict()
    parts = {"synthesis_kwargs": ("conv_clamp", "num_fp16_res", "low_precision", "architecture", "activation")}
    parts["synthesis_kwargs"] += ("use_noise", "resample_filter", "channel_base", "channel_max")
    parts["mapping_kwargs"] = ("lr_multiplier", "w_avg_beta", "num_layers", "activation", "layer_features")
    more = ("256", 1e-300, float("nan"), float("inf"), -0.5, 65, "lrelu", False, 10**30, "float16")
    refused = drawn = 0
    for part, names in parts.items():
        for name in names:
            for odd in (*ODD, *more):
                kwargs = G.init_kwargs | {part: G.init_kwargs[part] | {name: odd}}
                try:
                    H = fill(Generator, kwargs, state, "x.safetensors")
                except CheckpointError as e:
                    refused += 1
                    assert fault_of(e, "x.safetensors") is None, (name, odd, e)
                    continue
                H.requires_grad_(False)
                assert H(torch.zeros(2, 4)).isfinite().all(), (name, odd)
                H.mapping.update_w_avg(torch.ones(4)) if hasattr(H.mapping, "update_w_avg") else None
                drawn += 1
    assert refused > 200 and drawn > 10
    for name in ("num_fp16_res", "conv_clamp", "lr_multiplier", "w_avg_beta"):
        assert name in ARGUMENTS
    for meta in ({"G": {"synthesis_kwargs": {"num_fp16_res": 10**12}}}, {"D": {"conv_clamp": []}}):
        with pytest.raises(CheckpointError, match="x.safetensors: its metadata: expected"):
            check_metadata(meta, "x.safetensors")


# ---- kinds of numbers


def stored(kind: str, nbytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": kind, "shape": [4], "data_offsets": [0, nbytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(nbytes)


@pytest.mark.parametrize("kind, nbytes", [("F4", 2), ("C64", 32), ("F8_E4M3", 4), ("U64", 32), ("X9", 4)])
def test_numbers_of_kinds_that_no_network_has(tmp_path, kind, nbytes):
    file = tmp_path / "x.safetensors"
    file.write_bytes(stored(kind, nbytes))
    for read in (load_safetensors, read_weights):
        with pytest.raises(ValueError, match="x.safetensors"):
            read(file)


# ---- editors and latent sets


def changed_file(file: Path, out: Path, entry: str, claims) -> Path:
    "The same tensors under other claims."
    tensors, _ = load_safetensors(file)
    return save_safetensors(out, tensors, {entry: claims})


def latents(G) -> LatentSet:
    gen = torch.Generator().manual_seed(0)
    z, scores = torch.randn(40, G.z_dim, generator=gen), torch.randn(40, 2, generator=gen)
    return LatentSet(z, G.mapping(z)[:, 0], scores, ("a", "b"), 0, generator_hash(G), "judge", "0" * 64)


@pytest.fixture(scope="module")
def G():
    return tiny().requires_grad_(False)


@pytest.fixture(scope="module")
def editors(G, tmp_path_factory):
    "Files of fitted editors."
    folder = tmp_path_factory.mktemp("editors")
    fitted = [
        SeFa(components=2).fit(G),
        GANSpace(components=2, samples=100).fit(G),
        InterFaceGAN(0.2).fit(G, latents(G)),
    ]
    return {editor.method: editor.save(folder / f"{editor.method}.safetensors") for editor in fitted}


def move_with(file: Path, G):
    "What a loaded editor is for."
    editor = load_editor(file, G)
    ws = torch.zeros(2, G.num_ws, G.w_dim)
    for attribute in editor.attributes:
        assert editor.edit(ws, attribute, 0.5, native=True).isfinite().all()
    if hasattr(editor, "directions"):
        editor.directions()


@pytest.mark.parametrize("method", ["sefa", "ganspace", "interfacegan"])
def test_claims_of_an_editor(G, editors, tmp_path, method):
    out = tmp_path / "x.safetensors"
    file = editors[method]
    move_with(file, G)
    entry = load_safetensors(file)[1]["editor"]
    beyond = ("about",) if method != "ganspace" else set(entry) - {"settings"}  # which has the rest in common with sefa
    cases = [case for case in variants(entry) if case[0][0] not in beyond]
    found, used = faults(cases, lambda claims: move_with(changed_file(file, out, "editor", claims), G), "x.safetensors")
    assert not found, found[:5]
    assert used < 40  # other words for the method of directions, other layers, other seeds


@pytest.mark.parametrize("method", ["sefa", "ganspace", "interfacegan"])
def test_tensors_of_an_editor(G, editors, tmp_path, method):
    tensors, meta = load_safetensors(editors[method])
    odd = (torch.zeros(3), torch.zeros(1, 1), torch.tensor(1.0), torch.full((2, 4), float("nan")), torch.zeros(2, 2, 2))
    for name in tensors:
        for value in (*odd, None):
            wrong = {k: v for k, v in tensors.items() if k != name} | ({} if value is None else {name: value})
            file = save_safetensors(tmp_path / "x.safetensors", wrong, meta)
            with pytest.raises(CheckpointError, match="x.safetensors holds no editor") as e:
                move_with(file, G)
            assert fault_of(e.value, "x.safetensors") is None


def test_messages_of_an_editor_with_thousands_of_names(G, editors, tmp_path):
    tensors, meta = load_safetensors(editors["interfacegan"])
    names = [f"attribute {i} {'x' * 80}" for i in range(1500)]
    tensors |= {"parts.normals": torch.ones(1500, 4), "parts.sigma": torch.ones(1500)}
    entry = meta["editor"] | {"attributes": names}
    editor = load_editor(save_safetensors(tmp_path / "x.safetensors", tensors, {"editor": entry}), G)
    for name in ("nobody", ESCAPES, "x" * 10_000):
        with pytest.raises(ValueError, match="has no attribute") as e:
            editor.edit(torch.zeros(1, G.num_ws, G.w_dim), name, 1.0)
        assert len(str(e.value)) <= 700 and str(e.value).isprintable()


def test_claims_and_tensors_of_a_latent_set(G, tmp_path):
    out = tmp_path / "x.safetensors"
    file = latents(G).save(tmp_path / "whole.safetensors")
    tensors, meta = load_safetensors(file)

    def use(claims):
        check_set(load_latents(changed_file(file, out, "latents", claims)), G)

    found, used = faults(variants(meta["latents"]), use, "x.safetensors")
    named = [fault for fault in found if fault[2] != "the file is not named"]  # that is of check_set: another generator
    assert not named, named[:5]
    assert used < 30
    for seed in (10**25, -(10**25)):
        with pytest.raises(CheckpointError, match="x.safetensors.*integer of"):
            use(meta["latents"] | {"seed": seed})
    wrong = {"w": torch.zeros(40, 3), "z": torch.zeros(40, 5), "c": torch.zeros(40, 2), "scores": torch.zeros(40, 0)}
    for name, value in wrong.items():
        save_safetensors(out, tensors | {name: value}, meta)
        with pytest.raises(ValueError, match="latent set"):
            check_set(load_latents(out), G)
    for value in (torch.zeros(3), torch.full((40, 4), float("nan")), torch.zeros(2, 2, 2), torch.zeros(39, 4)):
        for name in ("z", "w", "scores", "c"):
            save_safetensors(out, tensors | {name: value}, meta)
            with pytest.raises(CheckpointError, match="x.safetensors holds no latent set"):
                load_latents(out)


# ---- logits


def logits_file(path: Path, logits: bytes, about: bytes, method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr("logits.npy", logits)
        z.writestr("about.npy", about)
    return path


def npy(array, shape=None) -> bytes:
    "An array as NumPy stores it, under another shape where one is given."
    out = io.BytesIO()
    if shape is None:
        np.lib.format.write_array(out, array)
        return out.getvalue()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + array.tobytes()


ABOUT = {"seed": 0, "mode": "random", "generator": "0", "bank": "b", "bank_sha256": "1", "names": ["a"]}


def test_logits_have_a_budget_and_typed_refusals(tmp_path, monkeypatch):
    monkeypatch.setattr("hsr_nb.studies.stored_logits.MOST_LOGITS", 1 << 20)
    path = tmp_path / "x.npz"
    good, about = np.zeros((2, 3, 1), np.float32), npy(np.array(json.dumps(ABOUT)))
    assert load_logits(logits_file(path, npy(good), about))[1] == ABOUT
    nested = npy(np.array("[" * 100_000))
    arrays = [npy(good, (1 << 40, 1, 1)), npy(good, (-2, -3, 1)), npy(good)[:-1], npy(good)[:20], b"", npy(np.zeros(3))]
    arrays += [npy(np.array([None], object)), b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, npy(np.zeros((1, 1, 2)))]
    arrays += [npy(np.zeros((1, 1, 1), complex)), bytes(3 << 20)]
    cases = [(array, about) for array in arrays]
    cases += [(npy(good), said) for said in (nested, npy(np.array("5")), npy(np.zeros(3)), b"", npy(np.array("{}")))]
    for logits, said in cases:
        with pytest.raises(CheckpointError, match="x.npz") as e:
            load_logits(logits_file(path, logits, said))
        assert fault_of(e.value, "x.npz") is None and "pickle" not in str(e.value)
    with pytest.raises(CheckpointError, match="packed in a way"):
        load_logits(logits_file(path, npy(good), about, zipfile.ZIP_LZMA))
    for data in (b"", b"PK\3\4", path.read_bytes()[:-9], b"\x93NUMPY" + bytes(90), b"\x80\x04N."):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="x.npz"):
            load_logits(path)


# ---- recipes


def test_steps_are_counted_before_they_are_made(monkeypatch):
    from hsr_nb.explore import recipe

    made = []
    monkeypatch.setattr(recipe, "_recipe", made.append)
    content = {"format": recipe.FORMAT, "generator": "0", "at": 0, "named": {}}
    for steps, named in ([{}] * 1_000_000, {}), ([{}], {str(i): {} for i in range(100_000)}):
        text = json.dumps(content | {"steps": steps, "named": named})
        with pytest.raises(ValueError, match="at most 500 and 200 are read"):
            recipe.parse_history(text, "0")
    assert not made


def test_pipes_and_folders_are_not_waited_for(tmp_path):
    "Also by those who only read a run."
    (tmp_path / "pipes").mkdir()
    (tmp_path / "folders/metrics.jsonl").mkdir(parents=True)
    (tmp_path / "folders/provenance.json").mkdir()
    for name in ("metrics.jsonl", "provenance.json"):
        os.mkfifo(tmp_path / "pipes" / name)
    for run in ("pipes", "folders"):
        with pytest.raises(CheckpointError, match="no regular file"):
            read_metrics(tmp_path / run)
        with pytest.warns(UserWarning, match="provenance.json is damaged"):
            assert earlier_sessions(tmp_path / run, 80) == []
        with pytest.raises(ValueError, match="no regular file"):
            read_json(tmp_path / run / "provenance.json")


def test_a_cell_that_names_nothing(tmp_path):
    for names in (None, 5, "x"):
        file = save_safetensors(tmp_path / "c.safetensors", {"x": torch.zeros(1)}, {"cell": {"names": names}})
        with pytest.raises(ValueError, match="holds no cell of the protocol"):
            load_cell(file)


def test_names_of_files_may_be_long_in_bytes(tmp_path):
    "Eighty Chinese letters are 240 bytes, and a file system takes 255."
    file = write_whole(tmp_path / ("\u597d" * 80 + ".png"), b"x")
    assert file.read_bytes() == b"x" and [p.name for p in tmp_path.iterdir()] == [file.name]
