"StyleFlow's equation and norms against numbers of the published code, and what an editor made of them must keep."

import json
import math
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr_nb.editing import Edit, LatentSet, StyleFlow, load_editor
from hsr_nb.editing.flow import ConditionalFlow
from hsr_nb.editing.styleflow import GAINS, LAYERS
from hsr_nb.interop.safetensors import load_safetensors, save_safetensors
from hsr_nb.judges.attributes import AttributeBank
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import generator_hash

ORACLE = json.loads((Path(__file__).parent / "files/styleflow_oracle.json").read_text())


def published_name(name: str) -> str:
    "The name that the published code gives a tensor of ours."
    words = {
        "before": "chain.0",
        "dynamics": "chain.1.odefunc.diffeq",
        "root_time": "chain.1.sqrt_end_time",
        "after": "chain.2",
        "layer": "_layer",
        "gate": "_hyper_gate",
        "shift": "_hyper_bias",
        "log_scale": "weight",
        "mean": "running_mean",
        "variance": "running_var",
    }
    return ".".join(words.get(part, part) for part in name.split("."))


@pytest.fixture
def flow():
    "The small flow of the oracle, filled by its rule."
    flow = ConditionalFlow(4, 3, hidden=6, depth=2, tolerance=1e-9).double().eval()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            theirs = published_name(name)
            assert list(parameter.shape) == ORACLE["parameters"][theirs], theirs
            random = np.random.RandomState(zlib.crc32(theirs.encode()))
            parameter.copy_(torch.tensor(0.5 * random.standard_normal(parameter.shape)))
        flow.root_time.fill_(1.1)
        for norm in (flow.before, flow.after):
            norm.mean.copy_(torch.linspace(-0.2, 0.3, 4))
            norm.variance.copy_(torch.linspace(0.8, 1.4, 4))
    return flow


def grid(b: float, layer: float, k: float) -> torch.Tensor:
    "Numbers that follow a wave, [2, 3, 4]."
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (2, 3, 4)), indexing="ij")
    return b * axes[0] + layer * axes[1] + k * axes[2]


X = grid(1.3, 0.8, 0.6).sin()
PROBE = grid(1.1, 0.7, 1.9).cos()
CONDITION = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)[:, None]
NEW_CONDITION = torch.tensor([[0.3, 1.0, 0.5], [-0.2, 0.1, 0.4]], dtype=torch.float64)[:, None]


def expected(name: str) -> torch.Tensor:
    return torch.tensor(ORACLE[name], dtype=torch.float64)


def test_the_field_is_the_published_one(flow):
    x = X.clone().requires_grad_()
    velocity = flow.dynamics(torch.tensor(0.3, dtype=torch.float64), x, CONDITION)
    (pulled,) = torch.autograd.grad(velocity, x, PROBE)
    told = ORACLE["dynamics_at_t_0_3"]
    torch.testing.assert_close(velocity.detach(), torch.tensor(told["dx"]).double(), atol=1e-7, rtol=1e-7)
    divergence = -(pulled * PROBE).sum(-1, keepdim=True)
    torch.testing.assert_close(divergence, torch.tensor(told["minus_divergence"]).double(), atol=1e-7, rtol=1e-6)


def test_the_way_there_and_back_is_the_published_one(flow, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", lambda x: PROBE)
    with torch.no_grad():
        z, log_det = flow.with_log_det(X, CONDITION)
        assert torch.allclose(z, flow(X, CONDITION), atol=1e-7)
        torch.testing.assert_close(z, expected("z"), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(-log_det[..., None], expected("delta_logp"), atol=1e-6, rtol=1e-6)
        assert (flow.inverse(z, CONDITION) - X).abs().max() < 1e-6
        torch.testing.assert_close(flow.inverse(z, NEW_CONDITION), expected("edited"), atol=1e-6, rtol=1e-6)
        summed = flow.log_prob(X, CONDITION).sum(1, keepdim=True)
    right = expected("log_likelihood_of_a_normalised_gaussian")
    torch.testing.assert_close(summed, right, atol=1e-5, rtol=1e-6)
    per_element = (3 * 4 - 3) * 0.5 * 4 * math.log(2 * math.pi)
    torch.testing.assert_close(right - expected("log_likelihood_as_trained"), torch.full((2, 1), per_element).double())


def test_without_zuko_it_says_what_to_install(flow, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.transforms", None)
    with pytest.raises(ImportError, match=r'pip install "hsr_nb\[editing\]"'):
        flow(X, CONDITION)


def test_a_norm_follows_behind(flow):
    quiet = flow.before(X)
    flow.before.train()
    assert torch.equal(flow.before(X), quiet)  # this batch moves the statistics for the next one
    told = ORACLE["batch_norm_after_one_training_pass"]
    mean, variance = (torch.tensor(told[f"chain.0.running_{what}"]).double() for what in ("mean", "var"))
    torch.testing.assert_close(flow.before.mean, mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(flow.before.variance, variance, atol=1e-6, rtol=0)
    assert (flow.before.inverse(flow.before.eval()(X)) - X).abs().max() < 1e-12


def test_a_flow_finds_what_made_the_points():
    "Points are a mixture of the conditions and of noise; another condition moves a point by its share."
    gen = torch.Generator().manual_seed(0)
    mixture = torch.randn(2, 4, generator=gen)
    conditions = torch.randn(2000, 2, generator=gen)
    points = conditions @ mixture + 0.5 * torch.randn(2000, 4, generator=gen)
    torch.manual_seed(0)
    flow = ConditionalFlow(4, 2, hidden=16, depth=2).train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for rows in torch.randperm(2000, generator=gen).repeat(4).split(125):
        optimizer.zero_grad()
        (-flow.log_prob(points[rows], conditions[rows]).mean()).backward()
        optimizer.step()
    flow.eval().requires_grad_(False)
    wanted = torch.tensor([1.0, -0.5])
    moved = flow.inverse(flow(points, conditions), conditions + wanted) - points
    direction = wanted @ mixture
    assert (moved.mean(0) - direction).norm() < 0.15 * direction.norm()


# ---- the editor


@pytest.fixture(scope="module")
def world():
    "A generator, and latents whose two attributes are known: a direction of w, and the length of another."
    torch.manual_seed(0)
    sizes = {"channel_base": 64, "channel_max": 8}
    G = Generator(z_dim=8, w_dim=8, img_resolution=16, synthesis_kwargs=sizes).eval().requires_grad_(False)
    z = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    w = G.mapping(z, None)[:, 0]
    scores = torch.stack([w[:, 0], w[:, 1].abs()], 1)
    return G, LatentSet(z, w, scores, ("tilt", "age"), 0, generator_hash(G), "known", "0" * 64)


@pytest.fixture(scope="module")
def editor(world):
    return StyleFlow(epochs=2, layers={"age": (2, 3)}).fit(*world)


def codes(world, n=5):
    "Latents whose layers differ, [n, num_ws, w_dim]."
    G, S = world
    gen = torch.Generator().manual_seed(2)
    return S.w[torch.randint(len(S), (n, G.num_ws), generator=gen)]


def test_an_edit_comes_back_and_nothing_is_nothing(world, editor):
    for ws in (codes(world), world[1].w[:5, None].expand(-1, 6, -1)):
        assert (editor.edit(ws, "tilt", 0.0, native=True) - ws).abs().max() < 1e-3
        there = editor.edit(ws, "tilt", 0.3, native=True)
        assert (there - ws).abs().max() > 1e-2
        again = editor.edit(
            ws, [Edit("tilt", 0.3), Edit("age", 0.2), Edit("age", -0.2), Edit("tilt", -0.3)], native=True
        )
        assert (again - ws).abs().max() < 1e-3


def test_only_the_layers_of_an_attribute_move(world, editor):
    ws = codes(world)
    moved = editor.edit(ws, "age", 0.5, native=True) != ws
    assert moved.any(2)[:, 2:4].all() and not moved[:, :2].any() and not moved[:, 4:].any()
    assert editor.layers == {"tilt": (0, 5), "age": (2, 3)}


def test_layers_are_points_of_their_own(world, editor):
    "A code from the mapping network, whose layers are copies, is solved once; the others layer by layer: the same."
    w = world[1].w[:3]
    same = w[:, None].expand(-1, 6, -1)
    other = same.clone()
    other[:, 5] += 0.1
    a, b = (editor.edit(ws, "tilt", torch.tensor([0.2, -0.3, 0.0]), native=True) for ws in (same, other))
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-4) and (a[:, 5] - b[:, 5]).abs().max() > 1e-2


def test_a_gain_stretches_the_condition(world, editor):
    double = StyleFlow()
    double.__dict__ |= editor.__dict__ | {"gains": {"tilt": 2.0}}
    ws = codes(world)
    assert torch.allclose(
        double.edit(ws, "tilt", 0.2, native=True), editor.edit(ws, "tilt", 0.4, native=True), atol=1e-5
    )


def test_the_second_step_starts_where_the_first_one_ended(world, editor):
    "What the paper calls re-encoding: the noise of a later step is that of what was kept, under the new attributes."
    ws = codes(world)
    now = (editor.reader(ws) - editor.reader.middle) / editor.reader.unit
    then = now.clone()
    then[..., 1] += GAINS["age"] * 0.4 / editor.reader.unit[1]
    kept = editor.edit(ws, "age", 0.4, native=True)
    last = then.clone()
    last[..., 0] += 0.3 / editor.reader.unit[0]
    by_hand = editor.flow.inverse(editor.flow(kept, then), last)
    both = editor.edit(ws, {"age": 0.4, "tilt": 0.3}, native=True)
    assert torch.allclose(both, by_hand, atol=1e-4)


def test_a_fit_is_the_same_twice_and_a_file_is_the_editor(world, editor, tmp_path):
    G, S = world
    again = StyleFlow(epochs=2, layers={"age": (2, 3)}).fit(G, S)
    assert all(torch.equal(a, b) for a, b in zip(again._parts()[0].values(), editor._parts()[0].values()))
    loaded = load_editor(editor.save(tmp_path / "flow.safetensors"), G)
    ws = codes(world)
    assert torch.equal(loaded.edit(ws, "age", 0.3, native=True), editor.edit(ws, "age", 0.3, native=True))
    assert loaded.layers == editor.layers and loaded.about == editor.about


def test_published_ranges_and_gains():
    told = {"gender": (0, 7), "glasses": (2, 3), "yaw": (0, 3), "pitch": (0, 3), "baldness": (0, 5)}
    told |= {"beard": (5, 9), "age": (4, 7), "expression": (4, 5), "light": (7, 11)}
    assert told.items() <= LAYERS.items() and (LAYERS["hair"], LAYERS["smile"]) == (
        told["baldness"],
        told["expression"],
    )
    gains = [
        GAINS.get(name, 1) for name in ("gender", "glasses", "yaw", "pitch", "baldness", "beard", "age", "expression")
    ]
    assert gains == [1.5, 2.5, 1, 1, 2, 1.7, 0.93, 1]


def test_refusals(world, editor, tmp_path):
    G, S = world
    ws = codes(world)
    torch.manual_seed(1)
    stranger = Generator(**G.init_kwargs).eval()
    file = editor.save(tmp_path / "flow.safetensors")
    flat = replace(S, scores=S.scores * torch.tensor([1.0, 0.0]))
    bad = ws.clone()
    bad[0, 0, 0] = float("nan")
    cases = [
        (lambda: load_editor(file, stranger), "belongs to the generator"),
        (lambda: StyleFlow().fit(stranger, S), "belongs to the generator"),
        (lambda: editor.edit(ws, "hat", 0.1, native=True), "no attribute 'hat'; it has tilt, age"),
        (lambda: editor.edit(ws[:, :4], "age", 0.1, native=True), r"\[B, 6, 8\] for this editor, found \[5, 4, 8\]"),
        (lambda: editor.edit(bad, "age", 0.1, native=True), "not finite"),
        (lambda: editor.edit(ws, "age", 0.1), "no common unit"),
        (lambda: StyleFlow().edit(ws, "age", 0.1, native=True), "call fit"),
        (lambda: StyleFlow(names=("hat",)).fit(G, S), "no attribute 'hat'"),
        (lambda: StyleFlow().fit(G, flat), "'age' is not finite, or the same"),
        (lambda: StyleFlow().fit(G, replace(S, w=S.w * float("nan"))), "finite"),
    ]
    for act, words in cases:
        with pytest.raises(ValueError, match=words):
            act()


def test_a_file_cannot_ask_for_memory_or_time(world, editor, tmp_path):
    G, _ = world
    tensors, meta = load_safetensors(editor.save(tmp_path / "flow.safetensors"))
    wide = dict(tensors)
    wide["parts.flow.dynamics.layers.0.layer.weight"] = torch.zeros(200_000, 8)
    with pytest.raises(ValueError, match="does not fit the network"):
        load_editor(save_safetensors(tmp_path / "wide.safetensors", wide, meta), G)
    steep = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith("layer.weight"):
            steep[name] = tensor * 1e4
    mad = load_editor(save_safetensors(tmp_path / "steep.safetensors", steep, meta), G)
    with pytest.raises(ValueError, match="no end after 3000 evaluations|finite"):
        mad.edit(codes(world), "tilt", 0.3, native=True)


def test_a_judge_chooses_layers(world):
    "The picture's brightness is read from its pixels; ranges are tried with the judge that scored the set."
    G, S = world
    judge = AttributeBank("light", "1" * 64, ("light",), lambda x: x.float().mean((1, 2, 3)))
    S = LatentSet.sample(G, judge, n=200)
    found = StyleFlow(epochs=1).fit(G, S, judge)
    first, last = found.layers["light"]
    assert 0 <= first <= last < 6
    assert StyleFlow(epochs=1).fit(G, S).layers["light"] == (5, 5)  # published 7 to 11, cut
    with pytest.raises(ValueError, match="was judged by"):
        StyleFlow(epochs=1).fit(G, world[1], judge)
