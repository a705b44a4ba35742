"Latent to Latent: starts as the identity, learns what is asked, keeps what it is told to keep, and is one pass."

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hsr_nb.editing import Edit, LatentSet, LatentToLatent, load_editor
from hsr_nb.editing.conservation import TERMS, outside_head
from hsr_nb.editing.latent_to_latent import GROUPS, Mapper, Mappers, _layer_groups, _untrained, _wishes
from hsr_nb.interop.safetensors import load_safetensors, save_safetensors
from hsr_nb.judges.attributes import AttributeBank
from hsr_nb.judges.identity import IdentityEncoder
from hsr_nb.nets import Generator


def colours(img):
    "The mean red, green and blue of pictures, differentiable: a judge whose answers are known."
    return img.float().mean((2, 3))


def bank(names=("red", "green", "blue"), estimate=colours):
    return AttributeBank("colours", "1" * 64, names, lambda x: colours(x / 127.5 - 1), estimate=estimate)


def person():
    "An identity network that has nothing to say about colours."
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))
    spec = {"size": (16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return IdentityEncoder(net, {"name": "somebody", "sha256": "2" * 64, "input": spec})


@pytest.fixture(scope="module")
def world():
    "A generator that was never trained, with styles turned up so that its colours differ."
    torch.manual_seed(0)
    sizes = {"channel_base": 64, "channel_max": 8}
    G = Generator(z_dim=8, w_dim=32, img_resolution=16, synthesis_kwargs=sizes).eval().requires_grad_(False)
    for name, parameter in G.synthesis.named_parameters():
        if name.endswith("affine.weight"):
            parameter.mul_(2)
    return G, LatentSet.sample(G, bank(), n=300)


def fitted(world, steps=150, **kw):
    G, S = world
    return LatentToLatent(names=("red", "green"), steps=steps, **kw).fit(G, S, bank(), person())


@pytest.fixture(scope="module")
def editor(world):
    return fitted(world)


def codes(world, n=5):
    "Latents whose layers differ, [n, num_ws, w_dim]."
    G, S = world
    gen = torch.Generator().manual_seed(2)
    return S.w[torch.randint(len(S), (n, G.num_ws), generator=gen)]


def test_it_starts_as_the_identity(world):
    mappers = _untrained(*world, 2, GROUPS, seed=0)
    ws = codes(world)
    for wish in (torch.zeros(5, 2), torch.ones(5, 2)):
        assert torch.equal(mappers(ws, wish), ws)


def test_every_layer_has_the_mapper_of_its_group():
    assert _layer_groups(GROUPS, 18) == list(GROUPS)
    assert _layer_groups(GROUPS, 10) == [(0, 3), (4, 7), (8, 9)] and _layer_groups(GROUPS, 6) == [(0, 3), (4, 5)]
    torch.manual_seed(0)
    mappers = Mappers(8, 2, _layer_groups(GROUPS, 6))
    for net in mappers.nets:
        nn.init.normal_(net.body[-1].weight)
    w, wish = torch.randn(3, 8), torch.randn(3, 2)
    out = mappers(w[:, None].expand(-1, 6, -1), wish)
    assert torch.allclose(out[:, 0], mappers.nets[0](w, wish)) and torch.allclose(out[:, 5], mappers.nets[1](w, wish))
    assert not torch.allclose(out[:, 3], out[:, 4])
    linear = [layer for layer in Mapper(8, 2).body if isinstance(layer, nn.Linear)]
    assert [list(layer.weight.shape) for layer in linear] == [[8, 10], *[[8, 8]] * 4]


def test_wishes_are_few_and_large_enough():
    gen = torch.Generator().manual_seed(0)
    here, there = torch.rand(2, 2000, 5, generator=gen) * 1.2 - 0.1
    wish = _wishes(here, there, gen)
    asked = wish != 0
    far = (there.clamp(0, 1) - here).abs() >= 0.2
    assert torch.equal(asked.sum(1), far.sum(1).clamp(max=3))
    assert torch.allclose((here + wish)[asked], there.clamp(0, 1)[asked])
    often = asked.float().mean(0)
    assert often.min() > 0.9 * often.max()  # no attribute is preferred


def test_it_learns_what_it_is_asked(world, editor):
    G, S = world
    curve = editor.about["curve"]
    assert len(curve) == 10 and curve[-1]["target"] < 0.7 * curve[0]["target"]
    for name in ("cycle", "identity"):  # rises while the mapper leaves the identity, then falls
        assert curve[-1][name] < max(row[name] for row in curve)
    ws = S.w[:50, None].expand(-1, G.num_ws, -1)
    for k, name in enumerate(("red", "green")):
        step = 0.3 * float(editor.width[k])
        ends = [editor.edit(ws, name, side * step, native=True) for side in (-1, 1)]
        low, high = (colours(G.synthesis(end, noise_mode="const"))[:, k].mean() for end in ends)
        assert high - low > 0.3 * 2 * step


def test_one_pass_alone_or_in_a_batch(world, editor):
    ws = codes(world)
    calls = []
    hook = editor.mappers.register_forward_hook(lambda *_: calls.append(1))
    both = editor.edit(ws, {"red": 0.1, "green": torch.linspace(-0.1, 0.1, 5)}, native=True)
    hook.remove()
    assert calls == [1]
    other = editor.edit(ws[3:4], [Edit("green", 0.05), Edit("red", 0.1)], native=True)
    assert torch.allclose(both[3:4], other, atol=1e-5)


def test_conservation_keeps_what_it_names(world):
    "The same training with a heavy weight on the background changes it less."
    G, S = world
    ws = S.w[:50, None].expand(-1, G.num_ws, -1)
    mask = outside_head(16, 16).bool()
    before = G.synthesis(ws, noise_mode="const")
    changes, curves = [], []
    for conserve in ({}, {"background": 20.0}):
        editor = fitted(world, steps=80, conserve=conserve)
        after = G.synthesis(editor.edit(ws, "red", 0.3 * float(editor.width[0]), native=True), noise_mode="const")
        changes.append((after - before)[..., mask].square().mean())
        curves.append(editor.about["curve"][-1])
    assert changes[1] < 0.5 * changes[0]
    assert curves[0]["conserved"] == 0 < curves[1]["conserved"] and curves[1]["target"] > curves[0]["target"]


def test_a_term_of_ones_own_sees_the_edit(world):
    seen = []

    def blue(change):
        seen.append((change.names, change.asked.shape, change.before.shape == change.after.shape))
        assert change.after.requires_grad and change.scores_after.requires_grad and not change.before.requires_grad
        assert (change.asked[:, 2] == 0).all()
        return (change.scores_after - change.scores_before)[:, 2].square()

    fitted(world, steps=10, conserve={"blue": 1.0}, terms={**TERMS, "blue": blue})
    assert len(seen) == 10 and seen[0] == (("red", "green", "blue"), (8, 3), True)


def test_a_fit_is_the_same_twice_and_leaves_the_generator_alone(world, tmp_path):
    G, S = world
    loose = Generator(**G.init_kwargs).eval()
    loose.load_state_dict(G.state_dict())
    a = LatentToLatent(steps=12).fit(loose, S, bank(), person())
    assert all(p.grad is None and p.requires_grad for p in loose.parameters())
    b = LatentToLatent(steps=12).fit(G, S, bank(), person())
    assert all(torch.equal(x, y) for x, y in zip(a._parts()[0].values(), b._parts()[0].values()))
    loaded = load_editor(b.save(tmp_path / "l2l.safetensors"), G)
    ws = codes(world)
    assert torch.equal(loaded.edit(ws, "blue", 0.2, native=True), b.edit(ws, "blue", 0.2, native=True))
    assert loaded.about == b.about and loaded.mappers.groups == b.mappers.groups


def test_refusals(world, editor, tmp_path):
    G, S = world
    ws = codes(world)
    torch.manual_seed(1)
    stranger = Generator(**G.init_kwargs).eval()
    file = editor.save(tmp_path / "l2l.safetensors")
    bad = ws.clone()
    bad[0, 0, 0] = math.inf
    me = person()
    flat = replace(S, scores=S.scores * torch.tensor([1.0, 0.0, 1.0]))
    cases = [
        (lambda: load_editor(file, stranger), "belongs to the generator"),
        (lambda: LatentToLatent().fit(stranger, S, bank(), me), "belongs to the generator"),
        (lambda: LatentToLatent().fit(G, S), "learns from pictures"),
        (lambda: LatentToLatent().fit(G, S, bank(), None), "learns from pictures"),
        (lambda: LatentToLatent().fit(G, S, bank(estimate=None), me), "needs a judge with gradients"),
        (lambda: LatentToLatent().fit(G, S, bank(("a", "b", "c")), me), "colours reads a, b, c"),
        (lambda: LatentToLatent(names=("hat",)).fit(G, S, bank(), me), "no attribute 'hat'"),
        (lambda: LatentToLatent().fit(G, flat, bank(), me), "same in the whole latent set: green"),
        (lambda: LatentToLatent().fit(G, replace(S, w=S.w * math.nan), bank(), me), "not finite"),
        (lambda: LatentToLatent(conserve={"hair_colour": 1.0}).fit(G, S, bank(), me), "hair_hue or grey"),
        (lambda: editor.edit(ws, "blue", 0.1, native=True), "no attribute 'blue'; it has red, green"),
        (lambda: editor.edit(ws[..., :4], "red", 0.1, native=True), r"found \[5, 6, 4\]"),
        (lambda: editor.edit(bad, "red", 0.1, native=True), "not finite"),
        (lambda: LatentToLatent().edit(ws, "red", 0.1, native=True), "call fit"),
    ]
    for act, words in cases:
        with pytest.raises(ValueError, match=words):
            act()


def test_a_file_cannot_lie_about_its_parts(world, editor, tmp_path):
    G, _ = world
    tensors, meta = load_safetensors(editor.save(tmp_path / "l2l.safetensors"))
    cases = [
        ({"parts.width": torch.zeros(2)}, {}, "width"),
        ({"parts.mappers.nets.0.body.0.weight": torch.zeros(8, 3)}, {}, "does not fit"),
        ({}, {"groups": [[0, 3]]}, "once, in order"),
        ({}, {"groups": [[0, 3], [4, "x"]]}, "invalid literal|its parts"),
        ({}, {"groups": [[i, i] for i in range(6)]}, "lacks"),
    ]
    for parts, settings, words in cases:
        entry = meta["editor"] | {"settings": meta["editor"]["settings"] | settings}
        file = save_safetensors(tmp_path / "bad.safetensors", tensors | parts, {"editor": entry})
        with pytest.raises(ValueError, match=words):
            load_editor(file, G)


def test_the_experiment_runs(tmp_path):
    papermill = pytest.importorskip("papermill")
    root = Path(__file__).parents[1]
    papermill.execute_notebook(
        root / "nbs/experiments/conservation.ipynb",
        tmp_path / "out.ipynb",
        dict(run=True, latents=32, steps=10, faces=2, seeds=2, folder=str(tmp_path)),
        kernel_name="python3",
        progress_bar=False,
        cwd=str(root),
    )
    (file,) = tmp_path.glob("conservation-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["conserved"] for row in rows] == 2 * ["nothing", "background", "hair colour"]
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
