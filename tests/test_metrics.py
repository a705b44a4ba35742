"""Path length, precision and recall, KID, IS and the cache of real features, against oracles that share no code."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hsr_nb.data import SynthFaces
from hsr_nb.judges.inception_vgg import VGG16_PLAN
from hsr_nb.judges.perceptual import map_distance
from hsr_nb.metrics import (
    LPIPS,
    DetectorDistance,
    collect_features,
    feature_stats,
    fid,
    generated_images,
    inception_score,
    kid,
    load_detector,
    ppl,
    precision_recall,
    reference_features,
)
from hsr_nb.metrics.fidelity import FeatureStats, frechet_distance, mmd2
from hsr_nb.metrics.path_length import filtered, path_distances, slerp, view
from hsr_nb.metrics.real_features import real_images
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import Stream, sample_generator, sample_seed, seeded_noise, synthesize


def generator(z_dim=16, res=16, c_dim=0):
    torch.manual_seed(0)
    G = Generator(
        z_dim=z_dim,
        c_dim=c_dim,
        w_dim=16,
        img_resolution=res,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=128, channel_max=8),
    ).eval()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.3)
    return G.requires_grad_(False)


@pytest.fixture(scope="module")
def G():
    return generator()


class SquaredL2:
    "Sum of squared pixel differences: a distance that can be checked by hand."

    name = "l2"

    def __call__(self, a, b):
        return (a - b).square().flatten(1).sum(1)


class Linear(nn.Module):
    "z -> w -> pixels, both linear, in float64."

    def __init__(self, size=8):
        super().__init__()
        self.z_dim, self.c_dim, g = 6, 0, torch.Generator().manual_seed(0)
        self.B, self.A = (
            nn.Parameter(torch.randn(*s, generator=g, dtype=torch.float64)) for s in ((6, 5), (5, 3 * size * size))
        )
        self.synthesis = nn.Module()
        self.synthesis.forward = lambda ws, **_: (ws[:, 0] @ self.A).reshape(-1, 3, size, size)

    def mapping(self, z, c=None, truncation_psi=1):
        return (z.double() @ self.B)[:, None]


# ---- seeds of samples


def test_the_streams_of_results_keep_their_numbers():
    "Every measured result depends on them."
    assert {s.name: int(s) for s in Stream} == {
        "SAMPLE": 0,
        "STEP": 1,
        "STEP_NOISE": 2,
        "PATH": 3,
        "PATH_NOISE": 4,
        "PICTURE": 5,
        "PICTURE_NOISE": 6,
    }
    assert sample_seed(3, 7, Stream.STEP_NOISE) == (3 * 1_000_003 + 7) * 16 + 2
    first = torch.randn(4, generator=sample_generator(0, 0, Stream.PICTURE))
    assert torch.equal(first, torch.randn(4, generator=torch.Generator().manual_seed(5)))


# ---- perceptual path length


@pytest.mark.parametrize(
    "how", [dict(), dict(sampling="full"), dict(epsilon=1e-2), dict(sampling="full", epsilon=1e-3), dict(epsilon=1e-6)]
)
def test_a_linear_generator_has_the_same_length_everywhere(how):
    "Squared L2 in W: |A (w1 - w0)|^2, whatever t and epsilon."
    M, seeds = Linear(), [sample_seed(3, i) for i in range(64)]
    z = torch.stack(
        [torch.randn(2, 6, generator=torch.Generator().manual_seed(sample_seed(s, 0, 1))) for s in seeds], 1
    ).double()
    by_hand = ((z[1] - z[0]) @ M.B @ M.A).square().sum(1)
    torch.testing.assert_close(path_distances(M, SquaredL2(), seeds, **how), by_hand, rtol=1e-5, atol=0)
    score = ppl(M, SquaredL2(), pairs=64, percentiles=None, seed=3, **how)
    key = f"ppl2_w{how.get('sampling', 'end')}[l2]"
    assert score[key] == pytest.approx(by_hand.mean().item(), rel=1e-5) and score[key + "_se"] == pytest.approx(
        (by_hand.std() / 8).item(), rel=1e-4
    )


def test_z_depends_on_where():
    M, seeds = Linear(), list(range(20))
    end, full = (path_distances(M, SquaredL2(), seeds, space="z", sampling=s) for s in ("end", "full"))
    assert not torch.allclose(end, full, rtol=1e-2)


def test_slerp():
    a, b = torch.randn(2, 50, 7, dtype=torch.float64)
    theta = nn.functional.cosine_similarity(a, b).acos()
    for t in (0.0, 0.3, 1.0):
        way = slerp(a, b, torch.full((50, 1), t, dtype=torch.float64))
        torch.testing.assert_close(way.norm(dim=1), torch.ones(50, dtype=torch.float64))
        torch.testing.assert_close(
            nn.functional.cosine_similarity(a, way).clamp(-1, 1).acos(), t * theta, rtol=1e-6, atol=1e-7
        )


def test_filter_is_numpy_s():
    for n in (2, 50, 99, 100, 101, 1000):
        d = torch.from_numpy(np.random.default_rng(n).exponential(size=n))
        low, high = np.percentile(d, 1, method="lower"), np.percentile(d, 99, method="higher")
        assert filtered(d).tolist() == [x for x in d.tolist() if low <= x <= high]


def test_view():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert view(x, True, 0).tolist() == x[:, :, 3:7, 2:6].tolist()
    y = torch.rand(1, 3, 1024, 1024)
    torch.testing.assert_close(view(y, False), nn.functional.avg_pool2d(y, 4))
    torch.testing.assert_close(view(y, True), nn.functional.avg_pool2d(y[:, :, 384:896, 256:768], 2))
    torch.testing.assert_close(
        view(y, True, pool_like_ada=True), nn.functional.avg_pool2d(y[:, :, 384:896, 256:768], 4)
    )
    assert view(y[..., :200, :200], False).shape == (1, 3, 200, 200)


def test_ppl_of_a_network(G):
    distance = DetectorDistance(load_detector())
    before, noise = torch.get_rng_state(), G.synthesis.b8.conv0.noise_const.clone()
    scores = {b: ppl(G, distance, pairs=12, batch=b) for b in (1, 5, 12)}
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(noise, G.synthesis.b8.conv0.noise_const)
    assert {tuple(s) for s in scores.values()} == {
        ("ppl2_wend[maps-synthfaces-attributes]", "ppl2_wend[maps-synthfaces-attributes]_se")
    }
    values = [next(iter(s.values())) for s in scores.values()]
    assert max(values) / min(values) < 1.01 and ppl(G, distance, pairs=12, batch=5) == scores[5]
    assert list(ppl(G, SquaredL2(), pairs=2, space="z", sampling="full", crop=True))[0] == "ppl_zfull[l2]"


def test_both_ends_share_noise_and_labels():
    G = generator(c_dim=3)
    with pytest.raises(ValueError, match="labels"):
        ppl(G, SquaredL2(), pairs=2)
    a, b = (ppl(G, SquaredL2(), pairs=4, labels=c) for c in (torch.eye(3), torch.eye(3).flip(0)))
    assert a != b and all(v < 1e6 for v in a.values())  # other noise at the far end would be divided by 1e-8


@pytest.mark.parametrize(
    "wrong, says",
    [(dict(pairs=1), "at least 2 pairs"), (dict(space="v"), "space"), (dict(sampling="start"), "sampling")],
)
def test_ppl_refuses(G, wrong, says):
    with pytest.raises(ValueError, match=says):
        ppl(G, SquaredL2(), **wrong)


def test_ppl_is_never_nan(G):
    class D:
        name = "broken"

        def __call__(self, a, b):
            return torch.full((len(a),), float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        ppl(G, D(), pairs=3)


def test_lpips_is_the_sum_over_normalised_maps():
    layers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths, g = [3, *sum(VGG16_PLAN, ())], torch.Generator().manual_seed(0)
    vgg = {}
    for layer, cin, cout in zip(layers, widths, widths[1:]):
        for name, shape in (("weight", (cout, cin, 3, 3)), ("bias", (cout,))):
            vgg[f"features.{layer}.{name}"] = torch.randn(shape, generator=g) / (9 * cin) ** 0.5
    lin = {f"lin{i}.model.1.weight": torch.rand(1, b[-1], 1, 1, generator=g) for i, b in enumerate(VGG16_PLAN)}
    lpips, (x, y) = LPIPS(vgg, lin), torch.rand(2, 2, 3, 32, 32, generator=g) * 2 - 1
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.vgg16().features.eval()
    net.load_state_dict({k.removeprefix("features."): v for k, v in vgg.items()})
    shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))

    def vector(img):
        "LPIPS as one feature vector: unit channels, root of the weight, root of the area."
        out, h = [], (img - shift) / scale
        for i, layer in enumerate(net):
            h = layer(h)
            if i in (3, 8, 15, 22, 29):
                w = lin[f"lin{len(out)}.model.1.weight"]
                out.append(
                    (h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10) * w.sqrt() / (h.shape[2] * h.shape[3]) ** 0.5)
                    .flatten(1)
                    .clone()
                )
        return torch.cat(out, 1)

    with torch.no_grad():
        torch.testing.assert_close(lpips(x, y), (vector(x) - vector(y)).square().sum(1), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no weights lin0"):
        LPIPS(vgg, {k: v for k, v in lin.items() if "lin3" not in k})
    with pytest.raises(ValueError, match="VGG16 file"):
        LPIPS({k: v for k, v in vgg.items() if "28" not in k}, lin)


def test_noise_is_per_sample(G):
    both = seeded_noise(G, [1, 2])
    assert all(torch.equal(both[k][1:], v) for k, v in seeded_noise(G, [2]).items())
    ws = G.mapping(torch.randn(2, 16))
    torch.testing.assert_close(
        synthesize(G, ws, both)[1:], synthesize(G, ws[1:], seeded_noise(G, [2])), atol=1e-4, rtol=1e-4
    )


def test_map_distance_of_equal_and_of_orthogonal_maps():
    a, b = torch.zeros(2, 1, 2, 3, 3)
    a[:, 0], b[:, 1] = 5, 0.1
    assert map_distance([a], [a]).item() == 0 and map_distance([a], [b]).item() == pytest.approx(2)


# ---- precision and recall


def brute_force(real, fake, k):
    def square(a, b):
        return (a.double()[:, None] - b.double()[None]).square().sum(2)

    def ball(x):
        return square(x, x).sort(1).values[:, k]

    def inside(points, centres):
        return (square(points, centres) <= ball(centres)[None]).any(1).double().mean().item()

    return [inside(fake, real), inside(real, fake)]


@pytest.mark.parametrize("trial", range(40))
def test_exactly_brute_force_with_ties(trial):
    "Coarse grids, duplicates, copies of real vectors among the generated; odd blocks."
    g = torch.Generator().manual_seed(trial)
    n, m, f, k = 30 + trial, 50 - trial // 2, 1 + trial % 6, 1 + trial % 5
    real, fake = (torch.randint(2 + trial % 5, (s, f), generator=g).float() * 0.1 + 3 * (trial % 3) for s in (n, m))
    fake[: m // 4] = real[: m // 4]
    got = precision_recall(real, fake, "grid", k, block=1 + 7 * (trial % 9))
    assert list(got) == ["precision[grid]", "recall[grid]"] and list(got.values()) == brute_force(real, fake, k)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_exactly_brute_force_on_a_sphere(offset):
    "Generated vectors at the real ones' k-th neighbours: on the spheres to the last bit, in numbers that round."
    real = torch.randn(80, 33, generator=torch.Generator().manual_seed(1)) + offset
    near = torch.cdist(real.double(), real.double()).argsort(1)[:, 3]
    for fake in (real[near], torch.cat([real[near], torch.randn(40, 33) * 1.3 + offset])):
        assert list(precision_recall(real, fake, "x", 3, block=17).values()) == brute_force(real, fake, 3)


def test_precision_recall_limits():
    real = torch.randn(100, 5)
    assert list(precision_recall(real, real, "x").values()) == [1, 1]
    assert list(precision_recall(real, real + 1000, "x").values()) == [0, 0]


@pytest.mark.parametrize(
    "real, fake, k, says",
    [
        (torch.zeros(3, 4), torch.zeros(9, 4), 3, "3 real feature vectors are too few: at least 4"),
        (torch.zeros(9, 4), torch.zeros(9, 5), 3, "4 and of 5"),
        (torch.zeros(9, 4), torch.full((9, 4), float("nan")), 3, "generated features contain"),
        (torch.zeros(9, 4), torch.zeros(9, 4), 0, "k is at least 1"),
        (torch.zeros(9), torch.zeros(9), 3, "shape"),
    ],
)
def test_precision_recall_refuses(real, fake, k, says):
    with pytest.raises(ValueError, match=says):
        precision_recall(real, fake, "x", k)


# ---- KID and IS


def test_mmd_against_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8)), rng.normal(size=(30, 8)) + 0.3

    def k(a, b):
        return (a @ b.T / 8 + 1) ** 3

    def off(a):
        return k(a, a)[~np.eye(len(a), dtype=bool)].mean()

    assert mmd2(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(
        off(x) + off(y) - 2 * k(x, y).mean(), rel=1e-12
    )


def test_mmd_against_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = np.random.default_rng(1).normal(size=(2, 25, 6))

    def k(a, b):
        return pairwise.polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1)

    def off(a):
        return (k(a, a).sum() - np.trace(k(a, a))) / (25 * 24)

    assert mmd2(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(
        off(x) + off(y) - 2 * k(x, y).mean(), rel=1e-10
    )


def test_kid_is_unbiased_and_seeded():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3000, 1, generator=g), torch.randn(3000, 1, generator=g)
    small = kid(a, b, "x", subsets=2000, size=10)
    assert abs(small["kid[x]"]) < 4 * small["kid_std[x]"] / 2000**0.5 + 0.1  # truth: 0, even with ten vectors
    wide = kid(a, 2 * b, "x", subsets=50, size=1000)["kid[x]"]
    assert wide == pytest.approx(27, rel=0.15)  # 3 (1 - s^2)^2
    assert kid(a, b, "x", subsets=3) == kid(a, b, "x", subsets=3) != kid(a, b, "x", subsets=3, seed=1)
    assert kid(a, a, SimpleNamespace(name="y"), subsets=2)["kid[y]"] == pytest.approx(0, abs=0.2)


def test_kid_refuses():
    x = torch.randn(10, 4)
    for wrong, says in (((x[:1], x), "too few"), ((x, x[:, :3]), "4 and of 3"), ((x * float("nan"), x), "not finite")):
        with pytest.raises(ValueError, match=says):
            kid(*wrong, "x")
    with pytest.raises(ValueError, match="subset"):
        kid(x, x, "x", subsets=0)


def test_inception_score():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(95, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = [np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in np.array_split(p, 10)]
    got = inception_score(torch.from_numpy(logits), "toy")
    assert got["is[toy]"] == pytest.approx(np.mean(parts), rel=1e-10) and got["is_std[toy]"] == pytest.approx(
        np.std(parts), rel=1e-10
    )
    sure = inception_score(1e6 * torch.eye(5).repeat(10, 1), "toy")
    assert sure["is[toy]"] == pytest.approx(5) and sure["is_std[toy]"] == pytest.approx(0)
    for wrong, says in (
        (torch.zeros(5, 3), "too few"),
        (torch.zeros(50, 1), "2 classes"),
        (torch.full((50, 3), float("nan")), "not finite"),
    ):
        with pytest.raises(ValueError, match=says):
            inception_score(wrong, "toy")


# ---- real pictures, generated pictures, the cache


class Colour:
    "A detector with a hash: mean colours."

    name, num_features, sha256, calls = "colour", 3, "c0", 0

    def __call__(self, images):
        self.calls += len(images)
        return images.float().mean((2, 3))


def test_cache_knows_what_it_keeps(tmp_path):
    ds, d = SynthFaces(16, 40, seed=1), Colour()
    first = reference_features(ds, d, cache=tmp_path)
    assert d.calls == 40 and torch.equal(reference_features(ds, d, cache=tmp_path), first) and d.calls == 40
    stats, direct = feature_stats(real_images(ds), d), FeatureStats(3).append(first)
    assert d.calls == 80 and stats.n == 40
    assert torch.allclose(stats.cov, direct.cov) and torch.allclose(stats.mean, direct.mean)
    assert fid(stats, first, d)["fid[colour]"] == pytest.approx(0, abs=1e-6)
    for change in (dict(n=30), dict(ds=SynthFaces(16, 40, seed=2)), dict(ds=SynthFaces(32, 40, seed=1))):
        before = d.calls
        reference_features(**{"ds": ds, "detector": d, "cache": tmp_path, **change})
        assert d.calls > before
    other = Colour()
    other.sha256 = "c1"
    reference_features(ds, other, cache=tmp_path)
    assert other.calls == 40 and all(f.suffix == ".safetensors" for f in tmp_path.iterdir())  # no leftovers


def test_a_damaged_or_foreign_cache_file_is_made_again(tmp_path):
    ds, d = SynthFaces(16, 20, seed=1), Colour()
    first = reference_features(ds, d, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    from safetensors.torch import save_file

    for damage in (
        lambda: file.write_bytes(whole[: len(whole) // 2]),
        lambda: file.write_bytes(b""),
        lambda: save_file({"features": torch.zeros(20, 3)}, file, {"key": "{}"}),
    ):
        damage()
        assert torch.equal(reference_features(ds, d, cache=tmp_path), first)
    assert d.calls == 80


def test_without_a_cache_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference_features(SynthFaces(16, 5), Colour())
    assert not os.listdir(tmp_path)
    nameless = SimpleNamespace(name="nameless", num_features=3)
    with pytest.raises(ValueError, match="no sha256"):
        reference_features(SynthFaces(16, 5), nameless, cache=tmp_path)
    with pytest.raises(ValueError, match="has 5 pictures, 6"):
        next(real_images(SynthFaces(16, 5), 6))


def test_generated_pictures_follow_from_seed_and_number(G):
    one, two, other = (torch.cat(list(generated_images(G, 10, seed=s, batch=b))) for s, b in ((0, 10), (0, 3), (1, 10)))
    assert one.dtype == torch.uint8 and (one.int() - two.int()).abs().max() <= 1 and not torch.equal(one, other)
    with pytest.raises(ValueError, match="labels"):
        generated_images(generator(c_dim=2), 3)
    assert len(torch.cat(list(generated_images(generator(c_dim=2), 3, labels=torch.eye(2))))) == 3


def test_distances_rise_with_blur_noise_and_dropped_kinds():
    "Strictly at every step, and every kind of damage from the same real pictures."
    judge, ds = load_detector(), SynthFaces(32, 480, seed=31)
    real, clean = reference_features(ds, judge, 240), ds.images(range(240, 480))
    speckle, order = (
        torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)),
        ds.factors(range(240, 480))[:, 0].argsort(),
    )

    def blur(k):
        return nn.functional.avg_pool2d(
            nn.functional.pad(clean.float(), [k] * 4, mode="replicate"), 2 * k + 1, 1
        ).byte()

    damage = {
        "blur": [blur(k) for k in (1, 2, 4)],
        "noise": [(clean + s * speckle).clamp(0, 255).byte() for s in (10, 20, 40)],
        "dropped": [clean[order[:n]].repeat(240 // n, 1, 1, 1) for n in (120, 60, 30)],
    }

    def both(x):
        fake = collect_features(x.split(60), judge)
        kernel = kid(real, fake, judge, subsets=1, size=240)
        return [fid(real, fake, judge)[f"fid[{judge.name}]"], kernel[f"kid[{judge.name}]"]]

    whole = both(clean)
    for kind, steps in damage.items():
        rows = [whole, *map(both, steps)]
        for score, values in zip(("fid", "kid"), zip(*rows)):
            assert list(values) == sorted(set(values)), (kind, score, values)


def test_scores_rise_with_damage_and_carry_the_judge_s_name(G):
    judge, ds = load_detector(), SynthFaces(32, 240, seed=31)
    real, clean = reference_features(ds, judge, 120), ds.images(range(120, 240))

    def blurred(k):
        if k == 1:
            return clean
        return nn.functional.avg_pool2d(nn.functional.pad(clean.float(), [k // 2] * 4, mode="replicate"), k, 1).byte()

    rows = []
    for k in (1, 5, 9):
        fake = collect_features(blurred(k).split(60), judge)
        found = fid(real, fake, judge) | kid(real, fake, judge, subsets=5, size=100)
        rows.append(found | precision_recall(real, fake, judge))
    names = {f"{k}[synthfaces-attributes]" for k in ("fid", "kid", "kid_std", "precision", "recall")}
    assert set(rows[0]) == names and "NaN" not in json.dumps(rows)
    for key, order in (("fid", 1), ("kid", 1), ("precision", -1)):
        values = [order * r[f"{key}[synthfaces-attributes]"] for r in rows]
        assert values == sorted(values) and values[0] < values[-1], key


# ---- the field's own implementations, after their known factors


class First(nn.Module):
    "A stand-in network for torchmetrics: its input is its features."

    def __init__(self, features):
        super().__init__()
        self.num_features = features

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def clouds():
    "Two correlated clouds of 7 features, of 300 and of 260 vectors."
    g = torch.Generator().manual_seed(5)
    mix = torch.randn(7, 7, generator=g, dtype=torch.float64)
    return torch.randn(300, 7, generator=g, dtype=torch.float64) @ mix, 1.3 * torch.randn(
        260, 7, generator=g, dtype=torch.float64
    ) @ mix + 0.4


@pytest.mark.parametrize("d", [1, 64, 512])
def test_fid_of_given_statistics_is_the_closed_form(d):
    "Covariances that commute, in rotated coordinates: squared gaps of the means and of the standard deviations."
    g = torch.Generator().manual_seed(d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    one, two = (
        torch.rand(d, generator=g, dtype=torch.float64) * 10 ** torch.linspace(-6, 2, d, dtype=torch.float64)
        for _ in range(2)
    )
    mu = torch.randn(2, d, generator=g, dtype=torch.float64)
    want = (mu[0] - mu[1]).square().sum() + (one.sqrt() - two.sqrt()).square().sum()
    S = [turn @ v.diag() @ turn.T for v in (one, two)]
    assert frechet_distance(mu[0], S[0], mu[1], S[1]) == pytest.approx(want.item(), rel=1e-6)
    assert frechet_distance(torch.zeros(d), torch.eye(d), torch.zeros(d), 4 * torch.eye(d)) == pytest.approx(
        d, rel=1e-6
    )
    assert abs(frechet_distance(mu[0], S[0], mu[0], S[0])) < 1e-6 * S[0].trace()


def ours_with_n_minus_1(real, fake):
    "Our distance with covariances divided by N - 1, as the two libraries have them."
    s = [FeatureStats(7).append(x) for x in (real, fake)]
    return frechet_distance(
        s[0].mean, s[0].cov * (s[0].n / (s[0].n - 1)), s[1].mean, s[1].cov * (s[1].n / (s[1].n - 1))
    )


def test_fid_is_torch_fidelity_s(clouds):
    theirs = pytest.importorskip("torch_fidelity.metric_fid")
    found = theirs.fid_statistics_to_metric(*(theirs.fid_features_to_statistics(x) for x in clouds), False)[
        "frechet_inception_distance"
    ]
    assert (
        ours_with_n_minus_1(*clouds)
        == pytest.approx(found, rel=1e-7)
        != pytest.approx(fid(*clouds, "x")["fid[x]"], rel=1e-7)
    )


def test_fid_is_torchmetrics_s(clouds):
    theirs = (
        pytest.importorskip("torchmetrics.image.fid")
        .FrechetInceptionDistance(feature=First(7), normalize=True)
        .set_dtype(torch.float64)
    )
    theirs.used_custom_model = True
    for x, real in zip(clouds, (True, False)):
        theirs.update(x, real=real)
    assert ours_with_n_minus_1(*clouds) == pytest.approx(theirs.compute().item(), rel=1e-4)  # its sums are not centred


def test_kid_is_theirs(clouds):
    "The kernel distance of whole samples: a subset as large as the sample holds every vector once."
    a, b = (x[:200] for x in clouds)
    want = kid(a, b, "x", subsets=1, size=200)["kid[x]"]
    theirs = pytest.importorskip("torch_fidelity.metric_kid").kid_features_to_metric(
        a, b, kid_subsets=2, kid_subset_size=200, verbose=False
    )
    assert want == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    module = pytest.importorskip("torchmetrics.image.kid")
    assert want == pytest.approx(module.poly_mmd(a, b, degree=3, gamma=None, coef=1.0).item(), rel=1e-9)


def test_inception_score_is_theirs():
    logits = torch.randn(300, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2
    ours = inception_score(logits, "x")
    theirs = pytest.importorskip("torch_fidelity.metric_isc").isc_features_to_metric(logits, splits=10, shuffle=False)
    assert [ours["is[x]"], ours["is_std[x]"]] == pytest.approx(
        [theirs["inception_score_mean"], theirs["inception_score_std"]], rel=1e-9
    )
    metric = pytest.importorskip("torchmetrics.image.inception").InceptionScore(feature=First(9), splits=10)
    torch.manual_seed(0)  # it shuffles before it splits
    metric.features = [logits]
    order = torch.randperm(300)
    torch.manual_seed(0)
    mean, std = metric.compute()
    again = inception_score(logits[order], "x")
    assert again["is[x]"] == pytest.approx(mean.item(), rel=1e-6) and again["is_std[x]"] == pytest.approx(
        std.item() * (9 / 10) ** 0.5, rel=1e-5
    )  # its spread divides by 9


def test_precision_recall_is_torch_fidelity_s(clouds):
    theirs = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = clouds
    for k in (1, 3, 5):
        found = theirs.calculate_precision_recall_part(fake, real, neighborhood=k)  # generated first
        assert list(precision_recall(real, fake, "x", k).values()) == pytest.approx(found, abs=1e-6)
    assert 0 < found[0] < 1 and 0 < found[1] < 1


# ---- how long


@pytest.mark.alone
def test_precision_recall_on_blocks_costs_no_more_than_a_few_products():
    "Against the plain product of the same sizes, in the same process."
    real, fake = torch.randn(2, 1500, 256, dtype=torch.float64)

    def seconds(f):
        times = []
        for _ in range(3):
            start = time.process_time()
            f()
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(lambda: precision_recall(real, fake, "x")) < 60 * seconds(lambda: real @ fake.T)


@pytest.mark.alone
def test_statistics_cost_about_their_one_product():
    x = torch.randn(20000, 256)
    start = time.process_time()
    x.double().T @ x.double()
    floor = time.process_time() - start
    stats, start = FeatureStats(256), time.process_time()
    for part in x.split(500):
        stats.append(part)
    assert stats.cov.shape == (256, 256) and time.process_time() - start < 10 * floor


def test_timing_notebook(tmp_path):
    papermill, root = pytest.importorskip("papermill"), Path(__file__).parents[1]
    papermill.execute_notebook(
        root / "nbs/experiments/metrics_timing.ipynb",
        tmp_path / "out.ipynb",
        dict(run=True, n=300, widths=[8, 16], pr_n=60, paths=2, repeats=2, threads=1, out=str(tmp_path / "results")),
        kernel_name="python3",
        progress_bar=False,
        cwd=str(root),
    )
    (file,) = (tmp_path / "results").iterdir()
    found = json.loads(file.read_text())
    assert [r["what"].split()[0] for r in found["rows"]] == ["statistics", "Fréchet"] * 2 + [
        "precision",
        "ALS:",
        "ALS:",
    ] and all(0 <= r["seconds"] <= r["slowest"] for r in found["rows"])
    assert file.name.startswith("metrics-timing-") and (found["config"]["threads"], found["config"]["repeats"]) == (
        1,
        2,
    )
