"""Pictures from seeds: the field's convention, files that are whole or absent, one sentence for all that is wrong."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hsr_nb.base.pictures import image_grid, to_uint8
from hsr_nb.explore import edit
from hsr_nb.explore.generate import GenerateConfig, generate, main, parse_seeds, style_mixing_grid
from hsr_nb.interop import save_safetensors
from hsr_nb.inversion.result import Inversion, noise_names, synthesis
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import draw, generator_hash, images_for_seeds, ws_for_seeds, z_from_seed


def network(c_dim=0, channels=3, seed=0, **kw):
    torch.manual_seed(seed)
    G = (
        Generator(
            z_dim=8,
            c_dim=c_dim,
            w_dim=8,
            img_resolution=16,
            img_channels=channels,
            mapping_kwargs=dict(num_layers=2),
            synthesis_kwargs=dict(channel_base=128, channel_max=16),
            **kw,
        )
        .eval()
        .requires_grad_(False)
    )
    G.mapping.w_avg.normal_()
    for name, m in G.synthesis.named_modules():
        if name.endswith(("conv0", "conv1")):
            m.noise_strength.fill_(0.2)
    for level in G.synthesis.levels:
        getattr(G.synthesis, f"b{level}").torgb.weight.mul_(0.2)
    return G


def save(G, path, **extra):
    return save_safetensors(path, {f"G_ema.{k}": v for k, v in G.state_dict().items()} | extra, {"G": G.init_kwargs})


@pytest.fixture(scope="module")
def G():
    return network()


@pytest.fixture
def file(G, tmp_path):
    return str(save(G, tmp_path / "net.safetensors"))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---- the convention


def test_z_is_numpys_and_independent_of_the_batch(G):
    assert torch.equal(z_from_seed(85, 8), torch.from_numpy(np.random.RandomState(85).randn(1, 8)).float())
    assert not torch.equal(z_from_seed(2**32 - 1, 8), z_from_seed(0, 8))
    many = ws_for_seeds(G, [3, 85, 3])
    assert torch.equal(many[0], many[2]) and torch.allclose(many[1:2], ws_for_seeds(G, [85]), atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="4294967295"):
        z_from_seed(seed, 8)


@pytest.mark.parametrize(
    "text, found",
    [("7", [7]), ("0-3", [0, 1, 2, 3]), (" 1 - 2 ,9", [1, 2, 9]), ("5-5", [5]), ("3,3,1", [3, 3, 1]), ("007", [7])],
)
def test_seeds(text, found):
    assert parse_seeds(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        "1..3",
        "3-1",
        "-3",
        "1-2-3",
        "1.0",
        "a",
        "١",
        "²",
        "0-4294967296",
        "0-1000000",
        "1e3",
        "0x1",
        "--",
        "1 2",
    ],
)
def test_bad_seeds_are_named(text):
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


def test_images_are_those_of_the_generator(G):
    z = torch.cat([z_from_seed(s, 8) for s in (4, 2)])
    for psi, cutoff in ((1, None), (0.5, None), (0.7, 3), (-0.5, 0), (1.3, G.num_ws)):
        want = G(z, truncation_psi=psi, truncation_cutoff=cutoff, noise_mode="const")
        assert torch.allclose(images_for_seeds(G, [4, 2], psi, cutoff, batch=1), want, atol=1e-5)
    assert torch.allclose(images_for_seeds(G, iter([4, 2]), noise_mode="none"), G(z, noise_mode="none"), atol=1e-5)


def test_random_noise_belongs_to_the_seed_and_leaves_the_global_stream_alone(G):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = images_for_seeds(G, [5, 6, 7], noise_mode="random")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(images_for_seeds(G, [5, 6, 7], noise_mode="random"), a)
    assert torch.allclose(images_for_seeds(G, [7], noise_mode="random")[0], a[2], atol=1e-5)
    w = ws_for_seeds(G, [5, 5])
    same_w = draw(G, w, "random", [1, 2])
    assert not torch.allclose(same_w[0], same_w[1], atol=1e-2)  # one w, two noises
    assert not torch.allclose(a, images_for_seeds(G, [5, 6, 7]), atol=1e-2)
    with pytest.raises(ValueError):
        draw(G, w, "random", [1])  # a seed per picture


def test_classes():
    G = network(c_dim=3)
    assert torch.allclose(
        images_for_seeds(G, [1], class_index=2), G(z_from_seed(1, 8), torch.eye(3)[[2]], noise_mode="const"), atol=1e-5
    )
    assert not torch.allclose(
        images_for_seeds(G, [1], class_index=2), images_for_seeds(G, [1], class_index=0), atol=1e-2
    )
    for bad, text in ((None, "0 to 2"), (3, "classes 0 to 2"), (-1, "classes 0 to 2")):
        with pytest.raises(ValueError, match=text):
            images_for_seeds(G, [1], class_index=bad)
    with pytest.raises(ValueError, match="unconditional"):
        images_for_seeds(network(), [1], class_index=0)


@pytest.mark.parametrize(
    "wrong, text",
    [
        (dict(psi=float("inf")), "psi"),
        (dict(cutoff=-1), "cutoff"),
        (dict(cutoff=7), "0 to 6"),
        (dict(noise_mode="loud"), "noise_mode"),
        (dict(batch=0), "batch"),
        (dict(seeds=[]), "no seeds"),
    ],
)
def test_settings_that_mean_nothing(G, wrong, text):
    with pytest.raises(ValueError, match=text):
        images_for_seeds(G, **({"seeds": [0]} | wrong))


def test_no_mean_w_no_truncation(G):
    bare = network()
    del bare.mapping.w_avg
    assert torch.allclose(images_for_seeds(bare, [0]), images_for_seeds(G, [0]), atol=1e-5)
    with pytest.raises(ValueError, match="mean w"):
        images_for_seeds(bare, [0], psi=0.5)


def test_a_diverged_network_is_named():
    G = network()
    G.synthesis.b16.torgb.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        images_for_seeds(G, [0])


# ---- style mixing


@pytest.mark.parametrize("mode", ["const", "none"])
def test_mixing_grid_is_what_it_says(G, mode):
    rows, cols, layers, how = [0, 1], [10, 11, 12], [0, 1, 4], dict(psi=0.8, cutoff=4)
    grid = style_mixing_grid(G, rows, cols, layers, **how, noise_mode=mode, batch=4).unflatten(0, (3, 4))
    assert (grid[0, 0] == -1).all()
    assert torch.allclose(grid[0, 1:], images_for_seeds(G, cols, **how, noise_mode=mode), atol=1e-4)
    assert torch.allclose(grid[1:, 0], images_for_seeds(G, rows, **how, noise_mode=mode), atol=1e-4)
    for i, r in enumerate(rows):
        for j, c in enumerate(cols):
            w, source = ws_for_seeds(G, [r], **how), ws_for_seeds(G, [c], **how)
            w[:, layers] = source[:, layers]
            assert torch.allclose(grid[i + 1, j + 1], draw(G, w, mode)[0], atol=1e-4)


def test_mixing_with_random_noise_repeats_and_shows_its_sources(G):
    a, b = (style_mixing_grid(G, [0, 1], [2], [0], noise_mode="random") for _ in range(2))
    assert torch.equal(a, b) and torch.allclose(a[1], images_for_seeds(G, [2], noise_mode="random")[0], atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [dict(layers=[6]), dict(layers=[-1]), dict(layers=[]), dict(row_seeds=[]), dict(col_seeds=[])]
)
def test_mixing_refuses(G, wrong):
    with pytest.raises(ValueError):
        style_mixing_grid(G, **(dict(row_seeds=[0], col_seeds=[1], layers=[0]) | wrong))


# ---- files


def test_singles_sheet_and_mixing(G, file, tmp_path):
    done = generate(
        GenerateConfig(
            file,
            str(tmp_path / "a" / "b"),
            seeds="0-2,12345",
            files="both",
            cols=3,
            batch=3,
            mix_rows="0",
            mix_cols="1,2",
            mix_layers="0-1",
        )
    )
    assert [p.name for p in done] == [
        "seed0000.png",
        "seed0001.png",
        "seed0002.png",
        "seed12345.png",
        "sheet.png",
        "mixing.png",
    ]
    assert names(tmp_path / "a" / "b") == sorted(p.name for p in done)
    want = to_uint8(images_for_seeds(G, [0, 1, 2, 12345]))
    found = [np.asarray(Image.open(p)) for p in done]
    for x, y in zip(want, found):
        assert np.abs(x.permute(1, 2, 0).numpy().astype(int) - y).max() <= 1
    assert found[4].shape == (32, 48, 3) and found[5].shape == (32, 48, 3)
    assert (found[4][:16, 16:32] == found[1]).all() and (found[4][16:, 16:] == 0).all()
    recipe = json.loads(Image.open(done[3]).text["hsr_nb"])
    assert recipe == {
        "seed": 12345,
        "network": "net.safetensors",
        "psi": 1.0,
        "cutoff": None,
        "class_index": None,
        "noise_mode": "const",
    }
    assert json.loads(Image.open(done[5]).text["hsr_nb"])["layers"] == [0, 1]


def test_a_run_folder_gives_its_latest_checkpoint(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for n, seed in ((1000, 1), (2000, 2)):
        save(network(seed=seed), run / "checkpoints" / f"{n:09d}.safetensors", **{"D.x": torch.zeros(1)})
    (picture,) = generate(GenerateConfig(str(run), str(tmp_path / "out"), seeds="3"))
    assert (
        np.abs(
            np.asarray(Image.open(picture)).astype(int)
            - np.asarray(image_grid(images_for_seeds(network(seed=2), [3]))).astype(int)
        ).max()
        <= 1
    )


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(tmp_path, channels, mode):
    net = save(network(channels=channels, base_size=(4, 6)), tmp_path / "n.safetensors")
    (picture,) = generate(GenerateConfig(str(net), str(tmp_path / "out"), seeds="0"))
    assert Image.open(picture).mode == mode and Image.open(picture).size == (24, 16)


def test_more_channels_than_a_picture_has_are_announced(tmp_path):
    net = save(network(channels=5), tmp_path / "n.safetensors")
    with pytest.warns(UserWarning, match="5 channels"):
        generate(GenerateConfig(str(net), str(tmp_path / "out"), seeds="0"))


def an_inversion(G, **changes):
    "Two latents with noise maps of their own."
    ws = G.mapping(torch.randn(2, G.z_dim, generator=torch.Generator().manual_seed(0)))
    buffers = dict(G.synthesis.named_buffers())
    numbers = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(2, 1, *buffers[name].shape, generator=numbers) for name in noise_names(G)}
    plain = dict(space="w", steps=1, seed=0, losses=torch.zeros(1, 2), distances=torch.zeros(2), perceptual="none")
    plain |= dict(perceptual_sha256="0" * 64, generator_sha256=generator_hash(G), names=("ann.png", "bo.png"))
    return Inversion(ws, noise, **(plain | changes))


def test_what_was_found_is_drawn_with_its_noise(G, file, tmp_path):
    found = an_inversion(G)
    path = str(found.save(tmp_path / "inversion.safetensors"))
    done = generate(GenerateConfig(file, str(tmp_path / "out"), inversion=path, files="both", batch=1))
    assert [p.name for p in done] == ["found0000.png", "found0001.png", "sheet.png"]
    wanted = to_uint8(found.pictures(G))
    for picture, want in zip(done, wanted):
        assert np.abs(np.asarray(Image.open(picture)).astype(int) - want.permute(1, 2, 0).numpy()).max() <= 1
    assert json.loads(Image.open(done[1]).text["hsr_nb"])["pictures"] == ["ann.png", "bo.png"]
    other = str(an_inversion(G, generator_sha256="f" * 64).save(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="belongs to the generator ffffffffffff"):
        generate(GenerateConfig(file, str(tmp_path / "no"), inversion=other))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "beside",
    [dict(seeds="0"), dict(psi=0.7), dict(cutoff=2), dict(class_index=0), dict(noise_mode="none")]
    + [dict(mix_rows="0", mix_cols="1")],
)
def test_an_inversion_stands_alone(file, tmp_path, beside):
    with pytest.raises(ValueError, match=f"{next(iter(beside))} was given beside it"):
        generate(GenerateConfig(file, str(tmp_path), inversion="x", **beside))


def test_edits_are_drawn_with_the_noise_and_the_network_that_were_found(G):
    tuned = copy.deepcopy(G)
    with torch.no_grad():
        for parameter in tuned.synthesis.parameters():
            parameter.mul_(1.01)
    found = an_inversion(G, space="pti", generator=tuned)
    ws = torch.stack([found.ws, found.ws + 0.1, found.ws - 0.1], 1)
    drawn = edit._drawn(G, ws, 1, found)
    assert drawn.shape[:2] == (2, 3)
    for t in range(3):
        want = to_uint8(synthesis(tuned, ws[:, t], found.noise))
        assert (drawn[:, t].int() - want.int()).abs().max() <= 1


def test_a_disk_that_refuses_leaves_the_old_picture_whole(file, tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="file size limits need a Unix")
    out = tmp_path / "out"
    assert main([file, "--out", str(out), "--seeds", "0"]) == 0
    old = (out / "seed0000.png").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limit[1]))
    try:
        code = main([file, "--out", str(out), "--seeds", "0-3", "--psi", "0.5"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and str(out) in error
    assert names(out) == ["seed0000.png"] and (out / "seed0000.png").read_bytes() == old


# ---- the command


@pytest.mark.parametrize(
    "args, text",
    [
        (["--seeds", "3-1"], "backwards"),
        (["--seeds", ""], "cannot read"),
        (["--psi", "nan"], "psi"),
        (["--cutoff", "9"], "0 to 6"),
        (["--class-index", "0"], "unconditional"),
        (["--mix-rows", "1"], "mix_cols"),
        (["--mix-layers", "1"], "mix_rows"),
        (["--mix-rows", "1", "--mix-cols", "2", "--mix-layers", "4-6"], "layer 6"),
        (["--mix-rows", "1", "--mix-cols", "2", "--files", "both"], "need seeds"),
        (["--cols", "3"], "no sheet"),
        (["--batch", "0"], "batch"),
        (["--device", "toaster"], "toaster"),
        (["--device", "meta"], "meta"),
        (["--cols", "-1"], "cols"),
    ],
)
def test_bad_settings_say_one_sentence_and_write_nothing(file, tmp_path, capsys, args, text):
    assert main([file, "--out", str(tmp_path / "out"), *args]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("hsr_generate: ") and said.err.count("\n") == 1 and text in said.err and not said.out
    assert names(tmp_path) == ["net.safetensors"]


def test_bad_networks_say_one_sentence(tmp_path, capsys):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty").mkdir()
    save_safetensors(tmp_path / "other.safetensors", {"w": torch.zeros(1)}, {"kimg": 1})
    for name in ("missing", "text.safetensors", "empty", "other.safetensors"):
        assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and name in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder(file, tmp_path, capsys):
    (tmp_path / "f").write_text("mine")
    for out in ("f", "f/g"):
        assert main([file, "--out", str(tmp_path / out)]) == 2
        assert "cannot make the folder" in capsys.readouterr().err
    assert (tmp_path / "f").read_text() == "mine"


def test_tyro_is_named_when_missing(monkeypatch, capsys, file):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main([file]) == 2 and 'pip install "hsr_nb[cli]"' in capsys.readouterr().err


def test_the_command_in_a_shell(file, tmp_path):
    script = "import sys; from hsr_nb.explore.generate import main; sys.exit(main())"
    r = subprocess.run(
        [sys.executable, "-c", script, "net.safetensors", "--seeds", "0-3", "--files", "sheet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (r.returncode, r.stdout, r.stderr) == (0, "out: 1 picture (sheet.png)\n", "") and names(
        tmp_path / "out"
    ) == ["sheet.png"]


def test_a_choice_that_is_none_exits_with_2(file, tmp_path):
    assert main([file, "--out", str(tmp_path / "out"), "--files", "neither"]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_a_gpu_draws_the_same_pictures(G):
    H = network().to("cuda")
    assert torch.allclose(images_for_seeds(H, range(4), psi=0.7), images_for_seeds(G, range(4), psi=0.7), atol=2e-2)
    a, b = images_for_seeds(H, range(4), noise_mode="random"), images_for_seeds(H, [3], noise_mode="random")
    assert torch.allclose(a[3], b[0], atol=2e-2)
