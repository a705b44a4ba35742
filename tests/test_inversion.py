"Inversion beside the numbers of published code, and what it refuses."

import copy
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hsr_nb.base.errors import CheckpointError
from hsr_nb.data.synthfaces.dataset import SynthFaces
from hsr_nb.interop import load_generator
from hsr_nb.interop.safetensors import load_safetensors, save_safetensors
from hsr_nb.inversion import Tuning, encoder_training, invert, load_inversion
from hsr_nb.inversion.align import FRAMES, SYNTHFACES, Face, align, chosen, cut, mtcnn
from hsr_nb.inversion.command import InvertConfig, invert_files
from hsr_nb.inversion.encoder import load_encoder, new_encoder
from hsr_nb.inversion.encoder_training import Training, encoder_loss, free_layers, ready_encoder, train_encoder
from hsr_nb.inversion.pivotal import locality, moved, tune
from hsr_nb.inversion.projector import PROJECTIONS, Projection, Projector, drawn, go_on, search_state
from hsr_nb.inversion.queries import as_target
from hsr_nb.inversion.result import synthesis
from hsr_nb.inversion.schedules import exploration, learning_rate, noise_penalty, normalise_noise, w_statistics
from hsr_nb.inversion.ways import embedded_distance, run_search
from hsr_nb.nets import Generator


def filled() -> Generator:
    "The generator of 16 px whose every number follows from its name."
    sizes = dict(channel_base=128, channel_max=16)
    G = Generator(8, 0, 8, 16, 3, dict(num_layers=2), sizes).eval().requires_grad_(False)
    for name, tensor in G.state_dict().items():
        if name.endswith("resample_filter"):
            continue
        v = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        if name.endswith("affine.bias"):
            v = 1 + 0.1 * v
        elif name.endswith(("bias", "noise_strength", "w_avg")):
            v = 0.1 * v
        elif name.startswith("mapping") and ".fc" in name and name.endswith("weight"):
            v = 100 * v
        tensor.copy_(torch.from_numpy(np.asarray(v)).float())
    return G


class Linear:
    "A distance whose features are linear in a reduced picture."

    name = "linear"
    sha256 = "0" * 64

    def features(self, x):
        i = torch.arange(48.0)[:, None]
        j = torch.arange(20.0)[None]
        matrix = (0.9 * i + 1.7 * j + 0.23 * i * j).sin() / 50
        return F.avg_pool2d((x + 1) * 127.5, 4).flatten(1) @ matrix

    def toward(self, target):
        fixed = self.features(target)
        return lambda x: (self.features(x) - fixed).square().sum(1)


class Pixels:
    "The mean absolute difference of pixels."

    name = "pixels"
    sha256 = "0" * 64

    def toward(self, target):
        return lambda x: (x - target).abs().mean((1, 2, 3))


def maps(size):
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return (1.2 * (0.7 * y + 1.3 * x + 0.05 * y * x).sin() + 0.1)[None, None]


# ---- published numbers


@pytest.mark.parametrize(
    "step, rate, noise",
    [(0, 0.0, 0.05), (1, 0.002, 0.049866756), (10, 0.02, 0.048675556), (25, 0.05, 0.046722222), (50, 0.1, 0.043555556)]
    + [(250, 0.1, 0.022222222), (500, 0.1, 0.0055555556), (750, 0.1, 0.0), (875, 0.05, 0.0), (950, 0.0095491503, 0.0)],
)
def test_the_schedules(step, rate, noise):
    assert learning_rate(step / 1000) == pytest.approx(rate, rel=1e-6)
    assert exploration(step / 1000) == pytest.approx(noise, rel=1e-6)


def test_the_noise_penalty_and_its_gradient():
    alone = {4: 0.12123851, 8: 0.22030137, 16: 0.14627059, 32: 0.094801337}
    gradients = {4: -0.009649233, 8: -0.003224747, 16: -0.001796846, 32: -0.0001191785}
    for size, value in alone.items():
        n = maps(size).requires_grad_()
        penalty = noise_penalty([n])
        assert float(penalty.detach()) == pytest.approx(value, rel=1e-5)
        penalty.sum().backward()
        assert float(n.grad[0, 0, 1, 2]) == pytest.approx(gradients[size], rel=1e-4)
    assert float(noise_penalty([maps(size) for size in alone])) == pytest.approx(0.58261186, rel=1e-5)


def test_noise_is_normalised():
    n = maps(16)
    normalise_noise([n])
    row = [1.214449, -0.5704799, -1.366072, 0.2271145, 1.406674, 0.09776653, -1.397245, -0.4486465]
    assert torch.allclose(n[0, 0, 3, :8], torch.tensor(row), atol=1e-5)


def test_a_whole_run_is_theirs():
    G = filled()
    calls = []

    def draw(seed, name, shape):
        calls.append(name)
        count = int(np.prod(shape))
        return (1.3 * (1.7 * torch.arange(count) + 0.9 * len(calls)).cos()).reshape(shape)

    c, y, x = torch.meshgrid(torch.arange(3.0), torch.arange(16.0), torch.arange(16.0), indexing="ij")
    target = (127.5 + 100 * (1.1 * c + 0.4 * y - 0.3 * x).sin())[None] / 127.5 - 1
    search = Projector(G, target, Linear(), Projection(steps=40, samples=500), draw=draw)
    mean = [-0.05934612, 0.09023502, 0.1598689, -0.2099219, 0.05335993, 0.2716759, 1.001439, 0.7421961]
    assert torch.allclose(search.w[0, 0], torch.tensor(mean), atol=1e-6)
    assert search.w_std == pytest.approx(2.220348, rel=1e-6)
    after = {
        1: mean,
        5: [0.2779886, 0.4340742, 0.2560675, -0.5535423, 0.0990286, 0.6083891, 0.8095046, 1.060618],
        20: [1.39379, 1.094283, -0.03232256, -0.8524946, 0.1745871, 1.355091, 0.3888177, 0.810867],
    }
    for step in range(1, 41):
        search.step()
        if step in after:
            assert torch.allclose(search.ws[0, 0], torch.tensor(after[step]), atol=2e-5), step
    assert calls[:5] == [
        f"{name}.noise_const" for name in ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")
    ]
    assert search.done and torch.equal(search.ws[0, 0], search.ws[0, -1])
    for noise in search.noise.values():
        assert noise.mean().abs() < 1e-6 and abs(float(noise.detach().square().mean()) - 1) < 1e-5


def test_the_locality_regulariser():
    G = filled()
    tuned = copy.deepcopy(G)
    for block in (tuned.synthesis.b4, tuned.synthesis.b8, tuned.synthesis.b16):
        block.torgb.weight.data *= 1.05
    pivot = (0.5 * (0.9 * torch.arange(8.0)).sin()).expand(G.num_ws, -1)
    z = (1.3 * torch.arange(16.0) + 0.2).cos().reshape(2, 8)
    ws = moved(pivot, G.mapping(z, truncation_psi=0.5), 30)
    first = [3.229402, -2.445414, -3.930977, -0.8819695, 4.072243, 7.983545, 2.940705, 3.093843]
    assert torch.allclose(ws[0, 0], torch.tensor(first), atol=1e-4)
    assert torch.allclose((ws - pivot).flatten(1).norm(dim=1), torch.tensor(30.0), atol=1e-4)
    assert 0.1 * float(locality(G, tuned, ws[:1], Pixels())) == pytest.approx(0.0067271357, rel=1e-4)


# ---- ours


@pytest.fixture(scope="module")
def faces():
    G = load_generator("synthfaces-hsr")
    ws = G.mapping(torch.randn(4, G.z_dim, generator=torch.Generator().manual_seed(3)))
    return G, ws, synthesis(G, ws, None)


def test_generated_pictures_are_found_again(faces):
    G, ws, pictures = faces
    found = invert(G, pictures, "w+", steps=120)
    judge = embedded_distance()
    two_faces = judge(pictures, pictures.roll(1, 0)).mean()
    assert found.distances.mean() < two_faces / 10
    assert torch.allclose(judge(found.pictures(G), pictures), found.distances, atol=0.02)
    assert (found.losses[-1] < found.losses[0]).all()
    again = invert(G, pictures, "w+", steps=120)
    assert torch.equal(again.ws, found.ws)


def test_a_picture_does_not_depend_on_its_company(faces):
    G, _, pictures = faces
    asked = Projection(steps=15, samples=100)
    together = Projector(G, pictures[:2], embedded_distance(), asked)
    alone = Projector(G, pictures[:1], embedded_distance(), asked)
    for search in (together, alone):
        while not search.done:
            search.step()
    assert torch.allclose(together.ws[:1], alone.ws, atol=1e-3)
    assert torch.equal(drawn(0, 7, (2, 3))[:1], drawn(0, 7, (1, 3)))


@pytest.mark.parametrize("space", PROJECTIONS)
def test_a_stored_search_goes_on_to_the_bit(space):
    G = filled()
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked = replace(PROJECTIONS[space], steps=12, samples=50)

    def fresh():
        return Projector(G, target, Linear(), asked)

    straight, first, second = fresh(), fresh(), fresh()
    while not straight.done:
        straight.step()
    for _ in range(7):
        first.step()
    go_on(second, search_state(first))
    while not second.done:
        second.step()
    assert torch.equal(second.ws, straight.ws)
    assert all(torch.equal(second.noise[name], straight.noise[name]) for name in straight.noise)
    with pytest.raises(ValueError, match="another one"):
        go_on(fresh(), {"w": straight.w})


def test_a_search_that_is_interrupted_goes_on_from_its_file(tmp_path):
    G = filled()
    target = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = tmp_path / "search.safetensors"

    def interrupt(step, pictures):
        if step == 5:
            raise KeyboardInterrupt

    how = dict(space="w", steps=9, perceptual=Linear(), kept=kept)
    with pytest.raises(KeyboardInterrupt):
        invert(G, target, watch=interrupt, **how)
    with pytest.raises(ValueError, match="other pictures or by other settings"):
        invert(G, -target, **how)
    steps = []
    found = invert(G, target, watch=lambda step, pictures: steps.append(step), **how)
    assert steps == [6, 7, 8, 9] and not kept.exists()
    assert torch.equal(found.ws, invert(G, target, "w", 9, perceptual=Linear()).ws)


def test_tuning_that_is_interrupted_keeps_the_search(tmp_path):
    G = filled()
    target = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = tmp_path / "search.safetensors"

    def interrupt(step, pictures):
        if step == 4:  # the first one of tuning
            raise KeyboardInterrupt

    how = dict(space="pti", steps=3, perceptual=Linear(), kept=kept, tuning=Tuning(steps=2))
    with pytest.raises(KeyboardInterrupt):
        invert(G, target, watch=interrupt, **how)
    steps = []
    invert(G, target, watch=lambda step, pictures: steps.append(step), **how)
    assert min(steps) >= 3 and not kept.exists()  # nothing was searched for again


def test_a_search_that_is_near_enough_stops():
    G = filled()
    search = Projector(G, torch.zeros(1, 3, 16, 16), Linear(), Projection(samples=50, enough=1e9))
    search.step()
    assert search.done and len(search.losses) == 1


def test_tuning_stops_before_a_step_that_is_not_needed(faces):
    G, ws, pictures = faces
    tuned, losses, apart = tune(G, pictures, ws, {}, embedded_distance(), Tuning(enough=1.0))
    assert len(losses) == 0 and apart.max() < 1e-3
    for name, tensor in G.state_dict().items():
        assert torch.equal(tensor, tuned.state_dict()[name])


def test_a_tuned_generator_is_an_ordinary_checkpoint(faces, tmp_path):
    G, _, pictures = faces
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    found = invert(G, -pictures[:2], "pti", steps=3, tuning=Tuning(steps=3, locality=0.1), names=("a.png", "b.png"))
    assert all(torch.equal(before[name], tensor) for name, tensor in G.state_dict().items())
    file = found.save(tmp_path / "x.safetensors")
    again = load_inversion(file, G)
    tuned = load_generator(file)
    assert torch.allclose(again.pictures(G), synthesis(tuned, again.ws, again.noise), atol=1e-5)
    assert again.names == ("a.png", "b.png") and again.steps == 6 and again.losses.shape == (6, 2)
    assert load_safetensors(file)[1]["inversion"]["generator_sha256"] == found.generator_sha256
    with pytest.raises(ValueError, match="belongs to the generator"):
        load_inversion(file, load_generator("synthfaces-baseline"))


def test_noise_maps_come_back(tmp_path):
    G = filled()
    found = invert(G, torch.zeros(1, 3, 16, 16), "w", steps=2, perceptual=Linear())
    again = load_inversion(found.save(tmp_path / "x.safetensors"), G)
    assert set(again.noise) == set(found.noise) and len(found.noise) == 5
    assert torch.equal(again.pictures(G), found.pictures(G))
    assert not torch.equal(again.pictures(G), G.synthesis(again.ws, noise_mode="const"))


def test_w_statistics_of_a_class():
    G = Generator(8, 3, 8, 16, 3, dict(num_layers=2), dict(channel_base=128, channel_max=16)).eval()
    means = [w_statistics(G, 100, label)[0] for label in torch.eye(3)]
    assert not torch.allclose(means[0], means[1])


@pytest.mark.parametrize(
    "change, what",
    [
        (dict(ws=torch.zeros(2, 3)), "ws is a table"),
        (dict(ws=torch.full((1, 6, 8), float("nan"))), "not finite"),
        (dict(ws=torch.zeros(1, 5, 8)), "for this generator"),
        (dict(losses=torch.zeros(2, 7)), "same pictures"),
        ({"noise.b4.conv1.noise_const": torch.zeros(1, 1, 8, 8)}, "no noise map"),
        ({"noise.b4.conv1.noise_const": torch.zeros(2, 1, 4, 4)}, "one map of finite numbers"),
        (dict(about=[]), "no entry inversion"),
        (dict(about={"space": "z"}), "space is one of"),
        (dict(about={"steps": 2.5}), "steps is a whole number"),
        (dict(about={"names": [1]}), "names is a list"),
        (dict(about={"perceptual": "x" * 400}), "perceptual is a text"),
    ],
)
def test_a_file_that_holds_no_inversion(tmp_path, change, what):
    G = filled()
    file = invert(G, torch.zeros(1, 3, 16, 16), "w", steps=2, perceptual=Linear()).save(tmp_path / "x.safetensors")
    tensors, meta = load_safetensors(file)
    about = change.pop("about", {})
    meta["inversion"] = meta["inversion"] | about if isinstance(about, dict) else about
    save_safetensors(file, tensors | change, meta)
    with pytest.raises(ValueError, match=what) as refused:
        load_inversion(file, G)
    assert str(file) in str(refused.value)


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointError):
        load_inversion(tmp_path / "x.safetensors", filled())
    (tmp_path / "x.safetensors").write_text(json.dumps({}))
    with pytest.raises(CheckpointError):
        load_inversion(tmp_path / "x.safetensors", filled())


# ---- faces in their place


def a_face(angle=0.0, scale=1.0, at=(0.0, 0.0)):
    "Five points of SynthFaces, in pixels of 100, turned and moved."
    z = (SYNTHFACES * 100) @ [1, 1j] * scale * np.exp(1j * np.deg2rad(angle)) + complex(*at)
    return np.stack([z.real, z.imag], 1)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("angle, scale, at", [(0, 1, (0, 0)), (30, 2.5, (40, -7)), (-170, 0.3, (5, 5))])
def test_a_frame_turns_with_the_face(frame, angle, scale, at):
    straight = FRAMES[frame](a_face()) @ [1, 1j]
    turned = FRAMES[frame](a_face(angle, scale, at)) @ [1, 1j]
    assert np.allclose(turned, straight * scale * np.exp(1j * np.deg2rad(angle)) + complex(*at))
    sides = np.abs(np.diff(np.append(straight, straight[0])))
    assert np.allclose(sides, sides[0])


def test_what_lies_beyond_the_picture_repeats_its_edge():
    image = Image.new("RGB", (60, 40), (200, 10, 10))
    image.paste((10, 10, 200), (30, 0, 60, 40))
    made = np.asarray(cut(image, np.array([[-40.0, -20], [-40, 60], [40, 60], [40, -20]]), 16))
    assert made.shape == (16, 16, 3)
    assert np.abs(made[:, :12].astype(int) - [200, 10, 10]).max() < 12
    assert np.abs(made[:, -1].astype(int) - [10, 10, 200]).max() < 12


def test_a_huge_picture_is_cut_as_its_reduction_is():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8))
    huge = small.resize((2000, 2000), Image.Resampling.NEAREST)
    corners = np.array([[10.0, 10], [10, 42], [42, 42], [42, 10]])
    near = np.asarray(cut(small, corners, 8)).astype(int)
    assert np.abs(np.asarray(cut(huge, corners * 40, 8)).astype(int) - near).max() < 30


@pytest.mark.parametrize(
    "sizes, number, what",
    [
        ([], None, "no face that was found .--align none"),
        ([30, 50], None, "2 faces .1: 50 px, 2: 30 px.: choose one with --face 1"),
        ([30], 2, "faces 1 to 1, and number 2"),
        ([10], None, "a face of 10 px, at least 24"),
    ],
)
def test_a_face_that_cannot_be_taken(sizes, number, what):
    faces = [Face(1.0, (0, 0, size, size), a_face()) for size in sizes]
    with pytest.raises(ValueError, match=what):
        align(Image.new("RGB", (64, 64)), FRAMES["ffhq"], lambda image: faces, number=number)


def test_the_larger_face_is_number_one():
    faces = [Face(1.0, (0, 0, size, size), a_face()) for size in (30, 50, 40)]
    assert [chosen(faces, number).side for number in (1, 2, 3)] == [50, 40, 30]


def test_mtcnn_finds_drawn_faces():
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    pictures = SynthFaces(192, 400, seed=9).images(range(8))
    detect = mtcnn()
    found = [detect(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in pictures]
    points = [each[0].points / 192 for each in found if each]
    assert len(points) >= 4
    assert np.abs(np.median(points, 0) - SYNTHFACES).max() < 0.1


def test_a_picture_without_room_for_a_face():
    with pytest.raises(ValueError, match="is 1 x 1 pixels, at least 24 are needed"):
        align(Image.new("RGB", (1, 1)), FRAMES["ffhq"], lambda image: [])


# ---- encoders


SCHOOL = Training(steps=6, batch=4)


@pytest.fixture(scope="module")
def schooled():
    G = filled()
    return G, train_encoder(G, SCHOOL, SynthFaces(16, 40), Linear())


def test_layers_are_freed_one_after_the_other():
    assert [free_layers(t, 18) for t in (0.0, 0.0999, 0.1, 0.105, 0.11, 0.26, 0.5)] == [0, 0, 1, 1, 2, 17, 17]
    G = filled()
    encoder = new_encoder(G).eval()
    picture = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        encoder.offsets.bias.fill_(1.0)
        ws = encoder(picture, 2)
    assert torch.equal(ws[:, 3:], ws[:, :1].expand(-1, G.num_ws - 3, -1))
    assert torch.allclose((ws[:, 1:3] - ws[:, :1]) / encoder.spread, torch.tensor(1.0), atol=1e-5)


def test_an_encoder_learns_what_its_loss_says(schooled):
    G, _ = schooled
    encoder = new_encoder(G).eval()
    pictures = torch.zeros(3, 3, 16, 16)
    w = G.mapping(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))[:, :1]
    alone = dict(pixels=0.0, perceptual=0.0, latent=0.0, offsets=0.0)
    with torch.no_grad():
        encoder.offsets.bias.fill_(2.0)
        ws = encoder(pictures, 3)
        again = G.synthesis(ws, noise_mode="const")
        length = float(2 * encoder.spread * 8**0.5)
        expected = {
            "pixels": (again - pictures).square().mean(),
            "perceptual": Linear().toward(pictures)(again).mean(),
            "latent": ((ws[:2] - w) / encoder.spread).square().mean(),
            "offsets": torch.tensor(3 * length),
        }
        for name, value in expected.items():
            asked = Training(**(alone | {name: 1.0}))
            found = encoder_loss(encoder, G, pictures, w, Linear(), asked, 3)
            assert float(found) == pytest.approx(float(value), rel=1e-4), name


def test_an_encoder_goes_on_where_it_was_stopped(schooled, tmp_path, monkeypatch):
    G, straight = schooled
    monkeypatch.setattr(encoder_training, "KEEP_SECONDS", 0.0)
    part = tmp_path / "part.safetensors"

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    real = SynthFaces(16, 40)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(G, SCHOOL, real, Linear(), part, stop)
    with pytest.raises(ValueError, match="another encoder, or by other settings"):
        train_encoder(G, Training(steps=7, batch=4), real, Linear(), part)
    steps = []
    again = train_encoder(G, SCHOOL, real, Linear(), part, lambda step, loss: steps.append(step))
    assert steps == [4, 5, 6] and not part.exists()
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_encoder_and_hybrid(schooled, tmp_path):
    G, encoder = schooled
    pictures = SynthFaces(16, 60).images([50, 51])
    guessed = invert(G, pictures, "encoder", perceptual=Linear(), encoder=encoder)
    assert guessed.steps == 0 and guessed.losses.shape == (0, 2) and not guessed.noise
    assert torch.equal(guessed.ws, encoder(pictures.float() / 127.5 - 1))
    hybrid = invert(G, pictures, "hybrid", steps=25, perceptual=Linear(), encoder=encoder)
    assert (hybrid.distances < guessed.distances).all()
    again = load_inversion(guessed.save(tmp_path / "x.safetensors"), G)
    assert torch.equal(again.ws, guessed.ws) and again.space == "encoder"
    with pytest.raises(ValueError, match="an encoder makes no steps"):
        invert(G, pictures, "encoder", steps=3, encoder=encoder)
    other = Generator(8, 0, 8, 16, 3, dict(num_layers=2), dict(channel_base=128, channel_max=16)).eval()
    with pytest.raises(ValueError, match="the encoder belongs to the generator"):
        invert(other, pictures, "hybrid", steps=3, perceptual=Linear(), encoder=encoder)


@pytest.mark.parametrize(
    "entry, what",
    [
        (None, "holds no encoder"),
        ({"side": 17}, "its side is 17"),
        ({"num_ws": 7}, "does not fit the network"),
        ({"generator": "0" * 64}, "belongs to the generator"),
        ({"about": 3}, "holds no encoder"),
    ],
)
def test_a_file_that_holds_no_encoder(schooled, tmp_path, entry, what):
    G, encoder = schooled
    file = encoder.save(tmp_path / "x.safetensors")
    tensors, meta = load_safetensors(file)
    meta["encoder"] = None if entry is None else meta["encoder"] | entry
    save_safetensors(file, tensors, meta)
    with pytest.raises(CheckpointError, match=what) as refused:
        load_encoder(file, G)
    assert str(file) in str(refused.value)


def test_an_encoder_lies_beside_its_network(schooled, tmp_path):
    G, encoder = schooled
    (tmp_path / "encoders").mkdir()
    encoder.save(tmp_path / "encoders" / f"encoder-{encoder.generator[:12]}.safetensors")
    found = ready_encoder(G, tmp_path)
    assert torch.equal(found.first.weight, encoder.first.weight) and found.about == encoder.about


def test_the_command_says_what_real_is_for(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    asked = InvertConfig("synthfaces-hsr", (str(tmp_path / "a.png"),), str(tmp_path / "out"), real="synthfaces")
    with pytest.raises(ValueError, match="give --space encoder or hybrid, too"):
        invert_files(asked)


def test_pillow_pictures_are_turned_and_made_8_bits_as_files_are(tmp_path):
    G = load_generator("synthfaces-hsr")
    shade = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    deep = Image.fromarray(shade)
    deep.save(tmp_path / "deep.png")
    from_file, from_memory = (as_target(G, picture) for picture in (str(tmp_path / "deep.png"), deep))
    assert torch.equal(from_file, from_memory) and from_memory.mean().abs() < 0.1
    turned = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    turned.getexif()[274] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    read = Image.open(tmp_path / "turned.png")
    assert torch.equal(as_target(G, read), as_target(G, str(tmp_path / "turned.png")))


def test_a_search_does_not_go_on_under_another_distance(tmp_path):
    G = load_generator("synthfaces-hsr")
    target = as_target(G, torch.zeros(1, 3, 32, 32))
    kept = tmp_path / "kept.safetensors"
    asked = replace(PROJECTIONS["w"], steps=3, samples=100)
    run_search(Projector(G, target, embedded_distance("cpu"), asked), lambda step, pictures: None, kept)
    changed = Projector(G, target, embedded_distance("cpu"), asked)
    changed.compared = "another distance"
    with pytest.raises(ValueError, match="by other settings"):
        run_search(changed, lambda step, pictures: None, kept)


# ---- many pictures


def three_pictures():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("space", ["w", "w+", "i2s"])
def test_parts_find_what_the_whole_finds(space):
    G = filled()
    how = dict(space=space, steps=8, perceptual=embedded_distance() if space == "i2s" else Linear())
    whole, parts = (invert(G, three_pictures(), batch=batch, **how) for batch in (None, 2))
    assert torch.allclose(parts.ws, whole.ws, atol=1e-4)
    assert parts.losses.shape == (8, 3) and len(parts) == 3
    assert all(torch.allclose(parts.noise[name], whole.noise[name], atol=1e-2) for name in whole.noise)


def test_a_network_is_tuned_for_all_parts_at_once():
    G = filled()
    how = dict(space="pti", steps=3, perceptual=Linear(), tuning=Tuning(steps=4, locality=0.1))
    whole, parts = (invert(G, three_pictures(), batch=batch, **how) for batch in (None, 2))
    for name, tensor in whole.generator.state_dict().items():
        assert torch.allclose(tensor, parts.generator.state_dict()[name], atol=1e-4), name
    assert torch.allclose(parts.losses, whole.losses, rtol=1e-2) and parts.steps == 7


def test_parts_that_are_done_are_not_searched_for_again(tmp_path):
    G = filled()
    kept = tmp_path / "search.safetensors"
    how = dict(space="w+", steps=5, perceptual=Linear(), kept=kept, batch=1)
    made = []
    step = Projector.step

    def interrupted(search):
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append(1)
        step(search)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Projector, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            invert(G, three_pictures(), **how)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["search-1.safetensors", "search.safetensors"]
    with pytest.raises(ValueError, match="other pictures or by other settings"):
        invert(G, three_pictures().roll(1, 0), **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Projector, "step", lambda search: (made.append(1), step(search)))
        found = invert(G, three_pictures(), **how)
    assert len(made) == 15 and not list(tmp_path.iterdir())
    assert torch.allclose(found.ws, invert(G, three_pictures(), "w+", 5, perceptual=Linear()).ws, atol=1e-4)


def test_a_part_that_stops_early_keeps_its_last_loss():
    G = filled()
    mean = w_statistics(G)[0].expand(1, G.num_ws, -1)
    pictures = torch.cat([synthesis(G, mean, None).clamp(-1, 1), three_pictures()[:1]])
    near, far = (invert(G, picture, "w", 1, perceptual=Linear()).distances for picture in pictures.split(1))
    enough = float(near) * 1.01
    assert enough < 0.5 * float(far)
    found = invert(G, pictures, "w", 6, perceptual=Linear(), enough=enough, batch=1)
    assert found.steps == 6 and found.losses.shape == (6, 2)
    assert (found.losses[:, 0] == found.losses[0, 0]).all() and len(found.losses[:, 1].unique()) == 6


def test_early_stop_reaches_the_tuning_of_pti():
    G = filled()
    found = invert(G, three_pictures(), "pti", 3, perceptual=Linear(), tuning=Tuning(steps=9), enough=1e9)
    assert found.steps == 3  # of the search; it was near enough to begin with


@pytest.mark.parametrize(
    "settings, what",
    [
        (dict(batch=0), "one at a time or more"),
        (dict(enough=-1.0), "enough must be a finite number"),
        (dict(space="encoder", enough=0.1), "an encoder makes no steps, and enough=0.1"),
        (dict(tuning=Tuning(steps=-1)), "tuned in 0 steps or more"),
        (dict(tuning=Tuning(locality=float("nan"))), "locality must be a finite number"),
        (dict(label=torch.ones(3)), "it is unconditional"),
    ],
)
def test_settings_that_make_no_sense(settings, what):
    with pytest.raises(ValueError, match=what):
        invert(filled(), three_pictures(), perceptual=Linear(), **settings)


def on_disk(folder, count):
    "Pictures of 16 px in a folder."
    folder.mkdir()
    for i, picture in enumerate(SynthFaces(16, 60).images(range(count))):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")


def saved_network(G, folder):
    return str(save_safetensors(folder / "G.safetensors", *as_checkpoint(G)))


def as_checkpoint(G):
    tensors = {f"G_ema.{name}": tensor for name, tensor in G.state_dict().items()}
    return tensors, {"G": G.init_kwargs, "format": "hsr_nb 1"}


def test_the_command_goes_on_at_the_part_and_its_film_shows_all(tmp_path, monkeypatch):
    on_disk(tmp_path / "faces", 5)
    network = saved_network(filled(), tmp_path)
    asked = InvertConfig(network, (str(tmp_path / "faces"),), str(tmp_path / "out"), "w+", steps=6, batch=2)
    made = []
    step = Projector.step

    def interrupted(search):
        if len(made) == 8:
            raise KeyboardInterrupt
        made.append(1)
        step(search)

    monkeypatch.setattr(Projector, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        invert_files(asked)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"unfinished"}
    monkeypatch.setattr(Projector, "step", lambda search: (made.append(1), step(search)))
    found = invert_files(asked)
    assert len(found) == 5 and len(made) == 18  # 8, then the 4 left of the second part and 6 of the third
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["film.gif", "inversion.safetensors", "sheet.png"]
    straight = invert_files(replace(asked, out=str(tmp_path / "straight")))
    assert torch.equal(straight.ws, found.ws) and straight.names == found.names
    with Image.open(tmp_path / "out" / "film.gif") as film, Image.open(tmp_path / "straight" / "film.gif") as other:
        assert film.n_frames == other.n_frames > 3


def test_a_film_that_goes_on_in_its_middle_begins_at_its_beginning(tmp_path, monkeypatch):
    on_disk(tmp_path / "faces", 1)
    network = saved_network(filled(), tmp_path)
    asked = InvertConfig(network, (str(tmp_path / "faces"),), str(tmp_path / "out"), steps=12)
    step = Projector.step

    def interrupted(search):
        if len(search.losses) == 7:
            raise KeyboardInterrupt
        step(search)

    monkeypatch.setattr(Projector, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        invert_files(asked)
    monkeypatch.setattr(Projector, "step", step)
    invert_files(asked)
    invert_files(replace(asked, out=str(tmp_path / "straight")))
    films = []
    for name in ("out", "straight"):
        with Image.open(tmp_path / name / "film.gif") as film:
            films.append([np.asarray(film.convert("RGB"))])
            for frame in range(1, film.n_frames):
                film.seek(frame)
                films[-1].append(np.asarray(film.convert("RGB")))
    assert len(films[0]) == len(films[1])
    assert all(np.array_equal(a, b) for a, b in zip(*films))


@pytest.mark.parametrize(
    "settings, what",
    [
        (dict(locality=0.1), "give --space pti, too"),
        (dict(tuning_steps=3), "give --space pti, too"),
        (dict(space="pti", tuning_steps=-3), "0 steps or more, not -3"),
        (dict(space="pti", locality=float("inf")), "locality must be a finite number"),
        (dict(enough=float("nan")), "enough must be a finite number"),
        (dict(space="encoder", enough=0.2), "an encoder makes no steps"),
        (dict(space="encoder", steps=5), "an encoder makes no steps"),
        (dict(batch=0), "batch must be at least 1"),
    ],
)
def test_the_command_refuses_before_it_reads(tmp_path, settings, what):
    with pytest.raises(ValueError, match=what):
        invert_files(InvertConfig("nope", ("nope",), str(tmp_path / "out"), **settings))
    assert not list(tmp_path.iterdir())


def test_the_command_tunes_as_it_is_told(tmp_path):
    on_disk(tmp_path / "faces", 2)
    network = saved_network(filled(), tmp_path)
    asked = InvertConfig(network, (str(tmp_path / "faces"),), str(tmp_path / "out"), "pti", steps=2, film=False)
    found = invert_files(replace(asked, tuning_steps=3, locality=0.5))
    assert found.steps == 5 and found.generator is not None
    assert invert_files(replace(asked, tuning_steps=0)).steps == 2
    assert invert_files(replace(asked, tuning_steps=9, enough=1e9)).steps == 2


# ---- networks with classes


def of_classes() -> Generator:
    "A generator of 16 px with three classes, each with its own W."
    torch.manual_seed(5)
    G = Generator(8, 3, 8, 16, 3, dict(num_layers=2), dict(channel_base=128, channel_max=16))
    return G.eval().requires_grad_(False)


@pytest.mark.parametrize("space", ["w", "w+", "i2s", "pti", "encoder", "hybrid"])
def test_every_way_knows_the_class(tmp_path, space):
    G = of_classes()
    on_disk(tmp_path / "faces", 2)
    (tmp_path / "G.safetensors.encoders").mkdir()
    encoder = train_encoder(G, Training(steps=2, batch=4))
    encoder.save(tmp_path / "G.safetensors.encoders" / f"encoder-{encoder.generator[:12]}.safetensors")
    steps = None if space == "encoder" else 1
    asked = InvertConfig(saved_network(G, tmp_path), (str(tmp_path / "faces"),), space=space, steps=steps, film=False)
    asked = replace(asked, tuning_steps=1 if space == "pti" else None, locality=0.1 if space == "pti" else None)
    found = []
    for number in (0, 2):
        out = str(tmp_path / f"out-{number}")
        found.append(invert_files(replace(asked, out=out, class_index=number)))
    middles = [w_statistics(G, label=torch.eye(3)[number])[0] for number in (0, 2)]
    for one, middle in zip(found, middles):
        others = [float((one.ws[:, 0] - m).norm()) for m in middles]
        assert float((one.ws[:, 0] - middle).norm()) == min(others)
    with pytest.raises(ValueError, match="conditional: give a class index from 0 to 2"):
        invert_files(asked)
    with pytest.raises(ValueError, match="out of range"):
        invert_files(replace(asked, class_index=3))


def test_the_locality_of_a_class_is_near_its_own_latents(monkeypatch):
    G = of_classes()
    seen = []
    mapping = G.mapping.forward

    def noted(z, c=None, *rest, **how):
        seen.append(c)
        return mapping(z, c, *rest, **how)

    monkeypatch.setattr(G.mapping, "forward", noted)
    label = torch.eye(3)[1]
    how = Tuning(steps=2, locality=0.1)
    tune(G, three_pictures()[:1], mapping(torch.zeros(1, 8), label[None]), {}, Linear(), how, label=label)
    assert seen and all(torch.equal(c, label[None]) for c in seen)


def test_an_encoder_of_classes_comes_back_from_its_file(tmp_path):
    G = of_classes()
    encoder = train_encoder(G, Training(steps=2, batch=4))
    again = load_encoder(encoder.save(tmp_path / "x.safetensors"), G)
    pictures = three_pictures()
    assert torch.equal(again(pictures, c=torch.eye(3)), encoder(pictures, c=torch.eye(3)))
    with pytest.raises(ValueError, match=r"labels c must have shape \[N, 3\]"):
        again(pictures)
    with pytest.raises(ValueError, match="this network is conditional"):
        invert(G, pictures, "encoder", encoder=encoder)


class Labelled:
    "Grey pictures, each of class 1."

    identity = {"name": "labelled"}
    label_dim = 3

    def __len__(self):
        return 7

    def images(self, indices):
        return torch.full((len(indices), 3, 16, 16), 99, dtype=torch.uint8)

    def labels(self, indices):
        return torch.eye(3)[[1] * len(indices)]


def test_real_pictures_bring_their_labels():
    G = of_classes()
    asked = Training(steps=2, batch=4)
    _, _, c = encoder_training._lesson(G, asked, Labelled(), 0)
    assert c.shape == (4, 3) and torch.equal(c[2:], torch.eye(3)[[1, 1]])
    assert train_encoder(G, asked, Labelled(), Linear()).about["steps"] == 2
    with pytest.raises(ValueError, match="labels of 3 numbers, those of this data set have 0"):
        train_encoder(G, asked, SynthFaces(16, 40), Linear())


@pytest.mark.slow
def test_the_page_of_costs_measures_every_way(tmp_path):
    papermill, root = pytest.importorskip("papermill"), Path(__file__).parents[1]
    few = dict(steps=3, short=2, hybrid=2, pivot=2, tuned=2, drag_steps=2, repeats=2, threads=1)
    papermill.execute_notebook(
        root / "nbs/experiments/inversion_times.ipynb",
        tmp_path / "out.ipynb",
        dict(run=True, out=str(tmp_path), networks=["synthfaces64-hsr"], **few),
        kernel_name="python3",
        progress_bar=False,
        cwd=str(root),
    )
    (file,) = tmp_path.glob("inverting-times-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["what"].split(",")[0] for row in rows] == [
        "W",
        "W+",
        "W+",
        "encoder",
        "encoder",
        "pivotal tuning",
        "a step of a drag",
    ]
    assert all(0 < row["seconds"] <= row["slowest"] for row in rows)
