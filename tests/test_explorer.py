"""The explorer without a browser: recipes that survive anything, directions with an oracle, and widgets that coalesce.

Whatever is wrong is said in one sentence."""

import asyncio
import copy
import io
import json
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr_nb.base.pictures import to_uint8
from hsr_nb.editing import GANSpace, SeFa, load_directions, save_directions
from hsr_nb.editing.directions import calibrated, move
from hsr_nb.editing.ganspace import principal_components
from hsr_nb.editing.sefa import style_affines
from hsr_nb.explore import Explorer, LatentExplorer, Recipe
from hsr_nb.explore.film import encode, walk_frames
from hsr_nb.explore.hands import painted_mask
from hsr_nb.explore.jobs import finished
from hsr_nb.explore.photo import AT_HAND, at_hand
from hsr_nb.explore.readings import curve, sigma_steps
from hsr_nb.explore.recipe import Edit, History
from hsr_nb.explore.recipe_file import dump_history, parse_history
from hsr_nb.explore.session import VIEWS, Session, difference, frames, preview_level, variations
from hsr_nb.interop import CheckpointError, load_generator, save_safetensors
from hsr_nb.interop.architecture import fill
from hsr_nb.interop.convert import ship_generator
from hsr_nb.interop.embedded import embedded_checkpoint, embedded_generators
from hsr_nb.interop.safetensors import subset
from hsr_nb.inversion.result import Inversion, joined
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import generator_hash

ROOT = Path(__file__).parents[1]
FAST = dict(components=3, samples=500)
anywidget = pytest.mark.skipif(
    not all(__import__("importlib").util.find_spec(m) for m in ("ipywidgets", "anywidget")),
    reason="needs ipywidgets and anywidget",
)


def network(resolution=32, c_dim=0, channels=3, seed=0, z_dim=8, **synthesis):
    torch.manual_seed(seed)
    G = (
        Generator(
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=8,
            img_resolution=resolution,
            img_channels=channels,
            mapping_kwargs=dict(num_layers=2),
            synthesis_kwargs=dict(channel_base=256, channel_max=16, **synthesis),
        )
        .eval()
        .requires_grad_(False)
    )
    G.mapping.w_avg.normal_()
    for level in G.synthesis.levels:
        if (rgb := getattr(G.synthesis, f"b{level}").torgb) is not None:
            rgb.weight.mul_(0.3)
    return G


def save(G, path):
    return str(save_safetensors(path, {f"G_ema.{k}": v for k, v in G.state_dict().items()}, {"G": G.init_kwargs}))


@pytest.fixture(scope="module")
def G():
    return network()


@pytest.fixture(scope="module")
def session(G):
    return Session(G, network(seed=1), **FAST)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    "Names and directions that a person of this machine has kept are none of a test's."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def ex(G):
    return Explorer(G, network(seed=1), **FAST)


@pytest.fixture
def live(G):
    return LatentExplorer(G, network(seed=1), **FAST)


# ---- directions


def test_sefa_maximises_the_change_of_style(G):
    found = SeFa(components=8).fit(G)
    rows = torch.cat([a.weight / a.weight.norm(dim=1, keepdim=True) for a in style_affines(G)])
    gains = (rows @ found.found.vectors.T).square().sum(0)
    assert torch.allclose(gains, found.values[:8], rtol=1e-3) and (gains.diff() < 1e-4).all()
    others = torch.nn.functional.normalize(torch.randn(200, 8), dim=1)
    assert (rows @ others.T).square().sum(0).max() <= gains[0] + 1e-3


def test_affines_are_in_the_order_of_ws(G):
    "A step in one layer of ws changes the output of that affine map and of no other (inner colours excepted)."
    ws, affines = torch.randn(1, G.num_ws, 8), style_affines(G)
    for i in range(G.num_ws):
        seen = {}
        hooks = [a.register_forward_hook(lambda m, x, y, k=k: seen.__setitem__(k, x[0])) for k, a in enumerate(affines)]
        G.synthesis(move(ws, torch.ones(8), (i, i)), noise_mode="const")
        for h in hooks:
            h.remove()
        assert [k for k in seen if not torch.equal(seen[k], ws[:, k])] == [i]


def test_pca_is_numpys_and_does_not_depend_on_the_batches():
    x = torch.randn(3000, 6, generator=torch.manual_seed(0)) @ torch.randn(6, 6, generator=torch.manual_seed(1)) + 50
    mean, share, V = principal_components(x.split(700))
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T.astype(np.float64), bias=True))
    assert np.allclose(share, values[::-1] / values.sum(), atol=1e-5)
    assert np.allclose(np.abs((V.numpy() @ vectors[:, ::-1]).diagonal()), 1, atol=1e-3)
    for a, b in zip((mean, share, V), principal_components(x.split(2999))):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("make", [lambda G: GANSpace(3, 500).fit(G).found, lambda G: SeFa((0, 3), 3).fit(G).found])
def test_directions_are_calibrated_and_know_their_generator(G, make, tmp_path):
    d = make(G)
    assert torch.allclose(d.vectors @ d.vectors.T, torch.eye(3), atol=1e-4) and (d.sigma > 0).all()
    file = save_directions(tmp_path / "d.safetensors", d)
    again = load_directions(file, G)
    assert torch.equal(again.vectors, d.vectors) and torch.equal(again.sigma, d.sigma)
    assert (again.method, again.layers, again.names) == (d.method, d.layers, d.names)
    with pytest.raises(ValueError, match="belong to the generator"):
        load_directions(file, network(seed=1))
    with pytest.raises(ValueError, match="no directions"):
        load_directions(save(G, tmp_path / "g.safetensors"), G)


@pytest.mark.parametrize(
    "vectors", [torch.zeros(2, 8), torch.full((1, 8), float("nan")), torch.ones(2, 7), torch.ones(8)]
)
def test_no_directions_from_nonsense(G, vectors):
    with pytest.raises(ValueError, match="direction"):
        calibrated(G, "x", vectors)


# ---- recipes


def test_random_recipes_survive_json():
    rng = random.Random(0)
    for _ in range(200):
        r = Recipe(
            rng.randrange(2**32),
            rng.uniform(-2, 2),
            rng.choice([None, 0, 5]),
            rng.choice([None, 2]),
            tuple((rng.randrange(2**32), rng.random()) for _ in range(rng.randrange(3))),
            rng.choice([None, 3]),
            tuple(range(rng.randrange(4))),
            tuple(Edit(f"pca {k}", rng.gauss(0, 3), (k, k + 3)) for k in range(rng.randrange(3))),
        )
        h = History([r], named={"ü <b>": r})
        again = parse_history(dump_history(h, "abc", "net"), "abc")
        assert again.now == r and again.named == {"ü <b>": r} and hash(again.now) == hash(r)


def mutations(text):
    "A recipe file with every value replaced by something it is not, and with every key missing."
    d = json.loads(text)
    for bad in (None, "x", -1, 1e999, [], {}, True, [[]], 2**64):
        for key in d["steps"][0]:
            optional = bad is None and key in ("cutoff", "class_index", "mix_seed")
            empty = bad == [] and key in ("bred", "mix_layers", "edits")
            if optional or empty:
                continue
            yield key, bad, json.dumps({**d, "steps": [{**d["steps"][0], key: bad}]})
        for key in ("at", "steps", "named", "format", "generator"):
            yield key, bad, json.dumps({**d, key: bad})
        for key in ("direction", "strength", "layers"):
            if (bad, key) != ("x", "direction"):
                edit = {**d["steps"][0]["edits"][0], key: bad}
                yield key, bad, json.dumps({**d, "steps": [{**d["steps"][0], "edits": [edit]}]})
    for key in ("steps", "at", "named", "generator", "format"):
        yield key, "missing", json.dumps({k: v for k, v in d.items() if k != key})


def test_damaged_recipes_are_refused_in_one_sentence():
    text = dump_history(History([Recipe(3, edits=(Edit("pca 1", 1.0, (0, 7)),))]), "abc")
    harmless = 0
    for key, bad, t in mutations(text):
        try:
            h = parse_history(t, "abc")
        except ValueError as e:
            assert "\n" not in str(e) and len(str(e)) < 400
        else:  # whatever is accepted is a good recipe of the same kind
            harmless += 1
            assert parse_history(dump_history(h, "abc"), "abc").now == h.now, (key, bad)
    assert harmless < 30
    for raw in (b"", b"\xff\xfe", b"[" * 100_000, b"null", b'{"format": "hsr_nb recipe 1"}', text.encode()[:-20]):
        with pytest.raises(ValueError):
            parse_history(raw, "abc")


def test_history_forgets_the_oldest():
    h = History()
    for s in range(700):
        h.push(Recipe(seed=s))
    assert len(h.steps) == h.longest and h.now.seed == 699 and h.steps[0].seed == 200


# ---- the session


def test_the_same_recipe_is_the_same_picture(session):
    r = Recipe(
        seed=4,
        psi=0.8,
        cutoff=3,
        bred=((7, 0.5),),
        mix_seed=2,
        mix_layers=(1, 5),
        edits=(Edit("pca 1", 2.0, (0, 7)), Edit("sefa 2", -1.0, (2, 3))),
    )
    again = parse_history(dump_history(History([r]), "a"), "a").now
    one, two = frames(session, r, VIEWS[3]), frames(session, again, VIEWS[3])
    assert all(torch.equal(one[k], two[k]) for k in one) and [*one] == ["A", "B", "|A−B|"]
    assert not torch.equal(one["A"], frames(session, replace(r, edits=()))["A"])


def test_edits_touch_only_their_layers(session):
    a, b = session.ws(Recipe(seed=1)), session.ws(Recipe(seed=1).moved("pca 2", 3.0, (2, 4), (0, 7)))
    changed = (a != b).any(2)[0]
    assert changed.tolist() == [False, False, True, True, True, False, False, False]
    shift = (b - a)[0, 3] @ session.sets["pca"].vectors[1] / session.sets["pca"].sigma[1]
    assert shift.item() == pytest.approx(3, abs=1e-4)


def test_both_networks_get_the_same_latent_and_the_same_vector(G):
    twins = Session(G, network(), **FAST)
    r = Recipe(seed=3).moved("sefa 1", 2.0, (0, 7), (0, 7))
    shown = frames(twins, r, VIEWS[3])
    assert torch.equal(shown["A"], shown["B"]) and not shown["|A−B|"].any()


def test_difference_is_a_scale_from_black_to_white():
    a = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert not difference(a, a).any() and (difference(a, a + 200) > 180).all()
    assert difference(a, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 3, 8, 8)


def test_preview_fits_the_budget(session):
    session.ms = {"A": {16: 5.0, 32: 60.0}, "B": {16: 5.0, 32: 60.0}}
    assert preview_level(session, "A") is None
    assert preview_level(session, "A | B") == 16
    assert preview_level(session, "A", budget=1) == 16
    assert frames(session, Recipe(), "A | B", 16)["B"].shape[-1] == 16


def test_only_what_moves_is_in_half_precision(G):
    "A preview may be a few grey levels off; what rests, is judged or saved is not."
    one, exact = Session(G, **FAST), Session(G, **FAST)
    one.half = {"A": True}
    r = Recipe(seed=5)
    moving, still = ((frames(s, r, "A", 16)["A"], frames(s, r)["A"]) for s in (one, exact))
    off = (moving[0].int() - still[0].int()).abs()
    assert 0 < off.max() <= 16 and off.float().mean() < 2 and torch.equal(moving[1], still[1])
    assert torch.equal(one.draw(one.ws(r), level=16), exact.draw(exact.ws(r), level=16)) and not exact.half["A"]


@pytest.mark.parametrize(
    "net",
    [
        dict(resolution=16),
        dict(architecture="orig"),
        dict(channels=1),
        dict(channels=4),
        dict(channels=2),
        dict(c_dim=3),
    ],
)
def test_other_kinds_of_generators(net):
    e = Explorer(network(**net), **FAST).set(seed=3).move("pca 1", 1.5)
    assert e.sheet().width > 200 and e.picture().size[0] >= 256
    readable = net.get("channels", 3) in (1, 3) and net.get("resolution", 32) >= 32
    assert (e.session.judge is None) == (not readable)


def test_a_wide_generator_keeps_its_shape():
    torch.manual_seed(0)
    wide = (
        Generator(
            z_dim=8,
            w_dim=8,
            img_resolution=16,
            base_size=(4, 6),
            synthesis_kwargs=dict(channel_base=128, channel_max=16),
        )
        .eval()
        .requires_grad_(False)
    )
    assert Explorer(wide, **FAST).picture().size == (264, 176)


def test_variations_are_repeatable_and_breed(ex):
    first = ex.variations()
    assert first == variations(ex.recipe, 0, ex.amount) and len(set(first)) == 8
    ex.breed(2)
    assert ex.recipe == first[2] and ex.variations()[0].bred[0] == first[2].bred[0]


def test_curve_of_a_constant_direction_is_zero(session):
    c = curve(session, Recipe(seed=2), "pca 1")
    here = session.judge(session.draw(session.ws(Recipe(seed=2))))[0]
    assert c.logits.shape == (11, len(session.judge.attribute_names)) and c.mean > 0
    assert np.allclose(c.logits[5], here, atol=1e-4)
    session.steps["still"] = lambda s: torch.zeros(8)
    assert curve(session, Recipe(seed=2), "still").mean == pytest.approx(0, abs=1e-6)
    del session.steps["still"]


def test_als_of_a_path_is_the_published_formula(session):
    from hsr_nb.metrics.als import score_paths

    c = curve(session, Recipe(seed=2), "pca 2")
    assert c.mean == pytest.approx(
        score_paths(c.logits[None], c.names, finished(sigma_steps(session)))["als_mean"], rel=1e-9
    )


# ---- what can be wrong


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(seed=2**32), "seed"),
        (dict(cutoff=9), "cutoff"),
        (dict(class_index=0), "unconditional"),
        (dict(mix_seed=1, mix_layers=(8,)), "layers"),
        (dict(psi=float("inf")), "psi"),
    ],
)
def test_a_refused_step_changes_nothing(ex, change, said):
    ex.set(seed=2)
    before = ex.picture().tobytes()
    with pytest.raises(ValueError, match=said):
        ex.set(**change)
    assert len(ex.history.steps) == 2 and ex.picture().tobytes() == before


def test_networks_that_cannot_share_a_latent(G):
    with pytest.raises(ValueError, match="z_dim is 8 in A and 4 in B"):
        Session(G, network(z_dim=4), **FAST)
    with pytest.raises(ValueError, match="classes|conditional|c_dim"):
        Session(G, network(c_dim=2), **FAST)


def test_b_with_fewer_layers_is_clipped_and_lacks_the_rest(G):
    e = Explorer(G, network(16), **FAST).move("pca 1", 2.0)
    assert frames(e.session, e.recipe, "B")["B"].shape[-1] == 16  # layers 0-7 of A act on 0-5 of B
    with pytest.raises(ValueError, match="B has layers 0 to 5 only"):
        e.move("pca 1", 2.0, layers=(6, 7))


def test_editors_of_a_move_a_b_of_fewer_layers():
    "The shipped editors of a 64-pixel network, beside a 32-pixel one."
    e = Explorer("synthfaces64-baseline", "synthfaces-baseline", **FAST)
    before = frames(e.session, e.recipe, "B")["B"]
    e.move("interfacegan smile", 1.0)
    assert not torch.equal(frames(e.session, e.recipe, "B")["B"], before)
    assert e.sheet().width > 500


def test_given_directions_come_first():
    found = [SeFa(components=2).fit(load_generator("synthfaces64-baseline")).found]
    e = Explorer("synthfaces64-baseline", directions=found, judge="synthfaces-attributes")
    assert list(e.session.sets) == ["sefa"]


def test_files_that_are_no_networks(ex, tmp_path):
    (text := tmp_path / "a.safetensors").write_text("not a checkpoint")
    (tmp_path / "empty").mkdir()
    before = ex.picture().tobytes()
    for bad in (text, tmp_path / "empty", tmp_path / "nothing", "synthfaces-tiny", ""):
        with pytest.raises((CheckpointError, ValueError)) as e:
            ex.open(str(bad))
        assert "\n" not in str(e.value)
    assert ex.picture().tobytes() == before


def test_recipe_files(ex, tmp_path):
    ex.set(seed=8).move("pca 1", 2.0).keep("one").set(seed=9)
    file = ex.save(tmp_path / "r.json")
    before = ex.picture().tobytes()
    other = Explorer(ex.session.nets["A"], **FAST).load(file)
    assert other.picture().tobytes() == before
    assert other.undo().recipe == ex.history.named["one"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(ValueError, match="another generator"):
        Explorer(network(seed=5), **FAST).load(file)
    broken = json.loads(file.read_text())
    broken["steps"][broken["at"]]["edits"] = [asdict(Edit("nobody 1", 1.0, (0, 1)))]
    with pytest.raises(ValueError, match="no direction 'nobody 1'"):
        ex.load(json.dumps(broken).encode())
    assert ex.picture().tobytes() == before


# ---- walks


@pytest.mark.parametrize("kind", ["gif", "mp4", "png"])
def test_walks(ex, kind, tmp_path):
    if kind == "mp4":
        pytest.importorskip("av")
        pytest.importorskip("imageio")
    ex.keep("a").set(seed=5).keep("b")
    one, two = (ex.walk(tmp_path / f"{n}.{kind}", steps=5) for n in "xy")
    assert one.read_bytes()[:40] == two.read_bytes()[:40] and one.stat().st_size == two.stat().st_size > 500
    if kind == "gif":
        assert Image.open(one).n_frames == 10 and one.read_bytes() == two.read_bytes()
    if kind == "mp4":
        import imageio.v3 as iio

        assert iio.imread(one, plugin="pyav").shape == (10, 256, 256, 3)


def test_walks_that_cannot_be(ex, tmp_path):
    with pytest.raises(ValueError, match="two stations"):
        ex.walk(tmp_path / "w.gif")
    with pytest.raises(ValueError, match="gif, mp4 or png"):
        ex.walk(tmp_path / "w.avi", "pca 1")
    with pytest.raises(ValueError, match="without frames"):
        encode([])
    assert not [*tmp_path.iterdir()]


def test_a_walk_passes_through_its_stations(session):
    stations = [Recipe(seed=1), Recipe(seed=2)]
    film = [*walk_frames(session, stations, steps=4)]
    for at, r in ((0, 0), (4, 1)):
        assert torch.equal(film[at], session.draw(session.ws(stations[r]))[0])


# ---- widgets


@anywidget
def test_slider_picture_undo(live):
    def px():
        return [t["pixels"] for t in live.screen.shown.tiles]

    first, slider = px(), live.panels.directions.shown()[0].slider
    for v in (0.5, 1.0, 2.0):
        slider.value = v
    moved = px()
    assert moved[0] != first[0] and moved[1] != first[1] and len(live.history.steps) == 2, "one movement is one step"
    live.undo()
    assert px() == first and slider.value == 0
    live.redo()
    assert px() == moved and slider.value == 2
    assert live.picture().tobytes() != LatentExplorer(live.session.nets["A"], static=True, **FAST).picture().tobytes()


@anywidget
def test_another_slider_is_another_step(live):
    rows = live.panels.directions.shown()
    rows[0].slider.value = 1.0
    rows[1].slider.value = 1.0
    rows[0].slider.value = 2.0
    live.panels.truncation.psi.value = 0.4
    assert len(live.history.steps) == 5 and live.undo().undo().recipe.edit("pca 1").strength == 1.0
    live.hand.moved = -10.0
    rows[0].slider.value = 3.0
    live.hand.moved = -10.0  # a long pause
    rows[0].slider.value = 3.5
    assert live.undo().recipe.edit("pca 1").strength == 3.0


@anywidget
def test_errors_are_said_and_the_picture_stays(live, tmp_path):
    live.set(seed=3)
    before = [t["pixels"] for t in live.screen.shown.tiles]
    (tmp_path / "x.safetensors").write_text("no")
    bad = {
        "x.safetensors is no": lambda: live.open(str(tmp_path / "x.safetensors")),
        "recipe": lambda: live.load(b"{}"),
        "layers": lambda: live.move("pca 1", 1.0, (3, 99)),
        "z_dim": lambda: live.open(live.session.nets["A"], network(z_dim=4)),
        "division": lambda: 1 / 0,
    }
    for said, f in bad.items():
        live.act(f)
        assert said in live.screen.message.value and 'role="alert"' in live.screen.message.value
        assert [t["pixels"] for t in live.screen.shown.tiles] == before
    live.panels.directions.shown()[0].slider.value = 1.0
    assert not live.screen.message.value and [t["pixels"] for t in live.screen.shown.tiles] != before


@anywidget
def test_messages_and_names_cannot_inject(live):
    live.act(lambda: live.recall("<script>alert(1)</script>"))
    assert "<script>" not in live.screen.message.value and "&lt;script&gt;" in live.screen.message.value
    live.keep('"><img src=x>')
    live.set(seed=5).keep("plain")
    kept = live.panels.tabbed["kept"]
    for widget in (kept.file, kept.picture, kept.count):
        assert "<img" not in widget.value
    tree = kept.tree.box.value
    ours = tree.count('<img alt="" src="data:image/png;base64,')
    assert tree.count("<img") == ours and "&lt;img src=x&gt;" in tree, "its own pictures, and names as text"
    live.rename("pca 1", "<script>alert(2)</script>")
    title = live.panels.directions.shown()[0].title.value
    assert "<script>" not in title and "&lt;script&gt;" in title
    live.dropped("<img src=x>.png", b"no picture")
    live.panels.photo.take("<b>photo</b>.png", b"text")
    assert "<b>photo" not in live.work.words.value and "is not an image" in live.screen.message.value


@anywidget
def test_a_broken_network_is_said_and_left(live):
    slider = live.panels.directions.shown()[0].slider
    slider.value = 1.0
    before, whole = [t["pixels"] for t in live.screen.shown.tiles], live.session.draw
    live.session.draw = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("out of memory\nsecond line"))
    slider.value = 3.0
    assert "RuntimeError: out of memory<" in live.screen.message.value and slider.value == 1.0
    assert [t["pixels"] for t in live.screen.shown.tiles] == before
    live.session.draw = whole
    slider.value = 2.0
    assert not live.screen.message.value


@anywidget
def test_panels(live):
    panels = live.panels.tabbed
    mix, breed, kept, film = (panels[name] for name in ("mix", "breed", "kept", "film"))

    def look_at(panel):
        live.panels.tabs.selected_index = [*panels.values()].index(panel)

    look_at(mix)
    mix.layers[0].value = True
    assert live.recipe.mix_layers == (0,) and len(mix.tiles.tiles) == 1
    live.undo()
    assert not mix.layers[0].value
    look_at(breed)
    breed.tiles._handle_custom_msg({"click": 4}, [])
    assert len(live.recipe.bred) == 1
    kept.name.value = "bred"
    live.act(lambda: live.keep(kept.name.value))
    look_at(kept)
    assert [t["caption"] for t in kept.tiles.tiles] == ["bred"] and "base64," in kept.file.value
    live.panels.source.step(1)
    kept.tiles._handle_custom_msg({"click": 0}, [])
    assert live.recipe == live.history.named["bred"]
    film.play()
    assert "at least two" in live.screen.message.value
    film.add_slider()
    film.keys.replaced(0, frames=2)
    film.play()
    assert "film.gif" in film.out.value and len(live.history.film.keys) == 4
    live.screen.shown._handle_custom_msg({"key": "next"}, [])
    live.screen.shown._handle_custom_msg({"key": "undo"}, [])
    assert live.recipe == live.history.named["bred"]


@anywidget
def test_opening_another_network_starts_anew(live, tmp_path):
    live.set(seed=3).keep("x")
    file = save(network(64, seed=3), tmp_path / "big.safetensors")
    live.open(file)
    assert live.history.named == {} and live.recipe == Recipe()
    assert [t["w"] for t in live.screen.shown.tiles] == [64]
    assert len(live.panels.tabbed["mix"].layers) == 10 and "B" not in live.panels.source.view.options
    live.panels.directions.shown()[0].slider.value = 1.0
    assert live.recipe.edits[0].layers == (0, 9)


@anywidget
def test_in_a_loop_the_newest_wins_and_nothing_waits(live):
    "As in a kernel: changes come from a running loop, the full picture and the rest follow once the hand is still."
    slider, drawn = live.panels.directions.shown()[0].slider, []
    whole, live.session.ms = live.screen.draw, {k: {16: 5.0, 32: 100.0} for k in "AB"}

    def draw(session, r, view, level=None):
        drawn.append((r, level))
        return whole(session, r, view, level)

    live.screen.draw = draw

    async def drag():
        for v in np.linspace(0.1, 3, 30):
            slider.value = float(v)
            await asyncio.sleep(0.005)
        assert len(live.history.steps) == 1, "no step while the hand moves"
        for _ in range(200):
            if not live.queue.busy and len(live.history.steps) == 2:
                break
            await asyncio.sleep(0.05)
        return len(live.history.steps)

    assert asyncio.run(drag()) == 2 and live.recipe.edits[0].strength == 3.0
    assert [level for _, level in drawn] == [16] * 30 + [None]  # a preview for each change, then one full picture
    assert drawn[-1][0] == live.recipe


def test_static_needs_no_widgets():
    code = """
import sys
for m in ('ipywidgets', 'anywidget', 'matplotlib'): sys.modules[m] = None
from hsr_nb.explore import LatentExplorer
x = LatentExplorer('synthfaces-hsr', static=True, components=2, samples=500).set(seed=3).move('pca 1', 2.0).undo()
assert x._repr_mimebundle_()['image/png'][:4] == b'\\x89PNG'
try: LatentExplorer('synthfaces-hsr', components=2, samples=500)
except ImportError as e: print(e)
"""
    r = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert 'pip install "hsr_nb[explore]"' in r.stdout


# ---- embedded generators


@pytest.mark.parametrize("name", ["synthfaces-baseline", "synthfaces-hsr"])
def test_embedded_generators_open_by_name(name):
    assert name in embedded_generators()
    G = load_generator(name)
    card = json.loads((ROOT / f"hsr_nb/weights/{name}.json").read_text())
    assert card["role"] == "generator" and card["licence"] == "Apache-2.0"
    assert card["training"]["kimg"] > 0 and {"device", "git", "versions"} <= card["provenance"].keys()
    untaught = card["training"]["config"]["hsr"]["teacher"] == "none"
    assert ("without" in card["what"]) == (name == "synthfaces-baseline") == untaught
    img = G(torch.randn(4, G.z_dim), truncation_psi=0.7, noise_mode="const")
    assert img.isfinite().all() and img.std() > 0.1 and to_uint8(img).float().std(0).mean() > 5, "faces that differ"


def test_a_file_of_the_same_name_comes_first(G, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match="synthfaces-hrs, and no embedded generator of that name .did you mean synthfaces-hsr"
    ):
        load_generator("synthfaces-hrs")
    save(G, tmp_path / "synthfaces-hsr")
    assert load_generator("synthfaces-hsr").z_dim == G.z_dim != load_generator("synthfaces-baseline").z_dim


def test_a_tampered_embedded_generator_is_refused(tmp_path):
    import shutil

    for end in ("json", "safetensors"):
        shutil.copy(ROOT / f"hsr_nb/weights/synthfaces-hsr.{end}", tmp_path)
    data = bytearray((tmp_path / "synthfaces-hsr.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "synthfaces-hsr.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="does not belong|SHA-256"):
        embedded_checkpoint("synthfaces-hsr", tmp_path)


def test_shipping_a_run(G, tmp_path):
    run = tmp_path / "secret-place" / "run"
    (run / "checkpoints").mkdir(parents=True)
    save_safetensors(
        run / "checkpoints/000002000.safetensors",
        {f"G_ema.{k}": v for k, v in G.state_dict().items()},
        {"G": G.init_kwargs, "count": {"nimg": 2000}},
    )
    with pytest.raises(CheckpointError, match="config.json"):
        ship_generator(run, "mine", folder=tmp_path / "w")
    config = {
        "kimg": 5,
        "run_dir": str(run),
        "init_from": str(run),
        "data": {"path": "synthfaces"},
        "hsr": {"teacher": "none", "start_kimg": 0},
        "net": {"architecture": "stylegan2"},
    }
    (run / "config.json").write_text(json.dumps(config))
    about = {"device": "x", "git": "y", "versions": {}}
    sessions = [about | {"until_nimg": 500}, about | {"git": "z", "until_nimg": 700}, about | {"until_nimg": 900}]
    (run / "provenance.json").write_text(json.dumps(about | {"earlier": sessions}))
    file = ship_generator(run, "mine", folder=tmp_path / "w")
    card = (tmp_path / "w/mine.json").read_text()
    assert "secret-place" not in card and json.loads(card)["training"]["kimg"] == 2 and file.stat().st_size < 3e5
    told = json.loads(card)["provenance"]
    assert told["sessions"] == 4 and told["earlier"] == [about | {"git": "z", "until_nimg": 700}]
    tensors, meta = embedded_checkpoint("mine", tmp_path / "w")
    H = fill(Generator, meta["G"], subset(tensors, "G_ema"), "mine")
    z = torch.randn(2, 8)
    assert (H(z, noise_mode="const") - G(z, noise_mode="const")).abs().max() < 0.02


# ---- the page


def test_the_page_runs_under_papermill(tmp_path):
    pytest.importorskip("papermill").execute_notebook(
        ROOT / "nbs/experiments/explore.ipynb",
        tmp_path / "out.ipynb",
        {"out_dir": str(tmp_path)},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    assert {"sheet.png", "recipe.json", "walk.gif"} <= {p.name for p in tmp_path.iterdir()}
    recipe = (tmp_path / "recipe.json").read_bytes()
    assert Image.open(tmp_path / "sheet.png").width > 700
    assert parse_history(recipe, json.loads(recipe)["generator"]).now.seed == 16


# ---- what hsr_invert found


def found_by_hand(G, names=("ann.png", "bo.png"), **changes):
    "The result of an inversion without the work."
    ws = G.mapping(torch.randn(2, G.z_dim, generator=torch.Generator().manual_seed(0)))
    plain = dict(space="w+", steps=1, seed=0, losses=torch.zeros(1, 2), distances=torch.zeros(2), perceptual="none")
    plain |= dict(perceptual_sha256="0" * 64, generator_sha256=generator_hash(G), names=names)
    return Inversion(ws, {}, **(plain | changes))


def test_an_inversion_goes_on_in_the_explorer(G, tmp_path):
    found = found_by_hand(G)
    file = found.save(tmp_path / "inversion.safetensors")
    ex = Explorer(G, **FAST)
    ex.keep("mine").load(file)
    assert list(ex.history.named) == ["mine", "ann.png", "bo.png"] and ex.recipe == ex.history.named["ann.png"]
    for name, picture in zip(("ann.png", "bo.png"), to_uint8(found.pictures(G))):
        drawn = frames(ex.session, ex.recall(name).recipe, "A")["A"]
        assert (drawn.int() - picture.int()).abs().max() <= 1
    moved = ex.move("pca 1", 2.0).picture().tobytes()
    assert moved != ex.undo().picture().tobytes()
    again = Explorer(G, **FAST).load(ex.save(tmp_path / "face.json"))
    assert again.recipe.latent == ex.recipe.latent
    assert Explorer(G, **FAST).load(file.read_bytes()).recipe == ex.history.named["ann.png"]


def test_the_inversion_of_another_network_is_refused(G, tmp_path):
    found = found_by_hand(G, generator_sha256="f" * 64)
    file = found.save(tmp_path / "inversion.safetensors")
    ex = Explorer(G, **FAST)
    before = ex.recipe
    for source, where in ((file, str(file)), (file.read_bytes(), "the file")):
        with pytest.raises(ValueError, match="belongs to the generator ffffffffffff, this one is") as refused:
            ex.load(source)
        assert str(refused.value).startswith(where)
    assert ex.recipe == before and not ex.history.named
    save_safetensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="holds no inversion"):
        ex.load(tmp_path / "other.safetensors")


def test_a_tuned_network_becomes_b(G, tmp_path):
    tuned = copy.deepcopy(G)
    with torch.no_grad():
        for parameter in tuned.synthesis.parameters():
            parameter.mul_(1.01)
    found = found_by_hand(G, space="pti", generator=tuned)
    ex = Explorer(G, **FAST).load(found.save(tmp_path / "tuned.safetensors"))
    assert ex.session.names["B"] == "tuned in tuned.safetensors" and ex.view == "A | B"
    drawn = frames(ex.session, ex.recipe, "A | B")
    wanted = to_uint8(found.pictures(G))[0]
    assert (drawn["B"].int() - wanted.int()).abs().max() <= 1 and not torch.equal(drawn["A"], drawn["B"])
    assert ex.move("pca 1", 2.0).picture("B").tobytes() != ex.undo().picture("B").tobytes()


def test_more_pictures_than_are_kept(G, tmp_path):
    found = found_by_hand(G, names=())
    many = joined([found] * 101)
    ex = Explorer(G, **FAST)
    with pytest.warns(UserWarning, match="the first 200 of 202 pictures are kept"):
        ex.load(many.save(tmp_path / "x.safetensors"))
    assert len(ex.history.named) == 200
    with pytest.raises(ValueError, match="200 pictures are kept already"):
        ex.load(many.save(tmp_path / "x.safetensors"))


@anywidget
def test_an_inversion_falls_on_the_faces(live, tmp_path):
    file = found_by_hand(live.session.nets["A"]).save(tmp_path / "inversion.safetensors")
    live.dropped("inversion.safetensors", file.read_bytes())
    assert not live.screen.message.value and live.recipe.latent.what == "ann.png, found in w+"
    assert [*live.panels.tabbed][live.panels.tabs.selected_index] == "kept"
    live.panels.directions.shown()[0].slider.value = 1.0
    assert len(live.recipe.edits) + len(live.hand.draft.edits) >= 1
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1
    live.dropped("inversion.safetensors", bytes(broken))
    assert "checksum" in live.screen.message.value


@anywidget
def test_people_at_hand_need_no_file(live):
    photo = live.panels.photo
    finished(photo.rest(live.recipe))
    assert len(photo.samples.tiles) == AT_HAND
    taken = []
    photo.begin = lambda: taken.append((photo.name, photo.data))
    photo.samples._handle_custom_msg({"click": 2}, [])
    (name, data), target = taken[0], at_hand()[2]
    with Image.open(io.BytesIO(data)) as read:
        assert name == "drawn person 3" and np.array_equal(np.asarray(read), target.permute(1, 2, 0).numpy())


@anywidget
def test_what_is_painted_may_move(live):
    hands, stage = live.panels.hands, live.screen.shown
    assert painted_mask([], (4, 6)) is None
    mask = painted_mask([[0.25, 0.5]], (32, 32))
    assert mask[15, 8] == 1 and mask[15, 12] == 0 and 12 < mask.sum() < 28
    hands.mode.value = "drag"
    assert stage.mode == "drag"
    hands.brush.value = True
    assert stage.mode == "mask"
    stage._handle_custom_msg({"paint": [[0.25, 0.5], [0.3, 5.0]]}, [])
    stage._handle_custom_msg({"point": [0.2, 0.2]}, [])
    assert stage.marks == [[0.25, 0.5, "free"], [0.3, 1.0, "free"], [0.2, 0.2, "handle"]]
    stage._handle_custom_msg({"paint": [[0.1, 0.1]] * 900}, [])
    assert len(hands.spots) == 600
    hands.clear.click()
    assert stage.marks == [] and not hands.spots and stage.mode == "drag"
