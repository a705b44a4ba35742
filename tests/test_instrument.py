"""What a designer does with the explorer beyond sliders: keeps, crosses, films, teaches, brings a photograph, drags."""

import asyncio
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.random_hand import wander

pytest.importorskip("anywidget", reason="the explorer needs anywidget")
from hsr_nb.explore import Explorer, LatentExplorer, Recipe, recipe_file
from hsr_nb.explore.drawing import latents
from hsr_nb.explore.editors import fit_editor
from hsr_nb.explore.explorer import stations
from hsr_nb.explore.jobs import JobQueue, finished, in_background
from hsr_nb.explore.kept import between, lineage_html, parents
from hsr_nb.explore.mine import change_mine, load_mine, recent
from hsr_nb.explore.recipe import Edit, Film, History, Key, Latent
from hsr_nb.explore.recipe_file import as_file, dump_history, parse_history
from hsr_nb.explore.saved import PNG, SOURCE, marked, picture_png, recipe_in
from hsr_nb.explore.session import Session
from hsr_nb.explore.sliders import Row
from hsr_nb.interop import load_checkpoint, save_safetensors
from hsr_nb.nets import Generator
from hsr_nb.studies.teacher_view import heads_of
from hsr_nb.training import preset
from hsr_nb.training.config import override
from hsr_nb.training.state import build_state, save_state

FAST = dict(components=2, samples=300)


def network(resolution=32, seed=0, noise=False):
    torch.manual_seed(seed)
    synthesis = dict(channel_base=256, channel_max=16, use_noise=noise)
    G = Generator(z_dim=8, w_dim=8, img_resolution=resolution, synthesis_kwargs=synthesis)
    G.eval().requires_grad_(False).mapping.w_avg.normal_()
    for name, strength in G.synthesis.named_parameters():
        if name.endswith("noise_strength"):
            strength.fill_(0.5)
    return G


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def G():
    return network()


@pytest.fixture
def live(G):
    return LatentExplorer(G, judge=None, **FAST)


def pixels(live):
    return [t["pixels"] for t in live.screen.shown.tiles]


# ---- recipes


def test_everything_new_in_a_recipe_survives_its_file():
    latent = Latent.of(np.random.default_rng(0).normal(size=(8, 4)), "a <photo>", ("anna",))
    edit = Edit("interfacegan age", 1.0, (0, 7), False, ("gender", "hair"))
    r = Recipe(latent=latent, edits=(edit,), noise=((2, 7),), bred=((3, -0.5),))
    film = Film((Key("one", r, 3, "late"), Key("two", Recipe(), 1, "even")), False, 12)
    h = History([Recipe(), r, replace(r, seed=2)], 1, {"r": r}, film, {"smile": latent})
    text = dump_history(h, "abc")
    assert parse_history(text, "abc") == h
    assert text.count(latent.data) == 2, "a latent is written once for all steps, and once as a direction"


@pytest.mark.parametrize(
    "entry",
    [
        {"latents": {"x": {"data": "AAAA", "num_ws": 1, "w_dim": 2}}},
        {"latents": {"x": {"data": "!", "num_ws": 1, "w_dim": 1}}},
        {"latents": {"x": {"data": "AADAfw==", "num_ws": 1, "w_dim": 1}}},  # NaN
        {"latents": {"x": {"data": "", "num_ws": 10**9, "w_dim": 10**9}}},
        {"latents": {"x": {"path": "/etc/passwd"}}},
        {"taught": {"x": None}},
        {"film": {"keys": [{"name": "x", "recipe": {}, "frames": 10**9}]}},
        {"film": {"keys": [{"name": "x", "recipe": {}, "easing": "bouncy"}]}},
        {"film": {"loop": "yes"}},
        {"steps": [{"latent": "nowhere"}]},
        {"steps": [{"noise": [[-1, 2]]}]},
        {"steps": [{"edits": [{"direction": "x", "strength": 1, "layers": [0, 1], "keep": [[]]}]}]},
        {"steps": [{"edits": [{"direction": "x", "strength": 1, "layers": [0, 1], "on": 1}]}]},
    ],
)
def test_hostile_entries_are_refused_in_one_sentence(entry):
    d = json.loads(dump_history(History(), "abc"))
    with pytest.raises(ValueError, match="damaged") as e:
        parse_history(json.dumps(d | entry), "abc")
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_an_edit_that_is_switched_off_does_nothing_and_order_is_kept(live):
    live.move("pca 1", 2.0).move("sefa 1", 1.0)
    both = live.picture().tobytes()
    off = tuple(replace(e, on=e.direction != "pca 1") for e in live.recipe.edits)
    live.set(edits=off)
    assert live.picture().tobytes() != both
    alone = Explorer(live.session.nets["A"], judge=None, **FAST).move("sefa 1", 1.0)
    assert live.picture().tobytes() == alone.picture().tobytes()


def test_a_latent_of_another_network_is_refused(G):
    with pytest.raises(ValueError, match="3 x 4 numbers, the network 8 x 8"):
        latents(G, Recipe(latent=Latent.of(np.zeros((3, 4)))), {})


# ---- what is saved


def test_a_saved_picture_says_what_it_is_and_brings_itself_back(live, tmp_path):
    live.set(seed=9).move("pca 1", 1.5)
    file = live.save_picture(tmp_path / "face.png")
    before = pixels(live)
    live.set(seed=1)
    live.dropped("face.png", file.read_bytes())
    assert pixels(live) == before and live.recipe.seed == 9
    live.undo()
    assert live.recipe.seed == 1, "a picture that is dropped is a step"
    assert SOURCE in Image.open(file).text["XML:com.adobe.xmp"]
    with pytest.raises(ValueError, match=r"as \.png"):
        live.save_picture(tmp_path / "face.jpg")


def test_pictures_that_lie_about_their_recipe():
    whole = picture_png(Image.new("L", (2, 2)), "{}")
    for at in range(len(PNG), len(whole), 7):
        recipe_in(whole[:at])  # cut anywhere
    endless = PNG + (b"\0\0\0\0tEXt" + b"\0" * 4) * 50_000
    began = time.perf_counter()
    assert recipe_in(endless) is None and time.perf_counter() - began < 2
    with pytest.raises(ValueError, match="no recipe"):
        parse_history(recipe_in(picture_png(Image.new("L", (2, 2)), "<script>")), "abc")


def test_films_say_that_they_are_generated(live, tmp_path):
    film = live.walk(tmp_path / "w.gif", "pca 1", steps=2).read_bytes()
    assert SOURCE.encode() in film and Image.open(io.BytesIO(film)).n_frames == 8
    box = marked(b"\0\0\0\x08ftyp", "mp4")
    size = int.from_bytes(box[8:12], "big")
    assert box[12:16] == b"uuid" and len(box) == 8 + size and SOURCE.encode() in box


# ---- kept


def test_crossing_kept_faces_is_one_step_with_a_lineage(live):
    live.set(seed=3).keep("anna").set(seed=8).keep("bert")
    kept, steps = live.panels.tabbed["kept"], len(live.history.steps)
    kept.crossing.one.value, kept.crossing.two.value = "anna", "bert"
    for share in (0.2, 0.4, 0.6):
        live.hand.moved = time.monotonic()
        kept.crossing.share.value = share
    assert live.recipe.latent.parents == ("anna", "bert") and len(live.history.steps) == steps + 1
    live.keep("carl")
    assert parents(live.history.named, "carl") == ("anna", "bert")
    for share, name in ((0.0, "anna"), (1.0, "bert")):
        kept.crossing.share.value = share
        close = (live.session.ws(live.recipe) - live.session.ws(live.history.named[name])).abs().max()
        assert close < 1e-5


def test_a_recipe_is_joined_and_nothing_kept_is_lost(live, G):
    other = LatentExplorer(G, judge=None, **FAST)
    other.set(seed=30).keep("anna").set(seed=31).cut(Film((Key("a", Recipe(1)), Key("b", Recipe(2)))))
    file = dump_history(other.history, other.session.hash)
    live.set(seed=8).keep("anna").set(seed=9)
    live.dropped("recipe.json", file.encode())
    named = {name: r.seed for name, r in live.history.named.items()}
    assert named == {"anna": 8, "anna 2": 30} and live.recipe.seed == 31 and len(live.history.film.keys) == 2
    for seed in (31, 30, 0, 9, 8):
        live.undo()
        assert live.recipe.seed == seed
    assert not live.history.film.keys


def test_a_name_is_never_taken_over_and_can_be_given_up(live):
    kept = live.panels.tabbed["kept"]
    for seed in (3, 4, 4):
        live.set(seed=seed)
        kept.name.value = "child"
        kept.keep()
        assert kept.name.value == ""
    assert {name: r.seed for name, r in live.history.named.items()} == {"child": 3, "child 2": 4}
    kept.away.click()
    assert [*live.history.named] == ["child"] and kept.away.layout.display == "none"


def test_the_tree_shows_what_nobody_kept_on_the_way(live):
    live.keep("anna")
    for i in (2, 5, 1):
        live.breed(i)
    live.keep("berta")
    way = between(live.history.named, "berta")
    assert [len(r.bred) for r in way] == [1, 2]
    kept = live.panels.tabbed["kept"]
    finished(kept.rest(live.recipe))
    assert kept.tree.box.value.count("<img") == 4 and kept.tree.box.value.count("<li>") == 2


def test_whoever_returns_to_a_network_finds_everything(live, G):
    taught(live)
    live.set(seed=5).keep("precious").move("mine smile", 1.0)
    before, steps = pixels(live), len(live.history.steps)
    live.open(network(seed=4))
    assert live.recipe.seed == 0 and not live.history.named
    live.set(seed=7)
    live.open(G)
    assert pixels(live) == before and [*live.history.named] == ["precious"] and len(live.history.steps) == steps
    live.undo()
    assert not live.recipe.edits


def test_a_lineage_that_runs_in_a_circle_ends():
    a, b = (Recipe(latent=Latent.of(np.zeros((1, 1)), "x", (other,))) for other in ("b", "a"))
    tree = lineage_html({"a": a, "b": b})
    assert tree.count("<li>") == 2


def test_names_and_taught_directions_come_back(live, G):
    live.rename("pca 1", "hair")
    gallery = live.panels.tabbed["gallery"]
    gallery.marks = {seed: seed % 2 == 0 for seed in range(16)}
    gallery.teach()
    assert "needs a word" in live.screen.message.value
    gallery.name.value = "smile"
    gallery.teach()
    assert "left out" in gallery.said.value and not live.screen.message.value
    live.move("mine smile", 1.5)
    text = dump_history(live.history, live.session.hash)
    again = LatentExplorer(G, judge=None, **FAST)
    assert again.names == {"pca 1": "hair"} and again.session.sets["mine"].names == ["mine smile"]
    assert load_mine(again.session) == live.mine
    elsewhere = Session(G, judge=None, **FAST)
    assert "mine" not in elsewhere.sets
    stranger = Explorer(G, judge=None, **FAST)
    stranger.session = elsewhere
    assert stranger.load(text.encode()).picture().tobytes() == live.picture().tobytes(), "a recipe carries it along"


def taught(live, name="smile"):
    "A slider taught from marks that mean nothing."
    gallery = live.panels.tabbed["gallery"]
    gallery.marks = {seed: seed % 2 == 0 for seed in range(16)}
    gallery.name.value = name
    gallery.teach()
    assert not live.screen.message.value


def test_a_taught_slider_is_on_the_menu_at_once_and_stays_when_b_is_opened(live, G):
    menu = live.panels.directions.method
    chosen = menu.value
    taught(live)
    assert "mine" in [value for _, value in menu.options] and menu.value == chosen
    menu.value = "mine"
    assert [row.name for row in live.panels.directions.shown()] == ["mine smile"]
    live.move("mine smile", 1.0)
    live.open(G, network(seed=4))
    assert live.view == "A | B" and not live.screen.message.value
    assert live.session.sets["mine"].names == ["mine smile"]


def test_taught_sliders_stay_and_say_how_well_they_were_taught(live):
    taught(live)
    directions = live.panels.directions
    directions.method.value = "mine"
    taught(live, "frown")
    rows = directions.shown()
    assert [row.name for row in rows] == ["mine smile", "mine frown"]
    assert directions.grid.children == tuple(row.box for row in rows)
    live.queue.finish()
    assert "of 16 marked faces on their side" in rows[0].title.value
    finished(live.panels.tabbed["gallery"].rest(live.recipe))
    assert "of 16 marked faces" in live.panels.tabbed["gallery"].said.value, "said until something else is taught"


def test_a_loaded_recipe_takes_no_direction_away(live, G):
    taught(live)
    live.move("mine smile", 1.0)
    text = dump_history(live.history, live.session.hash)
    other = LatentExplorer(G, judge=None, **FAST)
    taught(other, "frown")
    other.load(text.encode())
    assert set(other.history.taught) == {"smile", "frown"}
    third = LatentExplorer(G, judge=None, **FAST)
    gallery = third.panels.tabbed["gallery"]
    gallery.marks = {seed: seed % 3 == 0 for seed in range(16)}
    gallery.name.value = "smile"
    gallery.teach()
    own = third.session.steps["mine smile"](1.0)
    with pytest.raises(ValueError, match="another one than yours"):
        third.load(text.encode())
    assert torch.equal(third.session.steps["mine smile"](1.0), own)


def test_a_click_means_what_is_seen(live):
    gallery, breed = live.panels.tabbed["gallery"], live.panels.tabbed["breed"]
    finished(gallery.rest(live.recipe))
    gallery.leaf(1)  # the next page is on its way, the first one is on the screen
    live.queue.drop()
    gallery.does.value = "yes"
    gallery.click(0)
    assert gallery.marks == {0: True}
    finished(breed.rest(live.recipe))
    seen = breed.shown[2]
    breed.turn()
    live.queue.drop()
    breed.click(2)
    assert live.recipe == seen


def test_a_slider_keeps_to_the_range_that_was_measured(live):
    live.session.reach["pca 1"] = (-1.23456, 1.8)
    row = Row(live.panels.directions, "pca 1")
    row.slider.value = -1.23456
    assert live.hand.draft.edit("pca 1").strength == -1.23456
    assert [r.edit("pca 1").strength if r.edit("pca 1") else 0.0 for r in stations(live, "pca 1")] == [
        0,
        -1.23456,
        0,
        1.8,
    ]


def test_a_number_that_no_edit_takes_is_said(live):
    live.move("pca 1", 1.0)
    edits = live.panels.directions.edits
    edits.replaced(0, strength=float("nan"))
    assert live.screen.message.value and live.recipe.edit("pca 1").strength == 1.0


def test_damaged_names_are_said(live, tmp_path):
    live.rename("pca 1", "hair")
    (file,) = (tmp_path / "cache").rglob("names-*.json")
    for damage in ("[]", "{}", file.read_text().replace("hsr_nb names 1", "x"), "[" * 50):
        file.write_text(damage)
        with pytest.raises(ValueError) as e:
            load_mine(live.session)
        assert "\n" not in str(e.value)


def test_notebooks_that_keep_things_at_the_same_time_lose_nothing(live, tmp_path):
    def add(i):
        change_mine(live.session, lambda mine: mine.names.update({f"pca {i}": f"name {i}"}))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(12)))
    assert load_mine(live.session).names == {f"pca {i}": f"name {i}" for i in range(12)}


# ---- work


def test_opening_in_the_background_can_be_cancelled_and_the_newest_wins(live, tmp_path):
    G = network(64, seed=3)
    tensors = {f"G_ema.{k}": v for k, v in G.state_dict().items()}
    file = str(save_safetensors(tmp_path / "big.safetensors", tensors, {"G": G.init_kwargs}))
    networks = live.panels.tabbed["networks"]
    before = pixels(live)

    async def visit():
        networks.a.value = file
        networks.open()
        await asyncio.sleep(0.02)
        busy = live.screen.busy.layout.display
        live.work.cancel()
        await asyncio.sleep(0.3)
        cancelled = pixels(live) == before and live.screen.busy.layout.display == "none"
        networks.a.value = str(tmp_path / "nothing")
        networks.open()
        networks.a.value = file
        networks.open()
        for _ in range(600):
            if live.session.nets["A"].img_resolution == 64:
                break
            await asyncio.sleep(0.05)
        return busy, cancelled

    assert asyncio.run(visit()) == ("flex", True)
    assert [t["w"] for t in live.screen.shown.tiles] == [64] and not live.screen.message.value
    assert recent()[0] == file


def test_a_fit_that_nobody_waits_for_ends(G, tmp_path):
    session, said = Session(G, **FAST), []
    before = threading.active_count()
    steps = fit_editor(session, "interfacegan", said.append, n=20_000)
    while not any("latents" in what for what in said):
        next(steps)
    steps.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.05)
    assert threading.active_count() == before
    assert not [*tmp_path.rglob("latents-*")] and "interfacegan" not in session.sets


def test_a_method_that_was_not_fitted_is_not_chosen(live, monkeypatch):
    from hsr_nb.explore import sliders

    def fails(session, method, say):
        yield
        raise ValueError("nothing to learn from")

    monkeypatch.setattr(sliders, "fit_editor", fails)
    directions = live.panels.directions
    before = directions.method.value
    live.session.readable = True
    directions.fill(live.recipe)
    directions.method.value = "l2l"
    assert directions.method.value == before and directions.grid.children
    assert "nothing to learn" in live.screen.message.value
    live.session.readable = False
    directions.fill(live.recipe)
    assert "l2l" not in [value for _, value in directions.method.options], "no judge knows these pictures"


def test_an_attribute_is_held_still_from_its_own_row():
    live = LatentExplorer("synthfaces64-hsr", **FAST)
    rows = {row.name: row for row in live.panels.directions.shown()}
    age, smile = rows["interfacegan age"], rows["interfacegan smile"]
    age.hold.value = True
    smile.slider.value = 1.0
    age.slider.value = 0.5
    assert [(e.direction, e.keep) for e in live.hand.draft.edits] == [(smile.name, ("age",)), (age.name, ())]
    line = live.panels.directions.edits.box.children[0]
    line.children[1].value = 1e9
    live.queue.finish()
    reach = live.session.reach[smile.name]
    assert live.recipe.edit(smile.name).strength == reach[1] == line.children[1].value
    age.hold.value = False
    live.queue.finish()
    assert not any(e.keep for e in live.recipe.edits)


def test_an_error_in_a_thread_is_said_and_a_failed_job_stops_no_other():
    def fail(tell):
        raise OSError("the disk is gone")

    said, done = [], []
    queue = JobQueue(said.append)
    queue.after([lambda: finished(in_background(fail, print)), lambda: done.append(1)])
    assert [str(e) for e in said] == ["the disk is gone"] and done == [1]


def test_pieces_yield_to_the_loop():
    "Between two pieces of work the kernel hears the browser."
    heard = []

    def long():
        for _ in range(20):
            time.sleep(0.01)
            yield

    async def visit():
        queue = JobQueue()
        queue.after([long], 0)
        while queue.busy:
            heard.append(time.perf_counter())
            await asyncio.sleep(0)

    asyncio.run(visit())
    assert len(heard) >= 20


# ---- hands


def test_a_photograph_is_found_and_every_slider_works_on_it(live, monkeypatch):
    from hsr_nb.explore import photo

    monkeypatch.setattr(photo, "STEPS", 10)
    shade = np.linspace(0, 255, 40).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.tile(shade, (30, 1))).save(out, "PNG")
    live.dropped("ramp.png", out.getvalue())
    assert live.recipe.latent.what == "ramp.png" and not live.screen.message.value
    live.panels.hands.wipe.value = True
    assert live.screen.shown.tiles[0]["before"]["pixels"] == live.panels.photo.tiles.tiles[0]["pixels"]
    found = pixels(live)
    live.panels.directions.shown()[0].slider.value = 2.0
    assert pixels(live) != found
    live.undo()
    assert pixels(live) == found
    for bad in (b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        live.dropped("bad.png", bad)
        assert live.screen.message.value and pixels(live) == found


def test_dragging_is_one_step_and_can_be_undone(live):
    hands, stage, before = live.panels.hands, live.screen.shown, pixels(live)
    hands.mode.value = "drag"
    for at in ([0.4, 0.5], [0.6, 0.5], ["x", 0]):
        try:
            stage._handle_custom_msg({"point": at}, [])
        except ValueError:
            pass
    hands.go.click()
    assert live.recipe.latent.what == "dragged from seed 0" and pixels(live) != before and not hands.points
    live.undo()
    assert pixels(live) == before
    stage._handle_custom_msg({"point": [0.1, 0.1]}, [])
    stage._handle_custom_msg({"pull": [[0.4, 0.5], [1.6, 0.5]]}, [])
    assert hands.points == [[0.4, 0.5], [1.0, 0.5]] and not hands.go.disabled
    live.view = "B"
    hands.show()
    assert hands.go.disabled, "points are dragged in A"


def test_noise_is_drawn_anew_and_undone():
    live = LatentExplorer(network(16, noise=True), judge=None, **FAST)
    inside, before = live.panels.tabbed["inside"], pixels(live)
    inside.redraw(1)
    other = pixels(live)
    inside.redraw(1)
    assert len({*before, *other, *pixels(live)}) == 3 and live.recipe.noise == ((1, 1),)
    live.undo().undo()
    assert pixels(live) == before
    with pytest.raises(ValueError, match="noise maps"):
        live.set(noise=((99, 0),))


def test_a_cut_of_the_film_is_undone_like_everything_else(live):
    film = live.panels.tabbed["film"]
    film.add()
    live.set(seed=5)
    film.add()
    line = film.keys.box.children[0]
    _, _, frames, easing, *_ = line.children
    frames.value, easing.value, film.loop.value = 4, "late", False
    cut = live.history.film
    assert (cut.keys[0].frames, cut.keys[0].easing, cut.loop) == (4, "late", False)
    assert film.keys.box.children[0] is line, "a line that is typed in stays"
    live.undo().undo().undo()
    found = live.history.film
    assert found.loop and (found.keys[0].frames, frames.value, easing.value) == (16, 16, "gentle")
    live.undo()
    assert len(live.history.film.keys) == 1 and live.recipe.seed == 5
    live.undo().undo()
    assert not live.history.film.keys and not film.keys.box.children and live.recipe.seed == 0
    for _ in range(6):
        live.redo()
    assert live.history.film == cut and not film.loop.value
    film.keys.swap(0, 1)
    live.panels.directions.shown()[0].slider.value = 1.0
    live.undo()
    assert [key.recipe.seed for key in live.history.film.keys] == [5, 0], "a cut and a slider are two steps"


def test_widgets_that_went_from_the_screen_are_closed(live):
    "A widget lives on in the kernel and in the browser until it is closed."
    from ipywidgets.widgets.widget import _instances

    def visit(seed):
        live.move(list(live.session.steps)[0], 1.0)
        live.panels.tabbed["film"].add_slider()
        live.undo().undo()
        live.open(network(seed=seed))
        return len(_instances)

    visit(1)
    assert visit(2) == visit(3)


def test_a_latent_without_a_seed_can_be_varied_and_left(live):
    ws = live.session.ws(Recipe(seed=9))[0].numpy()
    live.apply(Recipe(psi=1.0, latent=Latent.of(ws, "photo")))
    found = pixels(live)
    eight = {live.session.ws(r).numpy().tobytes() for r in live.variations()}
    assert len(eight) == 8
    live.breed(3)
    assert pixels(live) != found and live.recipe.latent.what == "photo"
    live.undo()
    assert pixels(live) == found
    live.panels.press("next")
    assert live.recipe.latent is None and pixels(live) != found


def heads_file(path):
    "A checkpoint of a run with HSR before its first step."
    cfg = override(preset("tiny32"), **{"hsr.head_hidden": 8, "net.channel_max": 16})
    state = build_state(cfg, (3, 32, 32))
    return str(save_state(path, state, cfg, {"name": "synthfaces"}))


def test_the_heads_of_a_run_stand_beside_their_teacher(tmp_path):
    file = heads_file(tmp_path / "run.safetensors")
    live = LatentExplorer(file, judge=None, heads=heads_of, **FAST)
    inside = live.panels.tabbed["inside"]
    live.panels.tabs.selected_index = list(live.panels.tabbed).index("inside")
    inside.level.value, inside.how.value = 16, "teacher"
    assert "the heads of its training predict synthfaces-tiny" in inside.said.value
    own, head, teacher = (t["pixels"] for t in inside.tiles.tiles)
    assert len({own, head, teacher}) == 3
    live.panels.truncation.psi.value = 0.2
    assert teacher != inside.tiles.tiles[2]["pixels"], "it follows a slider that moves"
    inside.level.value = 4
    assert "block 4 has no head" in inside.said.value and not inside.tiles.tiles
    tensors, meta = load_checkpoint(file)
    meta["teacher"]["sha256"] = "0" * 64
    other = str(save_safetensors(tmp_path / "other.safetensors", tensors, meta))
    live.open(other)
    inside = live.panels.tabbed["inside"]
    live.panels.tabs.selected_index = list(live.panels.tabbed).index("inside")
    inside.how.value = "teacher"
    assert "another synthfaces-tiny" in inside.said.value and not live.screen.message.value


def test_a_network_without_heads_says_so(G):
    live = LatentExplorer(G, judge=None, heads=heads_of, **FAST)
    inside = live.panels.tabbed["inside"]
    live.panels.tabs.selected_index = list(live.panels.tabbed).index("inside")
    inside.how.value = "teacher"
    assert "no heads are known" in inside.said.value and not inside.tiles.tiles
    alone = LatentExplorer(G, judge=None, **FAST)
    assert "teacher" not in alone.panels.tabbed["inside"].how.options


def test_a_judge_of_drawn_faces_is_off_where_it_may_not_know_the_pictures(G):
    live = LatentExplorer(G, **FAST)
    assert live.session.judge is not None and not live.screen.readings.value
    live.panels.truncation.readings.value = True
    assert "hsr-bar" in live.screen.readings.value
    assert LatentExplorer("synthfaces-hsr", **FAST).session.readable


@pytest.mark.slow
def test_memory_stays_bounded_over_500_random_actions(G):
    psutil = pytest.importorskip("psutil")
    live = LatentExplorer(G, judge=None, heads=heads_of, components=1, samples=200)
    process, sizes = psutil.Process(), []
    for done, _ in enumerate(wander(live), 1):
        if done in (100, 500):
            sizes.append(process.memory_info().rss)
        if done == 500:
            break
    assert sizes[1] - sizes[0] < 100e6, [size // 1_000_000 for size in sizes]


def test_a_history_that_is_too_long_leaves_out_its_oldest_steps(monkeypatch):
    steps = [Recipe(seed) for seed in range(60)]
    generator = "0" * 64
    whole = len(dump_history(History(steps, at=59), generator))
    monkeypatch.setattr(recipe_file, "MOST_BYTES", whole // 2)
    text, left_out = as_file(History(steps, at=59), generator)
    again = parse_history(text, generator)
    assert len(text) <= whole // 2 and left_out == 60 - len(again.steps) > 0 and again.now == steps[-1]
    with pytest.raises(ValueError, match="too long for a file"):
        as_file(History(steps, at=0), generator)  # what can be done again is never thrown away


def test_a_picture_without_a_face_is_taken_in_the_middle(live, monkeypatch):
    from hsr_nb.explore import photo
    from hsr_nb.inversion.align import Face

    out = io.BytesIO()
    shade = np.linspace(0, 255, 80).astype(np.uint8)
    Image.fromarray(np.tile(shade, (40, 1))).save(out, "PNG")
    points = np.array([[25, 15], [35, 15], [30, 20], [26, 25], [34, 25]], float)
    found = Face(1.0, (15.0, 5.0, 45.0, 35.0), points)
    middle = photo.read_photo(out.getvalue(), live.session)
    taken = []
    for faces in ([found], []):
        monkeypatch.setattr(photo, "mtcnn", lambda faces=faces: lambda image: faces)
        taken.append(photo.read_photo(out.getvalue(), live.session, photo.FOUND))
        assert taken[-1].shape == middle.shape
    assert torch.equal(taken[1], middle) and not torch.equal(taken[0], middle)
