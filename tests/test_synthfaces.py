"SynthFaces: the same pixels whoever asks, smooth in every factor, honest when small, clear when misused."

import hashlib
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from hsr_nb.data import SynthFaces
from hsr_nb.data.synthfaces import factor_sweep, render_faces, sample_factors
from hsr_nb.data.synthfaces import factors as ff
from hsr_nb.data.synthfaces import render as fr
from hsr_nb.data.synthfaces.canvas import Canvas, band
from hsr_nb.data.synthfaces.pose import describe

F = len(ff.FACTOR_NAMES)
CORNERS = np.random.default_rng(0).integers(0, 2, (60, F)).astype(np.float32)  # every factor at an extreme
FACES = np.concatenate([ff.sample_factors(60, 5, True), CORNERS])


def digest(x):
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("resolution", [16, 32, 64, 100, 128, 256])
def test_pixels_do_not_depend_on_batch_order_chunks_or_threads(resolution):
    f = FACES[40:80:3]
    whole = render_faces(f, resolution, threads=1)
    assert (whole == render_faces(f, resolution, threads=3)).all()
    alone = [render_faces(face[None], resolution) for face in f]
    assert (whole == torch.cat(alone)).all()
    backwards = render_faces(f[::-1].copy(), resolution)
    assert (whole.flip(0) == backwards).all()
    one_chunk = torch.from_numpy(fr.render_array(f, resolution))
    assert (whole == one_chunk).all()


def test_pixels_are_the_ones_networks_were_trained_on():
    "A change here invalidates shipped networks: raise RENDERER_VERSION, retrain, and only then change the digests."
    planted = np.round(ff.uniforms(range(48), 9, F) * 256).astype(np.float32) / 256
    assert fr.RENDERER_VERSION == 1
    assert (digest(render_faces(planted, 32)), digest(render_faces(planted, 64))) == (GOLDEN[32], GOLDEN[64])
    assert digest(sample_factors(200)) == GOLDEN["factors"]


GOLDEN = {32: "952949b78201ba31", 64: "849a68969e4ecfdd", "factors": "aa6276bc03a6e30e"}


def test_factors_depend_on_seed_and_index_alone():
    f = sample_factors(300, 4)
    some = [299, 0, 7]
    assert (sample_factors(some, 4) == f[some]).all()
    assert (sample_factors(1, 4) == f[:1]).all()
    assert (sample_factors(300, 5) != f).any(1).all()
    assert len(f.unique(dim=0)) == 300
    far = 2**40
    both = sample_factors([far, far + 1], -3)
    assert (sample_factors([far + 1], -3) == both[1:]).all()


def test_copula_ranks_and_switch():
    a = ff.sample_factors(8000, 1, independent=False)
    b = ff.sample_factors(8000, 1, independent=True)
    C = ff.correlation_matrix()
    plan = 6 / np.pi * np.arcsin(C / 2)
    for f, target in ((a, plan), (b, np.eye(F))):
        assert abs(np.corrcoef(f.argsort(0).argsort(0).T) - target).max() < 0.06
    # the switch keeps the marginals
    assert abs(a.mean(0) - b.mean(0)).max() < 0.03
    assert abs(a.std(0) - b.std(0)).max() < 0.03


@pytest.mark.parametrize("resolution,limit", [(16, 2.0), (32, 2.0), (48, 1.5), (64, 1.5), (128, 1.5)])
def test_small_renders_are_averaged_large_ones(resolution, limit):
    k = 384 // resolution
    parts = [fr.paint_faces(FACES[i : i + 8], 384).pixels(1) for i in range(0, 48, 8)]
    large = np.concatenate(parts).astype(np.float32)
    box = large.reshape(48, 3, resolution, k, resolution, k).mean((3, 5))
    small = render_faces(FACES[:48], resolution).numpy()
    d = abs(small - box)
    assert d.mean() < limit
    assert d.mean((1, 2, 3)).max() < 2.5 * limit
    assert np.percentile(d, 99.5) < 24


def test_32_is_close_to_averaged_128():
    small = SynthFaces(32).images(range(64)).float()
    large = SynthFaces(128).images(range(64)).float()
    averaged = large.reshape(64, 3, 32, 4, 32, 4).mean((3, 5))
    assert (small - averaged).abs().mean() < 1.5


@pytest.mark.parametrize("name", ff.FACTOR_NAMES)
def test_pictures_follow_every_factor_without_jumps(name):
    k = ff.factor_index(name)
    for base in FACES[[0, 70]]:
        f = np.repeat(base[None], 65, 0)
        f[:, k] = np.linspace(0, 1, 65)
        x = render_faces(f, 32).float()
        moves = x.diff(dim=0).abs()
        steps = moves.mean((1, 2, 3))
        way = max((x[-1] - x[0]).abs().mean().item(), steps.sum().item(), 2)
        assert steps.max() < 0.12 * way
        assert moves.max() < 128  # no part appears at once


@pytest.mark.parametrize("name", ff.MAIN)
def test_every_main_factor_shows_at_32_pixels(name):
    x = factor_sweep(name, 2, 32).float()
    change = (x[1] - x[0]).abs().amax(0)
    assert (change > 40).sum() >= 20, name  # at least 20 of 1024 pixels change clearly


def test_windows_and_patches_cut_nothing_off(monkeypatch):
    want = fr.paint_faces(FACES[::3], 64).rgb.copy()
    patch, window = Canvas.patch, Canvas.window

    def whole_or_neck(cv, *box):
        return window(cv, *box) if box[0] == -1 else cv  # the neck does start at its window

    monkeypatch.setattr(Canvas, "patch", lambda cv, x, y, w, h: patch(cv, x, y, 2, 2))
    monkeypatch.setattr(Canvas, "window", whole_or_neck)
    assert abs(fr.paint_faces(FACES[::3], 64).rgb - want).max() * 255 < 1


def test_everything_stays_float32(monkeypatch):
    over = Canvas.over

    def checked(cv, alpha, colour):
        assert alpha.dtype == np.float32 and all(getattr(c, "dtype", np.float32) == np.float32 for c in colour)
        over(cv, alpha, colour)

    monkeypatch.setattr(Canvas, "over", checked)
    assert all(v.dtype == np.float32 for v in vars(describe(FACES)).values())
    assert np.isfinite(fr.paint_faces(FACES, 32).rgb).all()


def test_a_thin_band_keeps_its_area():
    y = ((np.arange(16, dtype=np.float32) + 0.5) / 8 - 1)[:, None]
    c = np.linspace(-0.8, 0.8, 101, dtype=np.float32)[None]
    for width in (0.01, 0.125, 0.3):
        assert np.allclose(band(y, c - width / 2, c + width / 2, 0.125).sum(0) * 0.125, width, atol=1e-5)
    assert (band(y, c + 0.1, c, 0.125) == 0).all()


def test_protocol():
    ds = SynthFaces(32, size=50, seed=2, labels=True)
    image, label = ds[0]
    assert image.dtype == torch.uint8
    assert image.shape == ds.image_shape == (3, 32, 32)
    assert label.dtype == torch.float32
    assert label.shape == (9,)
    truth = ds.factors([4])
    assert truth.shape == (1, len(ds.factor_names))
    assert (ds.labels([4]) == truth[:, :9]).all()
    two = ds.images([1, 2])
    for kind in ([1, 2], np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)):
        assert (ds.images(kind) == two).all()
    assert ds.images([]).shape == (0, 3, 32, 32)
    assert ds.labels([]).shape == (0, 9)
    plain = SynthFaces(32, size=50, seed=2)
    assert plain.labels([0, 1]).shape == (2, 0) and plain.label_dim == 0
    assert plain.name == "synthfaces" and len(plain) == 50
    again = pickle.loads(pickle.dumps(ds))
    assert again.identity == ds.identity
    assert (again.images([49]) == ds.images([49])).all()
    assert len(list(plain)) == 50  # iteration ends where the data set ends


def test_identity_names_what_decides_the_pixels():
    a = SynthFaces(32, size=40)
    others = [
        SynthFaces(16, 40),
        SynthFaces(32, 41),
        SynthFaces(32, 40, seed=1),
        SynthFaces(32, 40, independent=True),
        SynthFaces(32, 40, labels=True),
    ]
    assert len({d.identity["sha256"] for d in [a, SynthFaces(32, 40), *others]}) == 6
    assert a.identity["resize_filter"] == "none (rendered)" and len(a.identity["sha256"]) == 64


def test_identity_follows_the_pixels(monkeypatch):
    before = SynthFaces(16, 9).identity["sha256"]
    brow = fr.paint_eyes
    monkeypatch.setattr(fr, "paint_eyes", lambda cv, f: None)
    assert SynthFaces(16, 9).identity["sha256"] != before
    monkeypatch.setattr(fr, "paint_eyes", brow)
    assert SynthFaces(16, 9).identity["sha256"] == before


def test_loader_workers_see_the_same_faces():
    ds = SynthFaces(16, size=12)
    loader = torch.utils.data.DataLoader(ds, batch_size=4, num_workers=2)
    assert (torch.cat([x for x, _ in loader]) == ds.images(range(12))).all()


def test_memory_stays_bounded():
    SynthFaces(16, size=2)
    tracemalloc.start()
    SynthFaces(32, size=600).images(range(600))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # all at once would take 600 x 64 x 64 x dozens of floats


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: SynthFaces(8), "16 to 256"),
        (lambda: SynthFaces(512), "16 to 256"),
        (lambda: SynthFaces(32.0), "16 to 256"),
        (lambda: SynthFaces(True), "16 to 256"),
        (lambda: SynthFaces(32, size=0), "size=0"),
        (lambda: render_faces(np.zeros((2, 5))), r"\[n, 28\]"),
        (lambda: render_faces(np.zeros(F)), r"\[n, 28\]"),
        (lambda: render_faces(np.full((1, F), 1.01)), "gender of face 0"),
        (lambda: render_faces(np.full((1, F), -1e-3)), r"\[0, 1\]"),
        (lambda: render_faces(np.full((1, F), np.nan)), r"\[0, 1\]"),
        (lambda: factor_sweep("smirk"), "smirk"),
        (lambda: factor_sweep("smile", base=torch.zeros(9)), "base face"),
        (lambda: SynthFaces(16, 4).images([[1]]), "1-D"),
        (lambda: SynthFaces(16, 4).images([0.5]), "integers"),
    ],
)
def test_misuse_is_named_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as e:
        call()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("i", [-1, 4, 10**9])
def test_faces_outside_are_refused(i):
    with pytest.raises(IndexError, match="faces 0 to 3"):
        SynthFaces(16, 4).images([i])
