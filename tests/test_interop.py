"""Other people's checkpoints, in layouts written here: the same weights, the same pictures, nothing executed."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import foreign
import pytest
import torch
from safetensors.torch import save_file

from hsr_nb.interop import CheckpointError, load_checkpoint, load_generator, save_safetensors
from hsr_nb.interop.architecture import fill
from hsr_nb.interop.convert import convert_checkpoint
from hsr_nb.interop.safetensors import subset
from hsr_nb.nets import Discriminator, Generator
from hsr_nb.training.config import PRESETS, preset
from hsr_nb.training.state import network_kwargs

SMALL = dict(
    z_dim=16,
    w_dim=16,
    img_resolution=32,
    mapping_kwargs=dict(num_layers=2),
    synthesis_kwargs=dict(channel_base=512, channel_max=32),
)


def pair(resolution=32, **g):
    "A generator and a discriminator with weights of their own."
    G = Generator(**SMALL | dict(img_resolution=resolution) | g).eval()
    D = Discriminator(
        c_dim=G.c_dim,
        img_resolution=resolution,
        img_channels=G.img_channels,
        channel_base=512,
        channel_max=32,
        epilogue_kwargs=dict(mbstd_group_size=4),
    ).eval()
    return foreign.randomise(G, D)


def put(path, data):
    path.write_bytes(data)
    return path


def picture(G, c=None):
    z = torch.randn(2, G.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return G(z, c, truncation_psi=0.7, noise_mode="const")


def same(found: dict, **nets):
    "Every tensor of the networks, bit for bit and no other."
    for key, net in nets.items():
        state, want = subset(found, key), net.state_dict()
        assert state.keys() == want.keys() and all(torch.equal(state[k], want[k]) for k in want), key


def shipped(meta, tensors, key):
    return fill(Generator if key != "D" else Discriminator, meta[key[0]], subset(tensors, key), key).eval()


# ---- official files


@pytest.mark.parametrize("protocol", range(6))
def test_official_in_every_protocol(tmp_path, protocol):
    G, D = pair(16)
    file = put(tmp_path / "network.pkl", foreign.official(protocol, G=G, D=D, G_ema=G, p=0.375))
    tensors, meta = load_checkpoint(file)
    same(tensors, G=G, D=D, G_ema=G)
    assert tensors["augment.p"] == 0.375 and len(meta["sources"]) == 1
    assert torch.equal(picture(load_generator(file)), picture(G)) and not Path("executed").exists()


@pytest.mark.parametrize(
    "g",
    [
        dict(c_dim=3),
        dict(img_channels=1),
        dict(
            synthesis_kwargs=dict(
                channel_base=512, channel_max=32, architecture="resnet", num_fp16_res=2, conv_clamp=256
            )
        ),
        dict(synthesis_kwargs=dict(channel_base=128, channel_max=32, architecture="orig")),
        dict(synthesis_kwargs=dict(channel_base=256, channel_max=16, use_noise=False)),
        dict(
            z_dim=8, c_dim=2, mapping_kwargs=dict(num_layers=3, layer_features=24, embed_features=12, w_avg_beta=0.998)
        ),
        dict(synthesis_kwargs=dict(channel_base=256, channel_max=16, resample_filter=[1, 2, 1])),
        dict(base_size=(4, 6)),
        dict(c_dim=3, mapping_kwargs=dict(num_layers=2, activation="relu", lr_multiplier=0.1)),
    ],
)
def test_the_description_is_recovered(tmp_path, g):
    (G, D), c = pair(**g), None
    if "activation" in g.get("mapping_kwargs", {}):
        (D,) = foreign.randomise(Discriminator(**D.init_kwargs | dict(mapping_kwargs=dict(lr_multiplier=0.1))).eval())
    if G.c_dim:
        c = torch.eye(G.c_dim)[:2]
    tensors, meta = load_checkpoint(
        put(tmp_path / "x.pkl", foreign.official(G_ema=G, **({} if "base_size" in g else {"D": D})))
    )
    H = shipped(meta, tensors, "G_ema")
    assert torch.equal(picture(H, c), picture(G, c))

    def keep(net):
        return [(n, m.dtype) for n, m in net.named_modules() if hasattr(m, "dtype")] + [
            m.conv_clamp for m in net.modules() if hasattr(m, "conv_clamp")
        ]

    assert keep(H) == keep(G) and H.mapping.w_avg_beta == G.mapping.w_avg_beta
    if "base_size" not in g:
        images = torch.randn(4, G.img_channels, 32, 32)
        labels = None if c is None else c.repeat(2, 1)
        with torch.no_grad():
            assert torch.equal(shipped(meta, tensors, "D")(images, labels), D(images, labels))


def test_heads_of_a_fork_go_to_hsr_and_change_no_picture(tmp_path):
    G, D = pair()
    plain = picture(G)
    G.synthesis.hsr_heads = torch.nn.ModuleDict(
        {"8": torch.nn.Sequential(torch.nn.Conv2d(32, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))}
    )
    file = put(tmp_path / "fork.pkl", foreign.official(G=G, D=D, G_ema=G, loss=None))
    tensors, meta = load_checkpoint(file)
    heads = G.synthesis.hsr_heads.state_dict()
    assert len(heads) == 4 and all(
        torch.equal(tensors[f"{k}.synthesis.hsr_heads.{n}"], v) for n, v in heads.items() for k in ("hsr", "hsr.ema")
    )
    del G.synthesis.hsr_heads
    same(tensors, G=G, G_ema=G, D=D)
    convert_checkpoint(file, tmp_path / "all.safetensors")
    convert_checkpoint(file, tmp_path / "stripped.safetensors", only="generator")
    assert (
        not any(k.startswith("hsr") for k in load_checkpoint(tmp_path / "stripped.safetensors")[0])
        and sum(k.startswith("hsr") for k in load_checkpoint(tmp_path / "all.safetensors")[0]) == 8
    )
    for f in (file, tmp_path / "all.safetensors", tmp_path / "stripped.safetensors"):
        assert torch.equal(picture(load_generator(f)), plain)


def test_channels_last_and_half_tensors(tmp_path):
    G, _ = pair()
    state = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in G.state_dict().items()}
    half = {k: v.half() for k, v in G.state_dict().items()}
    assert not state["synthesis.b8.conv0.weight"].is_contiguous()
    same(load_checkpoint(put(tmp_path / "a.pt", foreign.saved({"G_ema": state})))[0], G_ema=G)
    found = load_generator(put(tmp_path / "b.pt", foreign.saved(half)))
    assert all(v.dtype == torch.float32 and torch.equal(v, half[k].float()) for k, v in found.state_dict().items())


def test_layers_that_would_compute_something_else_are_refused(tmp_path):
    "An option that the networks here lack is named, not ignored."
    _, D = pair(16)
    D.b4.conv.activation = "swish"
    with pytest.raises(CheckpointError, match="x.pkl: D: b4.conv has activation swish"):
        load_checkpoint(put(tmp_path / "x.pkl", foreign.official(D=D)))
    G, _ = pair(16)
    G.synthesis.b8.conv0.affine.weight_gain *= 2
    with pytest.raises(CheckpointError, match="x.pkl: G_ema: synthesis.b8.conv0.affine has weight_gain"):
        load_checkpoint(put(tmp_path / "x.pkl", foreign.official(G_ema=G)))


def test_stylegan3_is_refused(tmp_path):
    G, _ = pair(16)
    G.synthesis.input = type("SynthesisInput", (torch.nn.Module,), {"__module__": "hsr_nb.stand_in"})()
    with pytest.raises(CheckpointError, match="x.pkl: G_ema is a StyleGAN3 generator"):
        load_generator(put(tmp_path / "x.pkl", foreign.official(G_ema=G)))


# ---- rosinality, TensorFlow, lucidrains


@pytest.mark.parametrize("zip", [True, False])
def test_rosinality(tmp_path, zip):
    G, D = pair()
    file = put(
        tmp_path / "550000.pt",
        foreign.saved(foreign.rosinality(G, D, g_optim={"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}}), zip),
    )
    tensors, meta = load_checkpoint(file)
    same(tensors, G_ema=G, D=D)
    assert tensors["augment.p"] == 0.25 and meta["D"]["epilogue_kwargs"]["mbstd_group_size"] == 4
    assert torch.equal(picture(load_generator(file)), picture(G))


def test_rosinality_without_an_average_measures_it(tmp_path):
    G, _ = pair()
    file = put(tmp_path / "x.pt", foreign.saved(foreign.rosinality(G, average=False)))
    w = load_generator(file).mapping.w_avg
    with torch.no_grad():
        many = G.mapping(torch.randn(20_000, 16, generator=torch.Generator().manual_seed(9)))[:, 0]
    assert (w - many.mean(0)).abs().max() < 5 * many.std() / 10_000**0.5 and torch.equal(
        w, load_generator(file).mapping.w_avg
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensorflow_on_request_only(tmp_path, protocol):
    G, D = pair()
    file = put(tmp_path / "stylegan2-ffhq.pkl", foreign.tensorflow(G, D, protocol))
    with pytest.raises(CheckpointError, match="tensorflow=True"):
        load_generator(file)
    tensors, meta = load_checkpoint(file, tensorflow=True)
    for k, v in G.state_dict().items():
        assert torch.allclose(tensors[f"G_ema.{k}"], v, atol=1e-6) and (
            k.endswith("affine.bias") or torch.equal(tensors[f"G_ema.{k}"], v)
        ), k
    same(tensors, D=D)
    assert (picture(load_generator(file, tensorflow=True)) - picture(G)).abs().max() < 1e-4
    with pytest.raises(CheckpointError, match="version 3"):
        load_checkpoint(put(tmp_path / "old.pkl", foreign.tensorflow(G, D, version=3)), tensorflow=True)


def test_the_average_of_a_conditional_tensorflow_file(tmp_path):
    "Its discriminator has one logit per class and no counterpart here; the generator has."
    G, D = pair()
    file = put(tmp_path / "x.pkl", foreign.tensorflow(G, D, label_size=3))
    with pytest.raises(CheckpointError, match="one logit per class.*--only generator"):
        load_checkpoint(file, tensorflow=True)
    assert (picture(load_generator(file, tensorflow=True)) - picture(G)).abs().max() < 1e-4


def test_lucidrains_is_named_and_refused(tmp_path):
    file = put(
        tmp_path / "model_1.pt",
        foreign.saved({"GAN": {"GE.blocks.0.to_style1.weight": torch.zeros(2)}, "version": "1.9"}),
    )
    with pytest.raises(CheckpointError, match="lucidrains"):
        load_generator(file)


# ---- detection, folders


def test_the_content_decides_not_the_suffix(tmp_path):
    G, D = pair(16)
    convert_checkpoint(put(tmp_path / "a.safetensors", foreign.official(G_ema=G)), tmp_path / "b.pkl", to="safetensors")
    files = [
        tmp_path / "a.safetensors",
        tmp_path / "b.pkl",
        put(tmp_path / "c", foreign.saved(foreign.rosinality(G))),
        put(tmp_path / "d.png", foreign.saved(G.state_dict(), zip=False)),
    ]
    for f in files:
        assert torch.equal(picture(load_generator(f)), picture(G)), f


def test_a_run_folder_stands_for_its_latest_checkpoint(tmp_path):
    G, _ = pair(16)
    (tmp_path / "checkpoints").mkdir()
    for n, bias in ((1000, 0.0), (2000, 1.0)):
        with torch.no_grad():
            G.synthesis.b16.torgb.bias.fill_(bias)
        save_safetensors(
            tmp_path / f"checkpoints/{n:09d}.safetensors",
            {f"G_ema.{k}": v for k, v in G.state_dict().items()},
            {"G": G.init_kwargs},
        )
    assert torch.equal(picture(load_generator(tmp_path)), picture(G))


# ---- round trips


OF_STYLEGAN2 = [n for n in PRESETS if preset(n).net.architecture == "stylegan2"]  # the others have no such layouts


def preset_pair(name):
    cfg = preset(name, **({"data.resolution": 1024} if preset(name).data.resolution is None else {}))
    g, d = network_kwargs(cfg, (3, cfg.data.resolution, cfg.data.resolution), 0)
    return foreign.randomise(Generator(**g), Discriminator(**d))


@pytest.mark.parametrize(
    "name", [n if n in ("tiny32", "small64") else pytest.param(n, marks=pytest.mark.slow) for n in OF_STYLEGAN2]
)
def test_round_trips_of_presets_change_no_bit(tmp_path, name):
    "official .pkl -> ours -> official state dicts -> ours -> rosinality -> ours; what has no place there stays behind."
    G, D = preset_pair(name)
    steps = [put(tmp_path / "0", foreign.official(G_ema=G, D=D))]
    for i, to in enumerate(("safetensors", "official", "safetensors", "rosinality", "safetensors"), 1):
        steps.append(tmp_path / str(i))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # widths that rosinality's own class would not build
            only = "generator" if to == "rosinality" and name == "cifar" else "all"
            convert_checkpoint(steps[-2], steps[-1], to=to, only=only)
        tensors, meta = load_checkpoint(steps[-1])
        same(tensors, G_ema=G, **({} if name == "cifar" and i > 3 else {"D": D}))
        steps[-2].unlink()

        def half(net):
            return [m.dtype for m in net.modules() if hasattr(m, "dtype")]

        if i == 3:
            assert (
                meta["G"]["synthesis_kwargs"]["conv_clamp"] == G.init_kwargs["synthesis_kwargs"]["conv_clamp"]
                and half(shipped(meta, tensors, "G_ema")) == half(G)
                and half(shipped(meta, tensors, "D")) == half(D)
            )


def test_official_state_dicts_are_plain_torch_files(tmp_path):
    G, D = pair(16)
    convert_checkpoint(put(tmp_path / "x.pkl", foreign.official(G_ema=G, D=D)), tmp_path / "y.pt", to="official")
    state = torch.load(tmp_path / "y.pt", weights_only=True)
    H = Generator(**G.init_kwargs)
    H.load_state_dict(state["G_ema"], strict=True)
    assert torch.equal(picture(H.eval()), picture(G)) and list(state["G_ema"]) == list(G.state_dict())


def test_what_a_layout_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    G, D = pair(16, c_dim=3)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G, D=D))
    with pytest.raises(CheckpointError, match="cannot express.*mapping.embed"):
        convert_checkpoint(file, tmp_path / "y.pt", to="rosinality")
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(file, file)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize("to", ["official", "rosinality"])
def test_pictures_that_are_no_squares_stay_here(tmp_path, to):
    G, _ = pair(16, base_size=(4, 6))
    file = save_safetensors(
        tmp_path / "x.safetensors", {f"G_ema.{k}": v for k, v in G.state_dict().items()}, {"G": G.init_kwargs}
    )
    with pytest.raises(CheckpointError, match="draw squares.*4x6"):
        convert_checkpoint(file, tmp_path / "y.pt", to=to)
    assert not (tmp_path / "y.pt").exists()


@pytest.mark.filterwarnings("ignore:rosinality")
def test_what_stays_behind_is_said_and_the_origin_is_kept(tmp_path):
    G, D = pair(16)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G, G=G, D=D, p=0.5))
    done = {
        to: convert_checkpoint(file, tmp_path / to, to=to) for to in ("safetensors", "official", "rosinality", "json")
    }
    assert {to: d["left"] for to, d in done.items()} == {
        "safetensors": [],
        "official": [],
        "rosinality": [],
        "json": [],
    }
    assert done["official"]["tensors"] == sum(len(net.state_dict()) for net in (G, G, D)) + 1
    assert done["official"]["numbers"]["D"] == sum(v.numel() for v in D.state_dict().values())
    assert load_checkpoint(tmp_path / "official")[0]["augment.p"] == 0.5
    assert load_checkpoint(tmp_path / "rosinality")[0]["augment.p"] == 0.5
    convert_checkpoint(tmp_path / "safetensors", tmp_path / "stripped.safetensors", only="generator")
    (whole, meta), (stripped, small) = (
        load_checkpoint(tmp_path / "safetensors"),
        load_checkpoint(tmp_path / "stripped.safetensors"),
    )
    assert (
        meta["origin"] == small["origin"]
        and meta["origin"]["name"] == "x.pkl"
        and len(meta["origin"]["sources"]) == 1
        and stripped.keys() == {k for k in whole if k.startswith("G_ema.")}
    )
    assert json.loads((tmp_path / "json").read_text()) == meta | {"numbers": done["json"]["numbers"]}


def test_a_foreign_file_is_no_training_checkpoint_but_starts_one(tmp_path):
    from hsr_nb.training.config import override
    from hsr_nb.training.state import build_state, restore, transfer

    cfg = override(preset("tiny32"), **{"hsr.teacher": "none"})
    s = build_state(cfg, (3, 32, 32))
    G, D = foreign.randomise(Generator(**s.G.init_kwargs), Discriminator(**s.D.init_kwargs), seed=5)
    file = put(tmp_path / "x.pkl", foreign.official(G=G, D=D, G_ema=G))
    with pytest.raises(CheckpointError, match="no training checkpoint"):
        restore(s, file)
    transfer(s, file)
    assert all(torch.equal(v, G.state_dict()[k]) for k, v in s.G.state_dict().items())


# ---- the command


def test_hsr_convert(tmp_path):
    G, _ = pair(16)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G))

    def run(*a):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from hsr_nb.interop.convert import main; sys.exit(main())",
                *map(str, a),
            ],
            capture_output=True,
            text=True,
        )

    good, bad, other = (
        run(file, tmp_path / "y.safetensors"),
        run(tmp_path / "none.pkl", tmp_path / "z.safetensors"),
        run(file, tmp_path / "y.pt", "--to", "rosinality"),
    )
    assert good.returncode == 0 and "from stylegan2-ada-pytorch" in good.stdout, good.stderr
    assert (
        bad.returncode == 2
        and bad.stderr.startswith("hsr_convert: there is no checkpoint")
        and bad.stderr.count("\n") == 1
    )
    assert (
        other.returncode == 0
        and other.stderr.startswith("hsr_convert: note: rosinality's own Generator")
        and other.stderr.count("\n") == 1
    ), other.stderr
    assert torch.equal(picture(load_generator(tmp_path / "y.safetensors")), picture(G))


def test_written_files_have_the_permissions_of_any_new_file(tmp_path):
    G, D = pair(16)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G, D=D))
    before = os.umask(0o027)
    try:
        for to in ("safetensors", "official", "json"):
            convert_checkpoint(file, tmp_path / to, to=to)
            assert (tmp_path / to).stat().st_mode & 0o777 == 0o640, to
    finally:
        os.umask(before)


def test_a_refused_write_leaves_the_previous_file(tmp_path, monkeypatch):
    import hsr_nb.interop.safetensors as module

    file = save_safetensors(tmp_path / "x.safetensors", {"w": torch.ones(2)}, {})
    before = file.read_bytes()

    def torn(path, *_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "_write_tensors", torn)
    words = "cannot write .*/x.safetensors: No space left on device; the previous file, if any, is untouched"
    with pytest.raises(CheckpointError, match=words):
        save_safetensors(file, {"w": torch.zeros(2)}, {})
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


# ---- graphs


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_graphs_draw_the_same_pictures(tmp_path, to):
    "Any number of samples, noise as an input; the heads of a fork are not in it."
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from hsr_nb.interop.export import const_noise, draw_onnx, draw_pt2, parity

    G, _ = pair(c_dim=3)
    file, plain = tmp_path / "x.pkl", Generator(**G.init_kwargs)
    plain.load_state_dict(G.state_dict())
    G.synthesis.hsr_heads = torch.nn.ModuleDict({"8": torch.nn.Conv2d(32, 8, 1)})
    put(file, foreign.official(G_ema=G))
    assert convert_checkpoint(file, tmp_path / "graph", to=to)["left"] == ["hsr"]
    draw = dict(onnx=draw_onnx, pt2=draw_pt2)[to](tmp_path / "graph")
    assert max(parity(plain.eval(), draw, n) for n in (1, 5)) < 1e-3

    def feed(scale):
        return {
            "z": torch.ones(1, 16),
            "noise": const_noise(plain) * scale,
            "psi": torch.tensor(1.0),
            "c": torch.eye(3)[:1],
        }

    assert (draw(feed(1)) - draw(feed(2))).abs().max() > 1e-3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph", "x.pkl"]


# ---- how good


@pytest.mark.alone
@pytest.mark.slow
def test_the_ffhq256_layout_converts_fast_and_small():
    "The acceptance figure (5 s, three times the file) needs a quiet machine; here are ratios that hold on a busy one."
    import measure_interop

    row = measure_interop.measure(repeats=1)[0]
    assert row["parameters"] == 24_767_458 and 0 < row["peak_over_file"] < 2, row
    assert row["convert_cpu_s"] < 4 * (row["torch_load_and_save_cpu_s"] + row["import_torch_cpu_s"]), row
    assert row["image_difference"] <= 1e-5, row


# ---- files as people have them


def test_rosinality_without_noise_constants_gets_fresh_ones(tmp_path):
    "The best known file of that code is from before they were saved; the strengths are in it."
    G, _ = pair()
    state = foreign.rosinality_generator(G)
    old = {k: v for k, v in state.items() if not k.startswith("noises.")}
    file = put(tmp_path / "256.pt", foreign.saved({"g_ema": old, "latent_avg": G.mapping.w_avg.clone()}))
    with pytest.warns(UserWarning, match="256.pt: g_ema has no noise constants.*fresh"):
        first, second = load_generator(file), load_generator(file)
    same({f"G.{k}": v for k, v in first.state_dict().items()}, G=second)
    assert first.synthesis.b32.conv1.noise_const.std() > 0.8
    for name, v in G.state_dict().items():
        assert name.endswith("noise_const") or torch.equal(first.state_dict()[name], v), name
    some = {k: v for k, v in state.items() if k != "noises.noise_3"}
    with pytest.raises(CheckpointError, match="lacks 1 tensor, .* noises.noise_3"):
        load_generator(put(tmp_path / "some.pt", foreign.saved({"g_ema": some})))


def bare_states(G, D):
    "State dicts that nothing describes but their names and shapes."
    own, critic = G.state_dict(), D.state_dict()
    theirs = foreign.rosinality_generator(G)
    return {
        "one generator": own,
        "several networks": {f"G_ema.{k}": v for k, v in own.items()} | {f"D.{k}": v for k, v in critic.items()},
        "of DataParallel": {f"module.{k}": v for k, v in own.items()},
        "of DataParallel, several": {f"G_ema.module.{k}": v for k, v in own.items()},
        "rosinality": theirs,
        "rosinality, several": {f"g_ema.{k}": v for k, v in theirs.items()},
    }


@pytest.mark.parametrize("said", [None, {"format": "pt"}, {"format": "pt", "author": "me: 1"}])
def test_bare_safetensors_are_read_as_bare_torch_files(tmp_path, said):
    from safetensors.torch import save_file

    G, D = pair(16)
    for what, state in bare_states(G, D).items():
        file = tmp_path / f"{what}.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, file, said)
        found = load_generator(file).state_dict()
        for k, v in G.state_dict().items():
            assert k == "mapping.w_avg" or torch.equal(found[k], v), (what, k)
    tensors, meta = load_checkpoint(tmp_path / "several networks.safetensors")
    same(tensors, G_ema=G, D=D)
    assert meta["D"]["img_resolution"] == 16


def test_names_of_data_parallel_in_torch_files(tmp_path):
    G, D = pair(16)
    states = {k: {f"module.{n}": v for n, v in net.state_dict().items()} for k, net in (("G_ema", G), ("D", D))}
    same(load_checkpoint(put(tmp_path / "a.pt", foreign.saved(states)))[0], G_ema=G, D=D)
    theirs = {k: {f"module.{n}": v for n, v in s.items()} for k, s in (("g_ema", foreign.rosinality_generator(G)),)}
    average = {"latent_avg": G.mapping.w_avg.clone()}
    same(load_checkpoint(put(tmp_path / "b.pt", foreign.saved(theirs | average)))[0], G_ema=G)


def test_a_class_of_another_name_is_known_by_its_parts(tmp_path):
    import pickle

    G, D = pair(16)
    for net, name, key in ((G, "StyledGenerator", "G_ema"), (D, "Critic", "D")):
        with foreign.modules():
            data = pickle.dumps(foreign.Persistent(net, name), 4)
        same(load_checkpoint(put(tmp_path / "x.pkl", data))[0], **{key: net})


@pytest.mark.parametrize("taps", [[1, 2, 1], [1, 4, 6, 4, 1]])
def test_other_filters(tmp_path, taps):
    "In official files only the layers that resample have them; in our older files every layer of the generator."
    how = dict(channel_base=512, channel_max=32)
    G = Generator(16, 0, 16, 16, synthesis_kwargs=how | {"resample_filter": taps}).eval()
    D = Discriminator(0, 16, epilogue_kwargs={"mbstd_group_size": 4}, block_kwargs={"resample_filter": taps}, **how)
    foreign.randomise(G, D)
    n = len(taps)
    assert G.synthesis.b16.conv1.resample_filter.shape == D.b16.conv0.resample_filter.shape == (4, 4)
    assert G.synthesis.b16.conv0.resample_filter.shape == D.b16.skip.resample_filter.shape == (n, n)
    tensors, meta = load_checkpoint(put(tmp_path / "x.pkl", foreign.official(G_ema=G, D=D)))
    same(tensors, G_ema=G, D=D)
    assert torch.equal(picture(shipped(meta, tensors, "G_ema")), picture(G))
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(shipped(meta, tensors, "D")(images), D(images))
    own = G.synthesis.b16.conv0.resample_filter
    older = {k: own.clone() if k.endswith("resample_filter") else v for k, v in G.state_dict().items()}
    file = save_safetensors(
        tmp_path / "old.safetensors", {f"G_ema.{k}": v for k, v in older.items()}, {"G": G.init_kwargs}
    )
    assert torch.equal(picture(load_generator(file)), picture(G))


def test_pointers_and_web_pages_are_said_to_be_that(tmp_path):
    from hsr_nb.judges.cards import read_weights

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n"
    page = b"\n<!DOCTYPE html>\n<html><head><title>warning</title></head></html>"
    for read in (load_generator, read_weights):
        for suffix in ("pkl", "pt"):
            with pytest.raises(ValueError, match=rf"a\.{suffix}.* is a Git LFS pointer.*git lfs pull"):
                read(put(tmp_path / f"a.{suffix}", pointer))
            with pytest.raises(ValueError, match=rf"b\.{suffix}.* is a web page"):
                read(put(tmp_path / f"b.{suffix}", page))


def test_a_backbone_beside_its_head_and_arguments(tmp_path):
    "Full checkpoints of DINO: names of a student and a teacher, heads, the command line, all in one file."
    import argparse

    from hsr_nb.judges.cards import read_weights

    net = torch.nn.Linear(3, 2).state_dict()
    teacher = {f"backbone.{k}": v for k, v in net.items()} | {
        "head.mlp.0.weight": torch.zeros(2),
        "dino_head.w": net["bias"],
    }
    args = argparse.Namespace(arch="vit", output_dir=Path("runs"), lr=0.1)
    value = {"student": {f"module.{k}": v for k, v in teacher.items()}, "teacher": teacher, "args": args, "epoch": 3}
    with pytest.warns(UserWarning) as noted:
        found = read_weights(put(tmp_path / "full.pth", foreign.saved(value)))
    heads = "dino_head beside the backbone (1 tensor), head beside the backbone (1 tensor)"
    assert [str(w.message) for w in noted] == [f"{tmp_path}/full.pth: left behind: student, args, epoch, {heads}"]
    assert found.keys() == net.keys() and all(torch.equal(found[k], v) for k, v in net.items())
    odd = teacher | {"something.else": net["bias"]}
    assert read_weights(put(tmp_path / "odd.pth", foreign.saved(odd))).keys() == odd.keys()


def wrapped(G, D) -> dict:
    "Networks as training code saves them: what a file holds, the networks found in it, what of it is not read."
    g, d = G.state_dict(), D.state_dict()
    theirs = foreign.rosinality(G, D)
    flat = {f"netG.{k}": v for k, v in g.items()} | {f"netD.{k}": v for k, v in d.items()}
    both = {f"G.{k}": v for k, v in g.items()} | {f"G_avg.module.{k}": v for k, v in g.items()}
    return {
        "generator": ({"generator": g}, {"G_ema"}, 0),
        "lightning": ({"state_dict": flat | {"lpips.w": torch.ones(2)}, "epoch": 3}, {"G_ema", "D"}, 2),
        "averaged beside": ({"state_dict": both, "global_step": 3}, {"G", "G_ema"}, 1),
        "one deeper": ({"model": {"G_ema": g, "optimizer": {"lr": 0.1}}}, {"G_ema"}, 1),
        "three deep": ({"a": {"b": {"module": g}}}, {"G_ema"}, 0),
        "rosinality's": ({"model": {k: theirs[k] for k in ("g_ema", "d", "latent_avg")}}, {"G_ema", "D"}, 0),
        "rosinality's, flat": ({f"module.{k}": v for k, v in theirs["g_ema"].items()}, {"G_ema"}, 0),
    }


@pytest.mark.filterwarnings("ignore:.*is the only generator")
def test_networks_are_found_below_any_wrapper(tmp_path):
    "By the tensors that only they have, whatever stands before their names; other tensors and entries are listed."
    G, D = pair(16)
    for case, (value, networks, unread) in wrapped(G, D).items():
        file = put(tmp_path / f"{case}.ckpt", foreign.saved(value))
        tensors, meta = load_checkpoint(file)
        assert {name.partition(".")[0] for name in tensors} == networks, case
        assert len(meta["unread"]) == unread, (case, meta["unread"])
        for name, v in G.state_dict().items():
            if case == "rosinality's, flat" and name == "mapping.w_avg":
                continue  # not in the state dict, and measured anew
            torch.testing.assert_close(tensors[f"G_ema.{name}"], v, atol=1e-5, rtol=1e-4)
    flat = wrapped(G, D)["lightning"][0]["state_dict"]
    save_file({k: v.clone() for k, v in flat.items()}, tmp_path / "flat.safetensors")
    assert load_checkpoint(tmp_path / "flat.safetensors")[1]["unread"] == ["lpips"]


def test_a_file_without_one_network_says_what_it_has(tmp_path):
    G, _ = pair(16)
    g = G.state_dict()
    for value, why in (
        ({"A": {"net": g}, "B": {"net": g}}, r"holds 2 networks that might be the G \(A.net, B.net\): save the one"),
        ({"model": {"encoder.w": torch.ones(2)}, "step": 3}, r"'model' \(1 thing in it, first 'encoder.w'\), 'step'"),
        ({}, "its entries are none"),
    ):
        with pytest.raises(CheckpointError, match=why):
            load_checkpoint(put(tmp_path / "x.pt", foreign.saved(value)))


def test_a_file_mentioned_a_thousand_times_is_cheap_to_refuse(tmp_path):
    inner: dict = {"input.input": torch.zeros(1)}
    for _ in range(6):
        inner = {f"{k}": inner for k in range(100)}
    with pytest.raises(CheckpointError, match="needs too many opcodes"):
        load_checkpoint(put(tmp_path / "x.pt", foreign.saved(inner)))
    prefixes = ["x" * 50_000 + ".input.input." * n for n in range(100)]
    names = {f"{prefix.removesuffix('.')}.input.input": torch.zeros(1) for prefix in prefixes}
    with pytest.raises(CheckpointError, match="needs too many text"):
        load_checkpoint(put(tmp_path / "y.pt", foreign.saved(names)))


def test_names_of_a_network_are_printable(tmp_path, recwarn):
    value = {"\x1b[2Jgone": pair(16)[0].state_dict()}
    load_checkpoint(put(tmp_path / "x.pt", foreign.saved(value)))
    assert all(str(w.message).isprintable() for w in recwarn.list) and len(recwarn.list) == 1


def test_what_was_not_read_is_listed(tmp_path):
    G, D = pair(16)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G, E=D, loss=None))
    assert convert_checkpoint(file, tmp_path / "a.safetensors")["unread"] == ["E", "training_set_kwargs"]
    other = foreign.rosinality(G, D, g_optim={"state": {}})
    done = convert_checkpoint(put(tmp_path / "y.pt", foreign.saved(other)), tmp_path / "b.safetensors")
    assert done["unread"] == ["args", "g_optim"] and done["left"] == []


# ---- what is written


def test_the_suffix_decides_or_is_refused(tmp_path):
    G, _ = pair(16)
    file = put(tmp_path / "x.pkl", foreign.official(G_ema=G))
    convert_checkpoint(file, tmp_path / "y.json")
    assert json.loads((tmp_path / "y.json").read_text())["G"]["img_resolution"] == 16
    for name, to, why in (
        ("y.pt", None, "suffix .pt does not say.*--to"),
        ("y.pkl", None, "suffix .pkl does not say.*--to"),
        ("z.onnx", "safetensors", "--to safetensors does not go with the suffix .onnx"),
        ("z.safetensors", "official", "--to official does not go with"),
        ("z.JSON", "pt2", "--to pt2 does not go with"),
    ):
        with pytest.raises(CheckpointError, match=why):
            convert_checkpoint(file, tmp_path / name, to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pkl", "y.json"]


OFFICIAL = {  # arguments of the official constructors
    "G": {"z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs"},
    "mapping_kwargs": {
        "num_layers",
        "embed_features",
        "layer_features",
        "activation",
        "lr_multiplier",
        "w_avg_beta",
    },
    "synthesis_kwargs": {
        "channel_base",
        "channel_max",
        "num_fp16_res",
        "conv_clamp",
        "architecture",
        "resample_filter",
        "use_noise",
        "activation",
    },
    "D": {
        "c_dim",
        "img_resolution",
        "img_channels",
        "architecture",
        "channel_base",
        "channel_max",
        "num_fp16_res",
        "conv_clamp",
        "cmap_dim",
        "block_kwargs",
        "mapping_kwargs",
        "epilogue_kwargs",
    },
    "epilogue_kwargs": {"mbstd_group_size", "mbstd_num_channels", "activation"},
    "block_kwargs": {"resample_filter"},
}


def test_official_arguments_are_those_of_the_official_constructors(tmp_path):
    cfg = preset("small64")
    nets = [kind(**kwargs) for kind, kwargs in zip((Generator, Discriminator), network_kwargs(cfg, (3, 64, 64), 2))]
    foreign.randomise(*nets)
    tensors = {f"{k}.{n}": v for k, net in zip(("G_ema", "D"), nets) for n, v in net.state_dict().items()}
    meta = {"G": nets[0].init_kwargs, "D": nets[1].init_kwargs}
    file = save_safetensors(tmp_path / "x.safetensors", tensors, meta)
    convert_checkpoint(file, tmp_path / "x.pt", to="official")
    config = torch.load(tmp_path / "x.pt", weights_only=True)["config"]
    for kind, kwargs in config.items():
        assert kwargs.keys() <= OFFICIAL[kind], kwargs.keys() - OFFICIAL[kind]
        for key, value in kwargs.items():
            assert value is not None
            if key in OFFICIAL:
                assert value.keys() <= OFFICIAL[key], (key, value)
    same(load_checkpoint(tmp_path / "x.pt")[0], G_ema=nets[0], D=nets[1])
    half = nets[0].init_kwargs | {
        "synthesis_kwargs": nets[0].init_kwargs["synthesis_kwargs"] | {"low_precision": "bfloat16"}
    }
    file = save_safetensors(tmp_path / "y.safetensors", tensors, meta | {"G": half})
    with pytest.raises(CheckpointError, match="no bfloat16 .low_precision.*--to safetensors"):
        convert_checkpoint(file, tmp_path / "y.pt", to="official")


# ---- a start from another network


def test_a_start_names_the_settings_or_takes_what_fits(tmp_path):
    from hsr_nb.training.config import override
    from hsr_nb.training.state import build_state, transfer

    cfg = override(preset("tiny32"), **{"hsr.teacher": "none", "net.channel_base": 512, "net.channel_max": 16})
    source = build_state(override(cfg, **{"net.mapping_layers": 8, "net.use_noise": True}), (3, 16, 16))
    G, D = foreign.randomise(source.G, source.D, seed=5)
    file = put(tmp_path / "x.pkl", foreign.official(G=G, D=D, G_ema=G))
    s = build_state(cfg, (3, 32, 32))
    before = {k: v.clone() for k, v in s.G.state_dict().items()}
    with pytest.raises(CheckpointError) as e:
        transfer(s, file)
    for words in ("x.pkl", "--net.mapping-layers 8 (now 2)", "--data.resolution 16 (now 32)", "--net.use-noise"):
        assert words in str(e.value), (words, str(e.value))
    assert "--init-mode shared" in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in s.G.state_dict().items())
    with pytest.warns(UserWarning, match="fresh: mapping, .*left behind: mapping"):
        transfer(s, file, shared=True)
    after = s.G.state_dict()
    assert torch.equal(after["synthesis.b16.conv1.weight"], G.state_dict()["synthesis.b16.conv1.weight"])
    for fresh in ("synthesis.b32.conv1.weight", "mapping.fc0.weight"):
        assert torch.equal(after[fresh], before[fresh])
    assert torch.equal(s.D.b16.conv0.weight, D.b16.conv0.weight)
