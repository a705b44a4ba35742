"""Editors against numbers that the published programs computed; refusals; what is kept is what was fitted."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hsr_nb.editing import DPLaSE, GANSpace, InterFaceGAN, LatentSet, SeFa, load_editor
from hsr_nb.editing.calibrate import calibrate
from hsr_nb.editing.channels import affinity, channel_masks, expression_terms, kept_entries, learn_expression, rebuilt
from hsr_nb.editing.directions import Directions
from hsr_nb.editing.dplase import learn_masks, masked_edit
from hsr_nb.editing.ganspace import principal_components
from hsr_nb.editing.interfacegan import fit_normal, keeping, project_out
from hsr_nb.editing.methods import METHODS
from hsr_nb.editing.protocol import EVALUATED, Budget, Watchers, find_range, load_cell, ready_cell
from hsr_nb.editing.protocol_tables import (
    cell_row,
    class_logits,
    inception_difference,
    leakage,
    method_row,
    ready_reference,
)
from hsr_nb.editing.sefa import factorize
from hsr_nb.editing.shelf import editors_dir, ready_editor, ready_latents, shelf_of, shipped_editor
from hsr_nb.editing.split import Split, masked_picture, split_at, split_biggan
from hsr_nb.editing.walk_directions import decorrelation, learn_directions, orthogonality, variation
from hsr_nb.editing.walks import GaussianW, even_walk, gaussian_w
from hsr_nb.interop.checkpoint import load_generator
from hsr_nb.interop.safetensors import load_safetensors, save_safetensors
from hsr_nb.judges.attributes import AttributeBank, load_bank
from hsr_nb.judges.cards import embedded, read_card
from hsr_nb.judges.face_finders import FaceFinder, mtcnn_finder, typical_finder
from hsr_nb.judges.pairs import working_judge
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import ws_for_seeds
from hsr_nb.studies.shipped import PAIR

ORACLE = json.loads((Path(__file__).parent / "files/editing_oracle_linear_dplase.json").read_text())


def grid(*sizes):
    "Index tensors of an array, to compute it from a formula."
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in sizes), indexing="ij")


def near(found, expected, atol=2e-6):
    one = torch.as_tensor(found).double()
    two = torch.tensor(expected, dtype=torch.float64)
    return torch.allclose(one, two, atol=atol)


def unit(vector):
    return F.normalize(torch.tensor(vector, dtype=torch.float32), dim=0)


# ---- InterFaceGAN


def planes():
    "The latents and scores of the oracle."
    n, k = grid(300, 6)
    latents = torch.sin(1.37 * n + 0.71 * k + 0.113 * n * k)
    weights = torch.tensor([0.5, -0.3, 0.2, 0.6, -0.1, 0.4]).double()
    noise = 0.15 * torch.cos(2.1 * n[:, 0])
    return latents, latents @ weights + noise


@pytest.mark.parametrize("fit", ORACLE["interfacegan"]["fits"], ids=lambda fit: str(fit["chosen_num_or_ratio"]))
def test_normals_are_those_of_the_published_tool(fit):
    latents, scores = planes()
    normal, accuracy = fit_normal(latents, scores, fit["chosen_num_or_ratio"], training=1.0)
    published = torch.tensor(fit["normal"])
    cosine = min(1.0, float(normal @ published))
    degrees = math.degrees(math.acos(cosine))
    assert degrees < 3 * fit["spread_over_shuffles_degrees"]
    assert abs(float(normal.norm()) - 1) < 1e-6
    said = fit["log"][2].split("=")[1]
    assert accuracy["rest"] == pytest.approx(float(said), abs=1e-6)
    assert math.isnan(accuracy["validation"])  # all latents trained


def test_projections_are_those_of_the_published_tool():
    for case in ORACLE["interfacegan"]["projections"]:
        conditions = torch.tensor(case["conditions"], dtype=torch.float32)
        found = project_out(unit(case["primal"]), conditions)
        assert near(found, case["projected"])
        assert (F.normalize(conditions, dim=1) @ found).abs().max() < 1e-6


def plane_editor(normal, absolute):
    editor = InterFaceGAN(absolute=absolute)
    editor.attributes, editor.normals, editor.sigma = ("a",), normal[None], torch.ones(1)
    return editor


def test_steps_are_those_of_the_published_tool():
    case = ORACLE["interfacegan"]["interpolation"]
    normal = unit([1, 2, 2, 0, 1])
    steps = torch.linspace(case["start"], case["end"], case["steps"])
    k = torch.arange(5.0)
    w = torch.sin(0.9 * k) + 0.3
    reached = plane_editor(normal, True)._move(w.expand(len(steps), 1, -1), "a", steps)
    assert near(reached[:, 0], case["edited_w"])
    layer, k = grid(3, 5)
    wplus = torch.sin(0.4 * layer + 0.9 * k + 0.2 * layer * k).float()
    moved = plane_editor(normal, False)._move(wplus.expand(len(steps), -1, -1), "a", steps)
    assert near(moved, case["edited_wplus"])


# ---- SeFa and GANSpace


@pytest.mark.parametrize("case", ORACLE["sefa"]["cases"], ids=lambda case: str(case["layers"]))
def test_factors_are_those_of_the_published_code(case):
    weights = []
    for layer, channels in enumerate([7, 7, 5, 5, 4, 4]):
        c, k = grid(channels, 6)
        phase = 0.7 * c + 1.3 * k + 0.5 * layer
        mixed = 0.11 * c * k * (layer + 1)
        size = 1 + 0.5 * torch.cos(k + layer)
        weights.append(torch.sin(phase + mixed) * size)
    columns = [weights[layer].T for layer in case["layers"]]
    values, vectors = factorize(torch.cat(columns, 1))
    assert near(values, case["eigenvalues"], 2e-5)
    assert near(vectors, case["directions"], 2e-5)


def ganspace_sample():
    n, j, k = grid(600, 8, 8)
    gains = torch.tensor([3, 2.5, 2, 1.6, 1.2, 0.9, 0.6, 0.3]).double()
    codes = torch.sin(1.9 * n + 0.83 * k + 0.37 * n * k)
    rows = torch.cos(0.9 * k * j + 0.4 * k + 0.2)
    mean = 0.5 * torch.cos(0.3 * j[:, :, 0])
    return (codes * gains * rows).sum(2) + mean


def test_components_are_those_of_the_published_code():
    X = ganspace_sample()
    mean, share, components = principal_components(X.split(200))
    exact = ORACLE["ganspace"]["estimators"]["pca"]
    assert near(components[:4], exact["components"], 1e-5)
    assert near(share[:4], exact["variance_ratio"], 1e-6)
    assert torch.allclose(mean, X.mean(0).float(), atol=1e-6)
    assert torch.allclose(components @ components.T, torch.eye(8), atol=1e-4)
    assert (share.diff() <= 0).all()


def test_edits_along_components_are_those_of_the_published_code():
    X = ganspace_sample()
    mean, _, components = principal_components([X])
    n, k = grid(500, 8)
    fresh = torch.sin(2.7 * n + 0.41 * k + 0.19 * n * k)
    coordinates = fresh @ components[:4].double().T
    sigma = coordinates.std(0, correction=0)
    assert near(sigma, ORACLE["ganspace"]["lat_stdev"]["value"], 1e-5)
    case = ORACLE["ganspace"]["edit"]
    start = torch.sin(1.1 * torch.arange(8.0)) + 0.2
    w = start.expand(case["frames"], 5, -1)
    steps = torch.linspace(-case["sigma"], case["sigma"], case["frames"])
    editor = GANSpace()
    editor.mean, number = mean, case["component"]
    editor.vectors = {"c": components[number] * sigma[number].float()}
    editor.layers = {"c": (1, 2)}  # both included; theirs ends before 3
    for absolute, key in ((False, "relative"), (True, "absolute")):
        editor.absolute = absolute
        moved = editor._move(w, "c", steps)
        assert near(moved[:, :3], case[key], 1e-5)
        assert torch.equal(moved[:, [0, 3, 4]], w[:, [0, 3, 4]])
    reached = editor._coordinate(moved, "c")[:, 1:3]
    assert torch.allclose(reached, steps[:, None].expand(-1, 2), atol=1e-5)


# ---- DP-LaSE


def test_walks_are_those_of_the_published_code():
    case = ORACLE["dplase"]["walk"]
    z, direction = torch.tensor(case["z"]), torch.tensor(case["direction"])
    for step, walked in case["walked_by_step"].items():
        found = even_walk(z, direction, float(step))
        assert near(found, walked)
        assert torch.allclose(found.norm(dim=1), z.norm(dim=1), rtol=1e-6)


def test_losses_of_directions_are_those_of_the_published_code():
    case = ORACLE["dplase"]["direction_losses"]
    b, c = grid(5, 6)
    f = torch.sin(1.1 * b + 0.7 * c)
    first = 1.5 * torch.sin(1.3 * b + 0.9 * c)
    second = 0.8 * torch.sin(0.6 * b + 1.7 * c + 0.2 * b * c)
    one = first - f
    two = second - f
    j = torch.tensor(case["first_direction"])
    h = torch.tensor(case["second_direction"])
    i, k = grid(4, 7)
    rows = torch.sin(0.8 * i + 1.9 * k + 0.3 * i * k)
    made_so = torch.tensor(ORACLE["dplase"]["orthogonalize"]["result"])
    assert orthogonality(made_so) < 1e-12
    assert near(variation(one, two), case["variation"], 1e-6)
    assert near(decorrelation(one, two, j, h), case["decorrelation"], 1e-7)
    assert near(orthogonality(rows), case["orthogonality"], 1e-6)


def test_self_expression_is_that_of_the_published_code():
    case = ORACLE["dplase"]["self_expression"]
    i, j = grid(5, 5)
    S = 0.3 * torch.sin(0.9 * i + 0.4 * j + 0.7 * i * j)
    S.requires_grad_()
    b, c, y, x = grid(2, 5, 3, 3)
    f = torch.sin(b + 0.7 * c + 0.5 * y - 0.9 * x)
    terms = expression_terms(S, f, lambda features: torch.tanh(2 * features.mean(1)))
    for term, name in zip(terms, ("f_loss", "image_loss", "sparsity")):
        assert near(term.detach(), case[name], 1e-7)
    loss = terms[0] + terms[1] + 0.5 * terms[2]
    loss.backward()
    assert near(S.grad, case["gradient_of_1_1_0_5"], 1e-6)
    loud = torch.eye(5).double() * 100
    plain = S.detach()
    assert torch.equal(rebuilt(plain + loud, f), rebuilt(plain, f))  # the diagonal is exactly zero


def test_entries_are_kept_as_in_the_published_code():
    case = ORACLE["dplase"]["threshold"]
    assert near(kept_entries(torch.tensor(case["matrix"]), 0.5), case["kept_at_0_5_per_row"])


def test_groups_of_channels_are_found_again_whatever_their_order():
    gen = torch.Generator().manual_seed(3)
    truth = torch.randint(3, (24,), generator=gen)
    same = truth[:, None] == truth
    S = torch.rand(24, 24, generator=gen) * 0.1 + 0.5 * same
    near_each_other = affinity(S, 0.8, 3, 1)
    assert torch.equal(near_each_other, near_each_other.T) and near_each_other.max() <= 1
    masks = channel_masks(S, 3, 0.8, 1)
    assert torch.equal(masks.sum(0), torch.ones(24))
    groups = {tuple(mask.tolist()) for mask in masks}
    assert groups == {tuple((truth == g).float().tolist()) for g in range(3)}
    assert (masks.sum(1).diff() <= 0).all()
    with pytest.raises(ValueError, match="24 channels have 2 to 23 groups, asked were 24"):
        channel_masks(S, 24)


def test_directions_of_a_network_of_digits():
    "No StyleGAN anywhere: a decoder of scanned digits, cut in two functions."
    pytest.importorskip("sklearn")
    from hsr_nb.data.digits import Digits

    ds = Digits(8)
    digits = ds.images(range(1200)).float() / 127.5 - 1
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    front = nn.Sequential(nn.Linear(16, 12 * 16), nn.ReLU(), nn.Unflatten(1, (12, 4, 4)))
    back = nn.Sequential(nn.ConvTranspose2d(12, 1, 2, 2), nn.Tanh())
    parts = nn.ModuleList([encoder, front, back])
    adam = torch.optim.Adam(parts.parameters(), 3e-3)
    for _ in range(200):
        x = digits[torch.randint(len(digits), (64,))]
        z = encoder(x)
        drawn = back(front(z + 0.3 * torch.randn_like(z)))
        loss = (drawn - x).square().mean() + 0.01 * z.square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    parts.requires_grad_(False)
    split = Split(front, lambda features, code: back(features))

    def sample(n, gen):
        return torch.randn(n, 16, generator=gen)

    rows, losses = learn_directions(front, sample, k=4, rounds=120, batch=16)
    assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-5) and losses[-1] < losses[0]
    z = sample(64, torch.Generator().manual_seed(1))
    others = torch.linalg.qr(torch.randn(16, 4, generator=torch.Generator().manual_seed(2))).Q.T

    def moved(found):
        changes = [front(even_walk(z, row, 2.0)) - front(z) for row in found]
        return float(torch.stack(changes).square().mean())

    assert moved(rows) > 1.1 * moved(others)

    def walk(n, gen):
        code = sample(n, gen)
        return code, even_walk(code, rows[0], 1.0)

    S, errors = learn_expression(split, walk, rounds=60)
    assert S.shape == (12, 12) and S.diagonal().abs().max() == 0 and errors[-1] < errors[0]
    walked = even_walk(z, rows[0], 2.0)
    assert torch.allclose(masked_picture(split, z, walked, torch.ones(12)), back(front(walked)))
    assert torch.allclose(masked_picture(split, z, walked, torch.zeros(12)), back(front(z)))
    with pytest.raises(ValueError, match="12 channels"):
        masked_picture(split, z, walked, torch.ones(5))


def test_a_biggan_is_cut_after_any_layer():
    "The published layout with random weights; not run where the package that reads such weights is missing."
    biggan = pytest.importorskip("pytorch_pretrained_biggan")
    layers = [(True, 16, 8), (False, 8, 4), (True, 4, 2), (False, 2, 1)]
    torch.manual_seed(0)
    config = biggan.BigGANConfig(16, 8, 8, 8, 5, layers, attention_layer_position=2)
    net = biggan.BigGAN(config).eval().requires_grad_(False)
    label = F.one_hot(torch.tensor(3), 5).float()
    z = torch.randn(3, 8)
    walked = even_walk(z, F.normalize(torch.randn(8), dim=0), 2.0)
    plain = net(z, label.expand(3, -1), 1.0)
    for block in range(1, 5):
        split = split_biggan(net, label, block)
        features = split.front(z)
        assert torch.allclose(split.back(features, z), plain, atol=1e-5)
        ones = torch.ones(features.shape[1])
        assert masked_picture(split, z, walked, ones).shape == plain.shape
        assert torch.allclose(masked_picture(split, z, walked, 0 * ones), plain, atol=1e-5)
    rows, _ = learn_directions(split_biggan(net, label, 1).front, lambda n, gen: torch.randn(n, 8, generator=gen), 3, 5)
    assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-5)
    for block in (0, 5):
        with pytest.raises(ValueError, match=f"a cut comes after 1 to 4, not {block}"):
            split_biggan(net, label, block)
    with pytest.raises(ValueError, match="this BigGAN has 5 classes"):
        split_biggan(net, label[:4], 1)


# ---- editors as a whole, on a small network


def small(seed=0, **changes):
    torch.manual_seed(seed)
    kwargs = dict(z_dim=16, w_dim=16, img_resolution=16, synthesis_kwargs=dict(channel_max=16)) | changes
    return Generator(**kwargs).eval().requires_grad_(False)


def reads(frames):
    "Brightness, redness and where the light is: what a plain judge can tell of any picture."
    x = frames.float() / 255
    left, right = x.chunk(2, -1)
    light = x.mean((1, 2, 3))
    red, green, _ = x.mean((2, 3)).T
    side = right.mean((1, 2, 3)) - left.mean((1, 2, 3))
    return torch.stack([light, red - green, side], 1)


JUDGE = AttributeBank("plain", "0" * 64, ("age", "hair", "yaw"), reads)


@pytest.fixture(scope="module")
def faces():
    G = small()
    return G, LatentSet.sample(G, JUDGE, n=300)


def fitted(method, G, S):
    editors = {
        "interfacegan": InterFaceGAN(share=0.1),
        "sefa": SeFa(components=4),
        "ganspace": GANSpace(components=4, samples=2000, tried=4),
        "dplase": DPLaSE(levels=(4, 8), components=3, rounds=20),
    }
    return editors[method].fit(G, S, JUDGE)


@pytest.mark.parametrize("method", ["interfacegan", "sefa", "ganspace", "dplase"])
def test_an_editor_is_kept_whole_and_refuses_what_is_not_its_own(method, faces, tmp_path):
    G, S = faces
    editor = calibrate(fitted(method, G, S), G, JUDGE, S, faces=24, attributes=("age", "hair"))
    ws = S.w[:4, None].expand(-1, G.num_ws, -1)
    name = next(iter(editor.calibration))
    end = editor.range(name)[0] or editor.range(name)[1]
    again = load_editor(editor.save(tmp_path / "e.safetensors"), G)
    edited = editor.edit(ws, name, end)
    assert torch.allclose(again.edit(ws, name, end), edited, atol=1e-6)
    assert again.attributes == editor.attributes
    assert again.range(name) == editor.range(name)
    each = [editor.edit(w[None], name, end) for w in ws]
    assert torch.allclose(torch.cat(each), edited, atol=1e-5)  # one by one or together
    with pytest.raises(ValueError, match=f"this {method} editor belongs to the generator"):
        load_editor(tmp_path / "e.safetensors", small(1))
    with pytest.raises(ValueError, match="has no attribute 'beauty'; it has age"):
        editor.edit(ws, "beauty", 1.0)
    with pytest.raises(ValueError, match=r"\[B, 6, 16\] for this editor, found \[4, 8, 16\]"):
        editor.edit(torch.zeros(4, 8, 16), name, 0.0)
    with pytest.raises(ValueError, match="the latents hold numbers that are not finite"):
        editor.edit(ws * math.nan, name, 0.0)
    tensors, meta = load_safetensors(tmp_path / "e.safetensors")
    tables = [key for key in sorted(tensors) if key.startswith("parts.") and tensors[key].ndim == 2]
    part = tables[0]
    narrow = tensors[part][:, :-1].contiguous()
    for broken in (narrow, tensors[part] * math.nan):
        save_safetensors(tmp_path / "b.safetensors", tensors | {part: broken}, meta)
        with pytest.raises(ValueError, match="b.safetensors holds no editor"):
            load_editor(tmp_path / "b.safetensors", G)


def test_locked_normals_are_at_right_angles_to_what_is_kept(faces):
    G, S = faces
    editor = InterFaceGAN(share=0.1).fit(G, S)
    locked = keeping(editor, ["hair", "yaw"])
    for name in ("hair", "yaw"):
        assert abs(float(locked.direction("age") @ editor.direction(name))) < 1e-6


def test_walks_keep_their_density_and_end_at_their_cut(faces):
    G, S = faces
    editor = fitted("dplase", G, S)
    ws = S.w[:8, None].expand(-1, G.num_ws, -1)
    for name in editor.attributes:
        moved = editor.edit(ws, name, 1.5, native=True)
        before = editor.gaussian.from_w(ws).norm(dim=-1)
        after = editor.gaussian.from_w(moved).norm(dim=-1)
        assert torch.allclose(before, after, rtol=1e-3)
        beyond = editor.walks[name].layers[1] + 1
        assert torch.equal(moved[:, beyond:], ws[:, beyond:])
        assert not torch.allclose(moved[:, 0], ws[:, 0])
        assert torch.allclose(editor.edit(ws, name, 0.0, native=True), ws, atol=1e-3)
    for level in (4, 8):
        numbered = [walk for name, walk in editor.walks.items() if name.endswith(f" at {level}")]
        rows = torch.stack([walk.direction for walk in numbered])
        assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-5)


def test_masks_of_a_walk(faces):
    G, S = faces
    editor = fitted("dplase", G, S)
    ws = S.w[:4, None].expand(-1, G.num_ws, -1)
    with pytest.raises(ValueError, match="'age' of this dplase editor has no mask yet"):
        masked_edit(editor, G, ws, "age", 1.0, native=True)
    merits = learn_masks(editor, G, JUDGE, S, ["age"], groups=3, rounds=20, latents=16)
    assert max(merits["age"]) >= merits["age"][0]  # all channels are among the candidates
    ones = torch.ones_like(editor.masks["age"])
    moved = editor.edit(ws, "age", 1.0, native=True)
    plain = G.synthesis(moved, noise_mode="const")
    assert torch.allclose(masked_edit(editor, G, ws, "age", 1.0, native=True, mask=ones), plain, atol=1e-4)
    untouched = masked_edit(editor, G, ws, "age", 1.0, native=True, mask=1 - ones)
    face = G.synthesis(ws, noise_mode="const")
    assert torch.allclose(untouched, face, atol=1e-4)
    with pytest.raises(ValueError, match="belongs to the generator"):
        masked_edit(editor, small(1), ws, "age", 1.0, native=True, mask=ones)


def test_gaussian_w_goes_there_and_back_beyond_all_samples():
    G = small()
    gaussian = gaussian_w(G, 2000)
    w = 50 * torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gaussian.to_w(gaussian.from_w(w)), w, rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match="needs more than 10 samples"):
        gaussian_w(G, 10)
    with pytest.raises(ValueError, match=r"a Gaussian in 16 numbers has a root \[16, 16\]"):
        GaussianW(torch.zeros(16), torch.eye(15))


def test_a_cut_that_a_network_lacks():
    with pytest.raises(ValueError, match=r"a cut after level 16 is none of this generator's; there are \[4, 8\]"):
        split_at(small(), 16)


# ---- the shelf


def test_the_shelf_knows_what_is_its_own(faces, tmp_path, monkeypatch):
    G, _ = faces
    method = "interfacegan"
    monkeypatch.setitem(METHODS, method, lambda: InterFaceGAN(share=0.1))
    monkeypatch.setattr("hsr_nb.editing.methods.METHODS", METHODS | {method: InterFaceGAN})
    first = ready_editor(method, G, JUDGE, tmp_path, n=200, attributes=["age"])
    assert set(first.calibration) <= {"age"}
    names = {p.name for p in tmp_path.iterdir()}
    assert len(names) == 2
    ready_editor(method, G, JUDGE.select(["age", "yaw"]), tmp_path, n=200, attributes=["age"])
    ready_latents(small(1), JUDGE, tmp_path, 200)
    assert len({p.name for p in tmp_path.iterdir()}) == 5  # other attributes, another network: other files
    set_file = next(p for p in tmp_path.iterdir() if p.name in names and p.name.startswith("latents"))
    set_file.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is made again"):
        ready_latents(G, JUDGE, tmp_path, 200)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.warns(UserWarning, match="is not kept, so the next time it is made again"):
        ready_latents(G, JUDGE, blocked / "shelf", 200)
    with pytest.raises(ValueError, match="there is no editing method 'magic'; there are interfacegan"):
        ready_editor("magic", G, JUDGE, tmp_path)


def test_where_shelves_stand(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shelf_of(tmp_path) == tmp_path / "editors"
    (tmp_path / "g.pkl").touch()
    assert shelf_of(tmp_path / "g.pkl") == tmp_path / "g.pkl.editors"
    assert shelf_of("synthfaces-hsr") == tmp_path / "cache/hsr_nb/editors"


# ---- the protocol


class Who(nn.Module):
    "An identity network: the colours of the four quarters, at unit length."

    name, sha256 = "quarters", "1" * 64

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, img):
        return F.normalize(F.adaptive_avg_pool2d(img, 2).flatten(1) * self.gain, dim=1)


class Quarters:
    "A detector of few features."

    name, sha256, num_features = "quarters", "2" * 64, 12

    def __call__(self, images):
        return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


def watchers(finds):
    return Watchers(FaceFinder("made up", "3" * 64, finds), JUDGE, Who(), Quarters())


def always(images):
    return torch.ones(len(images))


@pytest.fixture(scope="module")
def studied(faces):
    G, S = faces
    editor = calibrate(InterFaceGAN(share=0.1).fit(G, S), G, JUDGE, S, faces=24, attributes=("age", "hair"))
    return G, S, editor, ws_for_seeds(G, range(6))


def test_a_range_ends_where_faces_are_lost(studied):
    G, S, editor, ws = studied
    budget = Budget(faces=6, frames=5, steps=10, batch=6)
    low, high, seen = find_range(editor, G, watchers(always).finder, ws, "age", budget)
    assert (low, high) == pytest.approx(editor.range("age")) and seen.all()
    plain = S.score("age").mean()

    def dark(images):
        return (reads(images)[:, 0] < plain + 0.5 * S.spread[0]).float()

    first = dark(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert first == 1
    shorter = find_range(editor, G, FaceFinder("dark", "4" * 64, dark), ws, "age", budget)
    assert shorter[1] < high and shorter[0] == pytest.approx(low)
    with pytest.raises(ValueError, match="never finds a face in none of the 6 unedited pictures"):
        find_range(editor, G, FaceFinder("never", "5" * 64, lambda x: torch.zeros(len(x))), ws, "age", budget)


def test_a_doubtful_face_ends_no_range(studied):
    "Found from 0.9, lost below 0.7: a detector that grows doubtful on the way goes on, one that sees less stops."
    G, _, editor, ws = studied
    budget = Budget(faces=6, frames=5, steps=4, batch=6)

    def finder(first, afterwards):
        surenesses = iter([first])
        return FaceFinder("doubtful", "6" * 64, lambda x: torch.full((len(x),), next(surenesses, afterwards)))

    low, high, seen = find_range(editor, G, finder(0.95, 0.8), ws, "age", budget)
    assert seen.all() and (low, high) == pytest.approx(editor.range("age"))
    low, high, seen = find_range(editor, G, finder(0.95, 0.6), ws, "age", budget)
    assert seen.all() and (low, high) == (0, 0)
    with pytest.raises(ValueError, match="finds a face in none"):
        find_range(editor, G, finder(0.8, 0.8), ws, "age", budget)


def test_baldness_is_hair_turned_round(studied):
    G, _, editor, ws = studied
    budget = Budget(faces=6, frames=5, steps=4, every=2, batch=6)
    low, high, _ = find_range(editor, G, watchers(always).finder, ws, "baldness", budget)
    assert (-high, -low) == pytest.approx(editor.range("hair"))
    assert EVALUATED["expression"] == ("smile", 1) and len(EVALUATED) == 8


def test_cells_resume_and_notice_what_changed(studied, tmp_path, monkeypatch):
    G, S, editor, ws = studied
    budget = Budget(faces=6, frames=5, steps=4, every=2, batch=6)
    looked = []

    def counting(images):
        looked.append(len(images))
        return always(images)

    there = watchers(counting)
    cell = ready_cell(tmp_path, editor, G, there, ws, "age", budget)
    assert cell.logits.shape == (6, 5, 3) and cell.found.shape == (6, 3) and cell.features.shape == (30, 12)
    middle = torch.linspace(*editor.range("age"), 5)
    assert torch.allclose(cell.strengths, middle)
    count = len(looked)
    assert torch.equal(ready_cell(tmp_path, editor, G, there, ws, "age", budget).logits, cell.logits)
    assert len(looked) == count
    ready_cell(tmp_path, editor, G, there, ws.roll(1, 0), "age", budget)
    assert len(looked) > count  # other faces
    count = len(looked)
    ready_cell(tmp_path, editor, G, there, ws.roll(1, 0), "age", replace(budget, frames=7))
    assert len(looked) > count
    with pytest.raises(ValueError, match="belongs to the generator"):
        ready_cell(tmp_path, editor, small(1), there, ws, "age", replace(budget, frames=3))
    save_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"cell": {}})
    with pytest.raises(ValueError, match="x.safetensors holds no cell of the protocol"):
        load_cell(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="a budget has at least 2 frames, not 1"):
        Budget(frames=1)


def test_rows_say_what_the_frames_say(studied, tmp_path):
    G, S, editor, ws = studied
    there, budget = watchers(always), Budget(faces=6, frames=11, steps=4, batch=6)
    cells = []
    for name in ("age", "baldness"):
        cells.append(ready_cell(tmp_path, editor, G, there, ws, name, budget))
    known = ready_reference(tmp_path, G, there, 60)
    written = (tmp_path / "unedited.safetensors").stat().st_mtime_ns
    assert torch.equal(ready_reference(tmp_path, G, there, 60).features, known.features)
    assert (tmp_path / "unedited.safetensors").stat().st_mtime_ns == written
    for cell in cells:
        row = cell_row(cell, known)
        ends = cell.logits[:, -1] - cell.logits[:, 0]
        span = row["high"] - row["low"]
        per_unit = ends.mean(0) / known.spread / span
        sign = EVALUATED[cell.attribute][1]
        meant = float(sign * per_unit[cell.target])
        assert row["on"] == pytest.approx(meant, rel=1e-3)
        assert row["on"] > 0 and row["als"] >= 0
        assert row["lost"] == 0 and 0 < row["identity"] < 2
    matrix = leakage(cells, known)
    assert [row["attribute"] for row in matrix] == ["age", "baldness"]
    assert matrix[1]["hair"] < 0
    scores = method_row(cells, known, there)
    assert scores["fid[quarters]"] > 0 and scores["pictures"] == 132
    twelve = ready_reference(tmp_path / "few", G, there, 12)
    few = method_row(cells, twelve, there)
    assert "fid[quarters]" not in few and "kid[quarters]" in few
    stuck = replace(cells[0], strengths=torch.zeros(11))
    row = cell_row(stuck, known)
    assert row["on"] is None and row["als"] is None
    assert leakage([stuck], known)[0]["age"] is None
    json.dumps([row, scores, matrix])
    other = replace(cells[1], method="other")
    with pytest.raises(ValueError, match="a row is of one method, found cells of interfacegan, other"):
        method_row([cells[0], other], known, there)


def test_difference_of_inception_scores():
    names = ("gender", "age", "glasses", "beard")
    scores = 80 * torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    classes = class_logits(scores, names)
    assert classes.shape == (800, 8)
    torch.testing.assert_close(classes.exp().sum(1), torch.ones(800))
    judge = SimpleNamespace(name="judge", attribute_names=names)
    key = "isd[judge: gender, glasses, beard]"
    assert inception_difference(scores, scores, judge) == {key: 0}
    everybody_alike = inception_difference(scores, scores.abs(), judge)[key]  # of eight classes one is left
    assert 6 < everybody_alike < 7
    other = SimpleNamespace(name="other", attribute_names=("yaw",))
    assert inception_difference(scores[:, :1], scores[:, :1], other) == {}


def test_face_finders():
    gen = torch.Generator().manual_seed(0)
    plain = torch.randint(100, 140, (400, 3, 16, 16), generator=gen, dtype=torch.uint8)
    finder = typical_finder(Quarters(), plain)
    assert finder.name == "typical[quarters]" and finder.found(plain).float().mean() > 0.98
    assert not finder.found(plain // 4).any()
    with pytest.raises(ValueError, match=r"sees uint8 images \[n, C, H, W\], found torch.float32"):
        finder(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="at least 400 unedited pictures, found 10"):
        typical_finder(Quarters(), plain[:10])


def test_the_published_face_finder():
    pytest.importorskip("facenet_pytorch")
    from hsr_nb.data import SynthFaces

    finder = mtcnn_finder()
    found = finder.found(SynthFaces(64, 40, seed=3).images(range(40)))
    assert found.float().mean() > 0.6
    noise = torch.randint(0, 256, (8, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert not finder.found(noise).any()


def test_a_direction_set_is_an_editors_own(faces):
    G, S = faces
    editor = SeFa(components=4).fit(G)
    assert isinstance(editor.found, Directions) and editor.attributes == tuple(editor.found.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        editor.edit(S.w[:2, None].expand(-1, G.num_ws, -1), "sefa 1", 1.0, native=True)


def test_the_experiment_runs_small_and_writes_no_result(tmp_path):
    papermill = pytest.importorskip("papermill")
    root = Path(__file__).resolve().parents[1]
    page = papermill.execute_notebook(
        root / "nbs/experiments/editing.ipynb",
        tmp_path / "out.ipynb",
        {"out": str(tmp_path / "results"), "attributes": ["baldness"], "finder": "stand-in"},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(root),
    )
    said = json.dumps([cell.get("outputs", []) for cell in page.cells])
    assert "a smoke run is no result: nothing was written" in said and "typical[synthfaces-attributes-b]" in said
    assert not (tmp_path / "results").exists()


def test_editors_that_ship_need_no_fitting(tmp_path, monkeypatch):
    cards = [read_card(name, editors_dir()) for name in embedded(editors_dir())]
    assert {card["network"] for card in cards} == set(PAIR)
    for method in METHODS:
        monkeypatch.setattr(METHODS[method], "fit", lambda *a, **k: pytest.fail("it was fitted"))
    for card in cards:
        G = load_generator(card["network"])
        judge = load_bank(working_judge("attributes")).reliable(side=64)
        editor = ready_editor(card["method"], G, judge, tmp_path)
        assert not any(tmp_path.iterdir()) and set(card["scores"]["ends"]) <= set(editor.calibration)
        ws = ws_for_seeds(G, [1])
        name = next(iter(editor.calibration))
        assert not torch.equal(editor.edit(ws, name, editor.range(name)[1]), ws)
        assert shipped_editor(card["method"], 500, G, judge) is None
        assert shipped_editor(card["method"], 10_000, G, judge.select(["age"])) is None
