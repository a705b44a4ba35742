"""StyleGAN1: the published network's answers, training that grows and resumes, files, editors, commands."""

import json
import math
import warnings
from pathlib import Path

import foreign
import pytest
import torch

from hsr_nb.editing.ganspace import GANSpace
from hsr_nb.editing.sefa import SeFa, style_affines
from hsr_nb.explore.session import Session
from hsr_nb.interop import CheckpointError, load_checkpoint, load_generator
from hsr_nb.interop.convert import convert_checkpoint
from hsr_nb.interop.export import draw_onnx, draw_pt2, parity
from hsr_nb.interop.safetensors import subset
from hsr_nb.nets import Generator, StyleGAN1Discriminator, StyleGAN1Generator
from hsr_nb.training import override, preset, read_metrics, train
from hsr_nb.training.losses import r1_penalty

ORACLE = json.loads((Path(__file__).parent / "files/stylegan1.json").read_text())
CASES = {case["case"]: case for case in ORACLE["cases"]}


def formula(shape, phase, scale=1.0):
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return scale * torch.sin(0.37 * k + 0.011 * k**2 + phase).reshape(tuple(shape))


def close(found, want, rtol=1e-5):
    want = torch.tensor(want, dtype=torch.float64)
    assert torch.allclose(found.detach().double().reshape(want.shape), want, rtol=rtol, atol=1e-9), (found, want)


def oracle_generator(c_dim=0):
    G = StyleGAN1Generator(
        8,
        c_dim,
        8,
        16,
        mapping_kwargs=dict(num_layers=3, layer_features=10),
        synthesis_kwargs=dict(channel_base=64, channel_max=8, growing=True),
    ).double()
    state = G.state_dict()

    def put(name, phase, scale=1.0, plus=0.0):
        state[name] = plus + formula(state[name].shape, phase, scale)

    for j in range(3):
        put(f"mapping.fc{j}.weight", 1 + j, 100)
        put(f"mapping.fc{j}.bias", 2 + j, 20)
    put("mapping.w_avg", 0.25, 0.1)
    if c_dim:
        put("mapping.label", 0.5)
    put("synthesis.b4.const", 5, 0.5, plus=1)
    for i, r in enumerate((4, 8, 16)):
        put(f"synthesis.b{r}.torgb.weight", 0.7 * i + 7)
        put(f"synthesis.b{r}.torgb.bias", 0.8 * i + 8, 0.3)
        for k in (0, 1):
            layer, at = f"synthesis.b{r}.conv{k}", 2 * i + k
            put(f"{layer}.affine.weight", 0.1 * at)
            put(f"{layer}.affine.bias", 0.2 * at + 1, 0.3)
            put(f"{layer}.noise_strength", 0.3 * at + 2, 0.2)
            put(f"{layer}.noise_const", 0.4 * at + 3)
            put(f"{layer}.bias", 0.5 * at + 4, 0.3)
            if at:
                put(f"{layer}.weight", 0.6 * at + 6)
    G.load_state_dict(state)
    return G.eval()


def oracle_discriminator(c_dim=0):
    how = dict(channel_base=64, channel_max=8, growing=True, epilogue_kwargs=dict(mbstd_group_size=2))
    D = StyleGAN1Discriminator(c_dim, 16, **how).double()
    state = D.state_dict()
    layers = ["b16.conv0", "b16.conv1", "b8.conv0", "b8.conv1", "b4.conv", "b4.fc", "b4.out"]
    for i, r in enumerate((16, 8, 4)):
        state[f"b{r}.fromrgb.weight"] = formula(state[f"b{r}.fromrgb.weight"].shape, 0.9 * i + 1)
        state[f"b{r}.fromrgb.bias"] = formula(state[f"b{r}.fromrgb.bias"].shape, 0.9 * i + 2, 0.3)
    for n, layer in enumerate(layers):
        state[f"{layer}.weight"] = formula(state[f"{layer}.weight"].shape, 0.6 * n + 1)
        state[f"{layer}.bias"] = formula(state[f"{layer}.bias"].shape, 0.6 * n + 2, 0.3)
    D.load_state_dict(state)
    return D


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_the_generator_answers_as_the_published_one(name, impl):
    case = CASES[name]
    labels = torch.eye(3, dtype=torch.float64)[[0, 2]] if name == "label" else None
    G = oracle_generator(3 if name == "label" else 0)
    G.synthesis.grow(case["lod"])
    w = G.mapping(formula((2, 8), 0.7, 1.5), labels)
    close(w[:, 0], case["w"])
    one = w[:, 0].detach().requires_grad_()
    img = G.synthesis(one[:, None].repeat(1, 6, 1), noise_mode="const", impl=impl)
    close(img.mean(), case["image_mean"])
    close(img.std(correction=0), case["image_std"])
    close(img[:, :, 5, 6], case["at_5_6"])
    corners = [img[0, 0, 0, 0], img[0, 1, 0, 15], img[1, 2, 15, 0], img[1, 0, 15, 15]]
    close(torch.stack(corners), case["corners"])
    (g,) = torch.autograd.grad((img * formula(img.shape, 0.3)).sum(), one)
    close(g, case["gradient_w"])
    if "truncated_psi_0_7_cutoff_2_at_5_6" in case:
        ws = G.mapping(formula((2, 8), 0.7, 1.5), labels, truncation_psi=0.7, truncation_cutoff=2)
        img = G.synthesis(ws, noise_mode="const", impl=impl)
        close(img[:, :, 5, 6], case["truncated_psi_0_7_cutoff_2_at_5_6"])


@pytest.mark.parametrize("name", CASES)
def test_the_discriminator_answers_as_the_published_one(name):
    case = CASES[name]
    conditional = name == "label"
    D = oracle_discriminator(3 if conditional else 0)
    D.grow(case["lod"])
    labels = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]] if conditional else None
    real = formula((4, 3, 16, 16), 1.1)
    penalty, logits = r1_penalty(D, real, labels, lambda x: x)
    close(logits, case["logits"])
    close(penalty, case["r1_per_image"])


# ---- training

GROWS = {
    "data.path": "digits",
    "data.resolution": 32,
    "net.channel_max": 16,
    "net.z_dim": 16,
    "net.w_dim": 16,
    "net.use_noise": True,
    "net.grow_kimg": 0.016,  # 16² fades in from image 16 to 32, 32² from 48 to 64
    "batch": 8,
    "tick_kimg": 0.032,
    "snapshot_kimg": 1000,
    "device": "cpu",
}


def config(folder, **changes):
    return override(preset("tiny32v1"), **GROWS | {"run_dir": str(folder)} | changes)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    "A run through all resolutions."
    return train(config(tmp_path_factory.mktemp("grown") / "run", kimg=0.08), progress=False)


def test_a_run_that_stops_while_growing_goes_on_bit_for_bit(grown, tmp_path):
    "Stopped while a resolution fades in, while one is held, and at the very image where one begins."
    lods = {}
    for kimg in (0.024, 0.032, 0.04, 0.08):
        cfg = config(tmp_path / "run", kimg=kimg)
        state = load_checkpoint(train(cfg, progress=False))[0]
        lods[kimg] = [state[k].item() for k in ("G.synthesis.lod", "G_ema.synthesis.lod", "D.lod")]
    assert lods == {0.024: [2, 2, 2], 0.032: [1.5] * 3, 0.04: [1, 1, 1], 0.08: [0, 0, 0]}  # of the last step
    whole = load_checkpoint(grown)[0]
    assert whole.keys() == state.keys() and all(torch.equal(whole[k], state[k]) for k in whole)
    rows = [{k: v for k, v in r.items() if not k.startswith("sec")} for r in read_metrics(tmp_path / "run")]
    assert rows[-1]["nimg"] == 80 and all(math.isfinite(v) for row in rows for v in row.values())


def test_adam_forgets_at_each_new_resolution_and_takes_one_step_a_step(grown):
    "The last resolution began with the step after image 56: three steps, R1 included in those of D."
    state = load_checkpoint(grown)[0]
    steps = {k.partition(".")[0]: v.item() for k, v in state.items() if k.endswith("conv1.weight.step")}
    assert steps == {"opt_G": 3, "opt_D": 3}
    row = read_metrics(grown)[-1]
    assert row["r1"] > 0 and not any(k.startswith("pl/p") for k in row)


def test_style_mixing_stays_within_what_has_grown(tmp_path, monkeypatch):
    import hsr_nb.training.loop as loop

    seen = []
    draw = loop.draw_latents
    monkeypatch.setattr(loop, "draw_latents", lambda *a: seen.append(a[2]) or draw(*a))
    train(config(tmp_path / "run", kimg=0.064), progress=False)
    assert sorted(set(seen)) == [4, 6, 8]


def test_a_network_at_full_size_trains_with_hsr_and_labels(tmp_path):
    changes = {"net.grow_kimg": 0, "data.labels": True, "hsr.teacher": "synthfaces-tiny", "hsr.start_kimg": 0.008}
    lazy = {"loss.lazy": True, "loss.pl_weight": 2.0, "loss.pl_interval": 2, "hsr.prefit_kimg": 0.016}
    few = {"hsr.head_hidden": 32, "hsr.interval": 1, "kimg": 0.024}
    folder = train(config(tmp_path / "run", **changes, **lazy, **few), progress=False)
    state, meta = load_checkpoint(folder)
    assert "G.synthesis.lod" not in state and meta["G"]["synthesis_kwargs"]["growing"] is False
    assert read_metrics(folder)[-1]["loss/hsr8"] > 0
    assert meta["D"]["c_dim"] == 10 and meta["D"]["architecture"] == "stylegan1"


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"net.architecture": "stylegan3"}, "must be stylegan2 or stylegan1"),
        ({"net.architecture": "stylegan2"}, "do not grow"),
        ({"net.grow_kimg": -1}, "at least 0"),
        ({"compile": "on"}, "not compiled"),
        ({"loss.pl_weight": 2.0}, "loss.lazy is off"),
        ({"hsr.teacher": "synthfaces-tiny", "hsr.start_kimg": 0.01}, "grown them at 0.064 kimg"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        train(config(tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_start_from_the_other_architecture_names_the_setting(grown, tmp_path):
    with pytest.raises(CheckpointError, match="--net.architecture stylegan1"):
        other = {"net.architecture": "stylegan2", "net.grow_kimg": 0, "loss.lazy": True}
        train(config(tmp_path / "run", init_from=str(grown), kimg=0.1, **other), progress=False)


# ---- files


def picture(G, c=None):
    z = torch.randn(2, G.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return G(z, c, truncation_psi=0.7, noise_mode="const")


def pair(resolution=32, growing=True, c_dim=0):
    few = dict(channel_base=8 * resolution, channel_max=16, growing=growing)
    G = StyleGAN1Generator(16, c_dim, 16, resolution, 3, dict(num_layers=2), few)
    D = StyleGAN1Discriminator(c_dim, resolution, 3, **few)
    lod = G.state_dict().get("synthesis.lod")
    foreign.randomise(G, D)
    if lod is not None:
        G.synthesis.grow(0.3)
        D.grow(0.3)
    return G.eval(), D.eval()


def test_a_round_trip_through_every_format_that_has_a_place(grown, tmp_path):
    G = load_generator(grown)
    assert type(G) is StyleGAN1Generator and isinstance(G, Generator) and G.synthesis.detail == 0
    convert_checkpoint(grown, tmp_path / "a.safetensors")
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", only="generator")
    assert torch.equal(picture(load_generator(tmp_path / "b.safetensors")), picture(G))
    bare = {f"G_ema.{k}": v for k, v in G.state_dict().items()}
    bare |= {f"D.{k}": v for k, v in subset(load_checkpoint(grown)[0], "D").items()}
    torch.save({part: subset(bare, part) for part in ("G_ema", "D")}, tmp_path / "bare.pt")  # no description
    tensors, meta = load_checkpoint(tmp_path / "bare.pt")
    assert torch.equal(picture(load_generator(tmp_path / "bare.pt")), picture(G))
    assert meta["D"]["growing"] and meta["D"]["img_channels"] == 1
    for to in ("official", "rosinality"):
        with pytest.raises(CheckpointError, match=f"{to} layout has no StyleGAN1"):
            convert_checkpoint(grown, tmp_path / "x", to=to)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("suffix", [pytest.param("pt2", marks=pytest.mark.slow), "onnx"])
def test_the_exported_graph_draws_the_same(grown, suffix, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    convert_checkpoint(grown, tmp_path / f"g.{suffix}")
    draw = (draw_onnx if suffix == "onnx" else draw_pt2)(tmp_path / f"g.{suffix}")
    assert parity(load_generator(grown), draw) < 1e-4


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("growing,resolution,c_dim", [(True, 128, 0), (False, 32, 0), (True, 16, 3)])
def test_files_of_the_published_code(protocol, growing, resolution, c_dim, tmp_path):
    G, D = pair(resolution, growing, c_dim)
    file = tmp_path / "karras2019stylegan.pkl"
    file.write_bytes(foreign.first_tensorflow(G, D, protocol))
    with pytest.raises(CheckpointError, match="tensorflow=True"):
        load_generator(file)
    tensors, meta = load_checkpoint(file, tensorflow=True)
    for key, net in (("G_ema", G), ("G", G), ("D", D)):
        state, want = subset(tensors, key), net.state_dict()
        assert state.keys() == want.keys() and all(torch.equal(state[k], want[k]) for k in want), key
    read = load_generator(file, tensorflow=True)
    label = torch.eye(3)[[0, 2]] if c_dim else None
    assert torch.equal(picture(read, label), picture(G, label))
    assert read.synthesis.detail == pytest.approx(0.3 if growing else 0) and meta["D"]["growing"] is growing
    convert_checkpoint(file, tmp_path / "ours.safetensors", tensorflow=True)
    assert torch.equal(picture(load_generator(tmp_path / "ours.safetensors"), label), picture(G, label))


def test_files_that_do_not_map_say_why(tmp_path):
    G, D = pair()
    file = tmp_path / "x.pkl"
    for how, said in (
        (dict(g_said=dict(blur_filter=[1, 3, 3, 1])), r"another blur_filter than \[1, 2, 1\]"),
        (dict(g_said=dict(use_instance_norm=False)), "another use_instance_norm than True"),
        (dict(version=1), "version 1"),
    ):
        file.write_bytes(foreign.first_tensorflow(G, D, **how))
        with pytest.raises(CheckpointError, match=said):
            load_generator(file, tensorflow=True)
    data = foreign.first_tensorflow(G, D)
    file.write_bytes(data.replace(b"StyleMod", b"StyleMud"))
    with pytest.raises(CheckpointError, match="StyleMud"):
        load_generator(file, tensorflow=True)
    assert not Path("executed").exists()


# ---- what works with any generator


def test_editors_and_the_explorer_take_it(grown):
    G = load_generator(grown)
    assert [a.weight.shape[1] for a in style_affines(G)] == [16] * G.num_ws
    sefa, pca = SeFa(components=3).fit(G), GANSpace(3, samples=2000).fit(G)
    ws = G.mapping(torch.randn(2, 16))
    for editor, name in ((sefa, "sefa 1"), (pca, "pca 1")):
        moved = editor.edit(ws, name, 3.0, native=True)
        assert moved.shape == ws.shape and not torch.equal(G.synthesis(moved), G.synthesis(ws))
    session = Session(grown, None, components=2, samples=500, judge=None)
    assert list(session.ms["A"]) == [32]  # there is no cheaper preview


def test_generate_and_eval(grown, tmp_path, capsys):
    from hsr_nb.explore.generate import main as generate
    from hsr_nb.studies.evaluate import main as evaluate

    assert generate([str(grown), "--seeds", "0-3", "--out", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures").rglob("*.png"))) >= 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = ["--scores", "ppl", "kid", "--n", "64", "--reals", "64", "--pairs", "8", "--out", str(tmp_path / "r")]
        assert evaluate([str(grown), *asked]) == 0, capsys.readouterr()


def test_mid_growth_generators_draw_full_size_pictures():
    G, _ = pair(32)
    for lod, size in ((3, 4), (2, 8), (1, 16), (0, 32)):
        G.synthesis.grow(lod)
        img = picture(G)
        repeats = 32 // size
        small = img[:, :, ::repeats, ::repeats]
        again = small.repeat_interleave(repeats, 2).repeat_interleave(repeats, 3)
        assert img.shape == (2, 3, 32, 32) and torch.equal(again, img)


# ---- the experiment

ROOT = Path(__file__).parents[1]


def test_both_architectures_are_asked_for_the_same_budget():
    from hsr_nb.studies.generations import Generations, generation_jobs

    jobs = generation_jobs(Generations(seeds=(0, 1), kimg=24))
    assert len({job["run_dir"] for job in jobs}) == 4 and {job["images"] for job in jobs} == {24000}
    cfgs = [override(preset(j["parameters"]["preset"]), **j["parameters"]["settings"]) for j in jobs[:2]]
    alike = ("z_dim", "w_dim", "mapping_layers", "channel_base", "channel_max", "use_noise", "mbstd_group")
    assert all(getattr(cfgs[0].net, k) == getattr(cfgs[1].net, k) for k in alike)
    assert [c.net.architecture for c in cfgs] == ["stylegan2", "stylegan1"]
    assert cfgs[0].data == cfgs[1].data and cfgs[0].batch == cfgs[1].batch
    assert all(c.hsr.teacher == "none" for c in cfgs)


@pytest.mark.slow
def test_the_page_trains_scores_and_draws(tmp_path):
    "One run is measured, the other network is trained for the pictures alone, and the page tells them apart."
    papermill = pytest.importorskip("papermill")
    few = dict(kimg=0.064, brief_kimg=0.064, n=260, pairs=4, paths=4, draws=4, seeds=[0])
    places = dict(folder=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    papermill.execute_notebook(
        ROOT / "nbs/experiments/stylegan1.ipynb",
        tmp_path / "out.ipynb",
        dict(run=True, cells=1, **few, **places),
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    (file,) = (tmp_path / "results").glob("stylegan1-*.json")
    (row,) = json.loads(file.read_text())["rows"]
    assert row["arm"] == "StyleGAN2" and any(k.startswith("fid[") for k in row)
    of_levels = [values for level, values in row["shares"].items() if level != "kimg"]
    assert len(of_levels) == 4 and row["shares"]["kimg"][-1] == 0.064
    assert all(sum(at_time) == pytest.approx(1, abs=1e-3) for at_time in zip(*of_levels))
    text = (tmp_path / "out.ipynb").read_text()
    assert "not measured yet" in text and (tmp_path / "runs/brief/stylegan1/checkpoints").is_dir()
