"""The Attribute Linearity Score: both published oracles, its invariances, its companions, its paths and banks."""

import gc
import json
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from hsr_nb.base.whole import sha256
from hsr_nb.judges.attributes import AttributeBank, load_bank
from hsr_nb.metrics import load_detector
from hsr_nb.metrics.als import (
    als_report,
    bootstrap_als,
    chord_normalised,
    compare_als,
    deviations,
    draw_counts,
    leakage,
    monotonicity,
    pooled_sigma,
    resampled_curves,
    score_paths,
    t_sweep,
)
from hsr_nb.metrics.als_paths import generate_paths, path_ends, path_logits
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import generator_hash
from hsr_nb.studies.stored_logits import load_logits, require_same_paths, save_logits


def naive(L):
    "The definition in plain loops."
    P, T, A = L.shape
    out = []
    for a in range(A):
        values = [L[p, k, a] for p in range(P) for k in range(T)]
        mean = sum(values) / len(values)
        sigma = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        D = [
            sum(abs((1 - k / (T - 1)) * L[p, 0, a] + k / (T - 1) * L[p, -1, a] - L[p, k, a]) / sigma for p in range(P))
            / P
            for k in range(T)
        ]
        out.append(sum(d**2 for d in D))
    return np.array(out)


@pytest.fixture
def L():
    return np.random.default_rng(0).normal(size=(7, 11, 4)).cumsum(1)


# ---- oracles


def test_by_hand():
    A = np.stack([[[0, 1, 2, 3, 4], [4, 3.5, 2, 1, 0]], [[0, 0, 0, 0, 2], [1, 3, 1, 1, 1]]], -1)
    s = score_paths(A)
    close = dict(rtol=0, atol=1e-10)
    np.testing.assert_allclose(s["sigma"], [1.4568802284, 0.9433981132], **close)
    np.testing.assert_allclose(deviations(A)[:, :, 0] / s["sigma"][0], [[0] * 5, [0, -0.3431991115, 0, 0, 0]], **close)
    np.testing.assert_allclose(
        deviations(A)[:, :, 1] / s["sigma"][1],
        [[0, 0.5299989400, 1.0599978800, 1.5899968200, 0], [0, -2.1199957600, 0, 0, 0]],
        **close,
    )
    np.testing.assert_allclose(
        s["D"].T, [[0, 0.1715995558, 0, 0, 0], [0, 1.3249973500, 0.5299989400, 0.7949984100, 0]], **close
    )
    np.testing.assert_allclose(s["als"], [0.0294464075, 2.6685393258], **close)
    np.testing.assert_allclose(s["als_mean"], 1.3489928667, **close)
    np.testing.assert_allclose(s["als_std"], [0.0294464075, 1.5449438202], **close)
    np.testing.assert_allclose(s["area"], [0.0428998889, 0.6624986750], **close)
    np.testing.assert_allclose(s["area"] * 4 * 0.1, [0.0171599556, 0.2649994700], **close)  # the official step of 0.1
    assert (s["P"], s["T"]) == (2, 5)


def test_with_the_official_frame_count():
    q, t = np.arange(1, 4)[:, None], np.arange(11)[None] / 10
    B = np.stack(
        [q * t, q * t**2, q * np.sin(np.pi * t), np.where(t < 0.5, 0, np.array([1, -1, 1])[:, None]), 2 * t**3 - q * t],
        -1,
    )
    s, close = score_paths(torch.from_numpy(B)), dict(rtol=0, atol=2e-10)
    np.testing.assert_allclose(
        s["sigma"], [0.7958224258, 0.7646785817, 0.8963324442, 0.7158188976, 0.5548453238], **close
    )
    np.testing.assert_allclose(s["als"], [0, 2.2800136815, 24.8938324566, 1.6588709677, 9.8982848976], **close)
    np.testing.assert_allclose(s["als_mean"], 7.7462004007, **close)
    np.testing.assert_allclose(s["als_std"], [0, 0.3800022802, 4.1489720761, 0, 0], **close)
    np.testing.assert_allclose(s["area"], [0, 0.4315538684, 1.4087968266, 0.3492503493, 0.8921405278], **close)
    np.testing.assert_allclose([s["area"].mean(), s["als_std"].mean()], [0.6163483143, 0.9057948713], **close)
    half = [0.2353930191, 0.4184764784, 0.5492503779, 0.6277147176, 0.6538694975]
    np.testing.assert_allclose(s["D"][:, 1], [0, *half, *half[-2::-1], 0], **close)
    np.testing.assert_allclose(
        s["D"][1:10, 4],
        [
            0.3568562111,
            0.6920847731,
            0.9840580367,
            1.2111483529,
            1.3517280724,
            1.3841695461,
            1.2868451249,
            1.0381271596,
            0.6163880010,
        ],
        **close,
    )


@pytest.mark.parametrize("shape", [(1, 3, 1), (5, 4, 2), (3, 41, 3)])
def test_against_loops(shape):
    L = np.random.default_rng(1).normal(size=shape)
    np.testing.assert_allclose(score_paths(L)["als"], naive(L), rtol=1e-12)


@pytest.mark.parametrize("T", [3, 5, 11, 41])
def test_planted_curves(T):
    "Linear: 0. Ease-in x + d t^2: d^2 / sigma^2 (n^4 - 1) / (30 n^3)."
    t, x, d, n = np.arange(T) / (T - 1), np.random.default_rng(0).uniform(size=(20, 1)), 0.7, T - 1
    s = score_paths(np.stack([x + d * t, x + d * t**2], -1))
    assert s["als"][0] < 1e-28
    np.testing.assert_allclose(s["als"][1], d**2 / s["sigma"][1] ** 2 * (n**4 - 1) / (30 * n**3), rtol=1e-10)


# ---- invariances


@pytest.mark.parametrize(
    "change",
    [
        lambda L: 3 * L + 7,
        lambda L: -0.01 * L,
        lambda L: L * [1, -2, 3, 0.5] + [1e3, 0, -5, 2],
        lambda L: L[:, ::-1],
        lambda L: L[[3, 1, 0, 2, 6, 5, 4]],
        lambda L: np.concatenate([L, L]),
    ],
)
def test_what_changes_nothing(L, change):
    np.testing.assert_allclose(score_paths(change(L))["als"], score_paths(L)["als"], rtol=1e-8)


def test_properties(L):
    s = score_paths(L)
    assert (s["D"][[0, -1]] == 0).all() and (s["als"] >= 0).all()
    np.testing.assert_allclose(score_paths(L[:, ::-1])["D"], s["D"][::-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(score_paths(-2 * L + 1)["D"], s["D"], rtol=1e-9)
    assert (s["als"] <= ((deviations(L) / s["sigma"]) ** 2).sum(1).mean(0) + 1e-12).all()  # Jensen
    np.testing.assert_allclose(s["als"], 10 * np.trapezoid(s["D"] ** 2, dx=0.1, axis=0))
    moved = L + np.arange(7)[:, None, None] * 10
    np.testing.assert_allclose(deviations(moved), deviations(L), atol=1e-10)
    assert (score_paths(moved)["als"] < s["als"] / 2).all()  # sigma grows: not invariant
    np.testing.assert_allclose(score_paths(L, sigma=2 * s["sigma"])["als"], s["als"] / 4)


def test_a_constant_attribute(L):
    L[:, :, 2] = 0.1
    with pytest.warns(UserWarning, match="left out of the mean: glasses") as caught:
        s = score_paths(L, ["a", "b", "glasses", "d"])
    assert len(caught) == 1 and s["als"][2] == 0 and np.isfinite(s["als"]).all()
    assert s["als_mean"] == s["als"][[0, 1, 3]].mean()
    report = als_report(s)
    assert report["als"]["glasses"] is None and "NaN" not in json.dumps(report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for r in (False, True):
            assert all(np.isfinite(v).all() for v in bootstrap_als(L, B=50, recompute=r).values())
        pair = compare_als(L, L * 2, ["a", "b", "glasses", "d"], B=50)
        assert pair["difference"]["glasses"] is None and pair["ratio"]["a"] == [1, 1, 1]
        assert (
            chord_normalised(L)["attribute 2"] == {"als": None, "paths": 0}
            and monotonicity(L)["attribute 2"] is None
            and leakage(L, list("abcd"), "a")["c"] is None
        )
        assert "NaN" not in json.dumps(
            [
                pair["difference"],
                pair["ratio"],
                chord_normalised(L),
                monotonicity(L),
                leakage(L, list("abcd"), "a"),
                t_sweep(L, frames=(3, 6, 11)),
            ]
        )


@pytest.mark.parametrize(
    "bad, says",
    [
        (np.ones((3, 11, 2)), "every attribute is constant"),
        (np.zeros((3, 2, 2)), "at least 3 frames"),
        (np.zeros((0, 11, 2)), "shape"),
        (np.zeros((11, 2)), "shape"),
        (np.where(np.arange(66).reshape(3, 11, 2) == 25, np.nan, 1.0), "attribute 1 at frame 1 of path 1 is nan"),
        (np.full((3, 11, 2), np.inf), "is inf"),
    ],
)
def test_what_is_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        score_paths(bad)


def test_more_refusals(L):
    for f in (lambda: bootstrap_als(L[:1]), lambda: draw_counts(1)):
        with pytest.raises(ValueError, match="at least 2 paths"):
            f()
    with pytest.raises(ValueError, match="sigma"):
        score_paths(L, sigma=[1, 1, 0, 1])
    with pytest.raises(ValueError, match="names"):
        score_paths(L, ["a"])
    with pytest.raises(ValueError, match="same paths"):
        compare_als(L, L[:5])
    with pytest.raises(ValueError, match="pooled or recompute"):
        compare_als(L, L, pooled=True, recompute=True)
    with pytest.raises(ValueError, match="cannot be chosen"):
        t_sweep(L, frames=(5, 7))
    with pytest.raises(ValueError, match="no attribute is called"):
        leakage(L, list("abcd"), "e")


# ---- intervals and comparisons


def test_a_resample_is_a_choice_of_paths(L):
    counts = draw_counts(7, 5, seed=3)
    assert (counts.sum(1) == 7).all()
    sigma = score_paths(L)["sigma"]
    held, own = (resampled_curves(L, counts, sigma, r) for r in (False, True))
    for b, row in enumerate(counts.astype(int)):
        drawn = np.repeat(L, row, axis=0)
        for (D, S), s in ((held, score_paths(drawn, sigma=sigma)), (own, score_paths(drawn))):
            np.testing.assert_allclose(D[b], s["D"], atol=1e-10)
            np.testing.assert_allclose(S[b], s["S"], atol=1e-7)


def test_intervals(L):
    i, s = bootstrap_als(L, B=400), score_paths(L)
    assert (
        (i["als"][0] <= i["als"][1]).all()
        and i["als_mean"][0] < s["als_mean"] < i["als_mean"][1]
        and i["D"].shape == (2, 11, 4)
    )
    assert all((v == w).all() for v, w in zip(i.values(), bootstrap_als(L, B=400).values()))
    wide = bootstrap_als(L, B=400, level=0.99)["als_mean"]
    assert wide[0] < i["als_mean"][0] and i["als_mean"][1] < wide[1]


def test_paired_comparison(L):
    pair = compare_als(L, L)
    assert pair["difference"]["mean"] == [0, 0, 0] and pair["ratio"]["mean"] == [1, 1, 1]
    noise = np.random.default_rng(5).normal(size=L.shape) * 0.05
    a, b = compare_als(L, L + noise), compare_als(L + noise, L)
    np.testing.assert_allclose(a["difference"]["mean"], -np.array(b["difference"]["mean"])[[0, 2, 1]])
    assert a["difference"]["mean"][0] == pytest.approx(a["two"]["als_mean"] - a["one"]["als_mean"])
    straight = np.linspace(0, 1, 11)[None, :, None] * np.arange(1, 8)[:, None, None]
    exact = compare_als(
        np.zeros_like(straight) + np.arange(11)[None, :, None] * (1 + np.arange(7))[:, None, None], straight**2
    )
    assert exact["ratio"]["mean"] is None or exact["ratio"]["mean"][0] > 1e6  # nothing to divide by


def test_pooled_scale(L):
    both = np.concatenate([L, 5 * L])
    np.testing.assert_allclose(pooled_sigma(L, 5 * L), both.std((0, 1)))
    pair = compare_als(L, 5 * L, pooled=True)
    np.testing.assert_allclose(pair["two"]["als"], 25 * pair["one"]["als"])  # its own scale would hide it
    np.testing.assert_allclose(compare_als(L, 5 * L)["ratio"]["mean"], [1, 1, 1])


def test_companions():
    t, q = np.arange(41)[None] / 40, np.arange(1, 21)[:, None]
    L = np.stack([q * t**2, q * t + np.sin(np.pi * t) * np.where(q % 2, 1, -1), 0 * q + t, q * (t > 0.5)], -1)
    s = score_paths(L, list("abcd"))
    assert (
        np.abs(s["signed"][:, 0]).max() == pytest.approx(s["D"][:, 0].max())
        and np.abs(s["signed"][:, 1]).max() < 1e-9 < s["D"][:, 1].max()
    )
    assert chord_normalised(L, list("abcd"), threshold=0.5)["a"]["als"] == pytest.approx((40**4 - 1) / (30 * 40**3))
    assert (
        monotonicity(L)["attribute 0"] == 1
        and monotonicity(L)["attribute 3"] == pytest.approx(1 / 40)
        and monotonicity(-L)["attribute 2"] == 1
    )
    leak = leakage(L, list("abcd"), "a")
    assert leak["c"] == pytest.approx(1 / s["sigma"][2]) and leak["others"] == pytest.approx(
        np.mean([leak[k] for k in "bcd"])
    )
    sweep = t_sweep(L[..., :1])
    assert list(sweep) == [5, 11, 21, 41] and sweep[11] == pytest.approx(score_paths(L[:, ::4, :1])["als_mean"])
    assert abs(sweep[41] - sweep[21]) < abs(sweep[11] - sweep[5])


# ---- paths


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(0)
    G = Generator(
        z_dim=16,
        w_dim=16,
        img_resolution=16,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=128, channel_max=8),
    ).eval()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.3)
    return G.requires_grad_(False)


def test_paths_are_straight_seeded_and_leave_the_generator_alone(G):
    before, state = generator_hash(G), torch.get_rng_state()
    frames = list(generate_paths(G, 3, T=5, seed=4))
    assert generator_hash(G) == before and torch.equal(torch.get_rng_state(), state) and not frames[0].requires_grad
    assert [f.shape for f in frames] == [(5, 3, 16, 16)] * 3
    for p in (2, 0):
        assert torch.equal(next(generate_paths(G, [p], T=5, seed=4)), frames[p])
    assert not torch.allclose(next(generate_paths(G, 1, T=5, seed=5)), frames[0], atol=1e-2)
    ws = path_ends(G, 1, 4)
    assert (ws[:, :1] == ws).all() and not torch.allclose(ws[0], ws[1])  # W, not W+
    w = torch.stack([torch.lerp(*ws, k / 4) for k in range(5)])
    quiet = G.synthesis(w, noise_mode="none")
    assert (quiet - frames[1]).abs().mean() > 1e-3  # there is noise ...
    assert torch.allclose(next(generate_paths(G, [1], T=3, seed=4)), frames[1][::2], atol=1e-4)  # ... the same at any T


def test_edit_paths(G):
    n = torch.randn(16, generator=torch.Generator().manual_seed(0))
    ws, there = path_ends(G, 0, 0), path_ends(G, 0, 0, "edit", n, 3.0)
    assert torch.equal(ws[0], there[0])
    assert torch.allclose(there[1] - there[0], (3 * n / n.norm()).expand(len(ws[0]), -1), atol=1e-5)
    assert torch.allclose(
        path_ends(G, 0, 0, "edit", 100 * n, 3.0), there, atol=1e-5
    )  # the length of the direction does not matter


def test_truncation_and_labels():
    torch.manual_seed(1)
    G = Generator(
        z_dim=8,
        c_dim=2,
        w_dim=8,
        img_resolution=8,
        mapping_kwargs=dict(num_layers=1),
        synthesis_kwargs=dict(channel_base=64, channel_max=8),
    ).eval()
    with pytest.raises(ValueError, match="labels"):
        generate_paths(G, 1)
    c = torch.eye(2)
    a, b = (next(generate_paths(G, [0], labels=x)) for x in (c, c.flip(0)))
    assert not torch.allclose(a, b, atol=1e-3)
    flat = next(generate_paths(G, [0], labels=c, psi=0.0))
    assert torch.allclose(flat[0], flat[-1], atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(mode="straight"),
        dict(mode="edit"),
        dict(mode="edit", direction=torch.ones(5), scale=1.0),
        dict(mode="edit", direction=torch.zeros(16), scale=1.0),
        dict(mode="edit", direction=torch.ones(16), scale=0.0),
        dict(direction=torch.ones(16)),
        dict(T=2),
    ],
)
def test_refused_before_the_first_frame(G, wrong):
    with pytest.raises(ValueError):
        generate_paths(G, 1, **wrong)


def test_one_path_at_a_time(G):
    "Frames of an earlier path are gone when the next but one is made."
    seen = []

    class Watch:
        name, sha256, attribute_names = "watch", "0", ("brightness",)

        def __call__(self, frames):
            gc.collect()
            assert sum(r() is not None for r in seen) <= 1
            seen.append(weakref.ref(frames))
            return frames.float().mean((1, 2, 3))[:, None]

    assert path_logits(G, Watch(), 6, T=4).shape == (6, 4, 1)


def test_two_generators_walk_the_same_paths(G):
    torch.manual_seed(9)
    H = Generator(**{**G.init_kwargs, "synthesis_kwargs": dict(channel_base=256, channel_max=16)}).eval()
    H.mapping.load_state_dict(G.mapping.state_dict())
    assert all(torch.equal(path_ends(G, p, 1), path_ends(H, p, 1)) for p in range(3))
    from hsr_nb.nets.seeds import seeded_noise

    assert all(torch.equal(a, b) for a, b in zip(seeded_noise(G, [5]).values(), seeded_noise(H, [5]).values()))


def test_logits_on_disk(G, tmp_path):
    bank = AttributeBank("mean", "ab", ["red", "green", "blue"], lambda x: x.float().mean((2, 3)))
    L = path_logits(G, bank, 3, T=4, seed=2)
    about = save_logits(tmp_path / "x.npz", L, bank, G, seed=2, mode="random", psi=1.0)
    back, found = load_logits(tmp_path / "x.npz")
    assert (back == L).all() and found == about and found["generator"] == generator_hash(G)
    require_same_paths(about, {**found, "generator": "another"})
    for key, value in (("seed", 1), ("mode", "edit"), ("bank_sha256", "cd")):
        with pytest.raises(ValueError, match=key):
            require_same_paths(about, {**about, key: value})
    np.savez(tmp_path / "y.npz", other=L)
    with pytest.raises(ValueError, match="y.npz: its array logits is missing"):
        load_logits(tmp_path / "y.npz")
    with pytest.raises(FileNotFoundError):
        load_logits(tmp_path / "z.npz")


def test_nan_from_a_judge_is_named(G):
    bank = AttributeBank("broken", "ab", ["x"], lambda f: torch.full((len(f), 1), float("nan")))
    with pytest.raises(ValueError, match="broken returned a value that is not finite for path 0"):
        path_logits(G, bank, 2)
    with pytest.raises(ValueError, match="names 2 attributes"):
        AttributeBank("odd", "ab", ["x", "y"], lambda f: torch.zeros(len(f), 1))(
            torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        )


# ---- banks


def test_embedded_bank():
    bank, frames = load_bank(), torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    assert (
        bank.name == "synthfaces-attributes"
        and len(bank.sha256) == 64
        and torch.equal(bank(frames), load_detector().attributes(frames))
    )
    assert torch.equal(bank.select(["beard", "gender"])(frames), bank(frames)[:, [5, 0]])
    with pytest.raises(ValueError, match="no attribute 'nose'"):
        bank.select(["nose"])


def test_bank_from_safetensors(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    from hsr_nb.judges.detectors import AttributeNet

    net = AttributeNet((4, 8), 2).eval()
    save_file(net.state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match="card"):
        load_bank(tmp_path / "mine.safetensors")
    card = {
        "attributes": ["a", "b"],
        "input": {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3},
        "architecture": {"kwargs": {"widths": [4, 8], "attributes": 2}},
    }
    (tmp_path / "mine.json").write_text(json.dumps(card))
    bank, x = load_bank(tmp_path / "mine.safetensors"), torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(bank(x), net(x.float() / 127.5 - 1).detach(), rtol=1e-4, atol=1e-5)
    (tmp_path / "mine.json").write_text(
        json.dumps({**card, "architecture": {"kwargs": {"widths": [4, 6], "attributes": 2}}})
    )
    with pytest.raises(ValueError, match="mine.safetensors does not fit"):
        load_bank(tmp_path / "mine.safetensors")
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match="no entry 'attributes'"):
        load_bank(tmp_path / "mine.safetensors")


def test_bank_of_a_timm_network(tmp_path):
    "As the CelebA heads of experiments/attributes would be stored."
    pytest.importorskip("timm")
    from safetensors.torch import save_file

    from hsr_nb.judges.backbones import build_net

    net = build_net("test_resnet", {"num_classes": 2}).eval()
    save_file(net.state_dict(), tmp_path / "celeb.safetensors")
    card = {
        "name": "celeb-heads",
        "attributes": ["male", "smiling"],
        "input": {"size": [64, 64], "mean": [0.5] * 3, "std": [0.5] * 3},
        "timm": {"name": "test_resnet"},
    }
    (tmp_path / "celeb.json").write_text(json.dumps(card))
    bank, x = load_bank(tmp_path / "celeb.safetensors"), torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    assert bank.name == "celeb-heads"
    torch.testing.assert_close(bank(x), net(x.float() / 127.5 - 1).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_folder_of_torchscript_files(tmp_path):
    for i, name in enumerate(("01-smiling", "00-male")):
        torch.manual_seed(i)
        torch.jit.trace(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)), torch.zeros(1, 3, 8, 8)
        ).save(str(tmp_path / f"{name}.pt"))
    (tmp_path / "notes.txt").write_text("no classifier")
    with pytest.raises(ValueError, match="00-male.pt is TorchScript, which is code"):
        load_bank(tmp_path, size=(8, 8))
    trusted = [sha256(file) for file in tmp_path.glob("*.pt")]
    bank, x = (
        load_bank(tmp_path, size=(8, 8), allow_code=trusted),
        torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8),
    )
    assert bank.attribute_names == ("00-male", "01-smiling") and bank(x).shape == (3, 2)
    one = load_bank(tmp_path / "00-male.pt", ["gender"], (8, 8), allow_code=trusted)
    assert one.attribute_names == ("gender",) and torch.equal(one(x)[:, 0], bank(x)[:, 0])
    assert not torch.allclose(bank(x)[0], bank(255 - x)[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no classifier"):
        load_bank(empty)
    with pytest.raises(FileNotFoundError):
        load_bank(tmp_path / "gone.pt")


def test_attributes_that_a_card_calls_unreliable_are_left_out(tmp_path):
    bank = AttributeBank(
        "heads",
        "ab",
        ["male", "hat", "young"],
        lambda x: x.float().mean((2, 3)),
        {"male": 0.99, "hat": 0.7, "other": 0.1, "young": None},
    )
    assert bank.auc == {"male": 0.99, "hat": 0.7}
    with pytest.warns(UserWarning, match="AUC below 0.9, so they are left out: hat"):
        kept = bank.reliable()
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert (
        kept.attribute_names == ("male", "young")
        and torch.equal(kept(x), bank(x)[:, [0, 2]])
        and kept.reliable() is kept
    )
    with pytest.raises(ValueError, match="none of its attributes"):
        bank.select(["hat"]).reliable()
    assert set(load_bank().auc) == set(load_bank().attribute_names) and min(load_bank().auc.values()) > 0.9
    from safetensors.torch import save_file

    from hsr_nb.judges.detectors import AttributeNet

    save_file(AttributeNet((4, 8), 2).state_dict(), tmp_path / "mine.safetensors")
    (tmp_path / "mine.json").write_text(
        json.dumps(
            {
                "attributes": ["a", "b"],
                "input": {"size": [16, 16], "mean": [0.5] * 3, "std": [0.5] * 3},
                "architecture": {"kwargs": {"widths": [4, 8], "attributes": 2}},
                "scores": {"auc": {"protocol": "held out", "a": 0.95, "b": 0.6}},
            }
        )
    )
    assert load_bank(tmp_path / "mine.safetensors").auc == load_bank(tmp_path).auc == {"a": 0.95, "b": 0.6}


# ---- pictures


def test_plots(L):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    from hsr_nb.studies.als_plots import als_table, plot_curves, plot_gallery, plot_heatmap, plot_mean, rank_paths

    names, models = list("abcd"), {"baseline": L, "HSR": L * 0.5 + np.linspace(0, 3, 11)[None, :, None]}
    curves, mean = plot_curves(models, names, B=20), plot_mean(models, names, "S", B=20)
    base, hsr = curves.axes[0].lines
    assert (base.get_linestyle(), hsr.get_linestyle()) == ("--", "-") and base.get_color() == hsr.get_color()
    assert "baseline" in mean.axes[0].get_title()
    heat = plot_heatmap({k: score_paths(v, names) for k, v in models.items()})
    assert len({im.get_clim() for ax in heat.axes[:2] for im in ax.images}) == 1
    order = rank_paths(L)
    size = ((deviations(L) / score_paths(L)["sigma"]) ** 2).mean(2).sum(1)
    assert (np.diff(size[order]) <= 0).all()
    assert len(plot_gallery(L, names, lambda p: torch.zeros(11, 3, 8, 8), order[:2]).axes) == 4
    fig = plot_gallery(L, names, lambda p: torch.zeros(11, 3, 8, 8), {"worst": order[:3], "best": order[:-4:-1]})
    assert (
        [ax.get_title() for ax in fig.axes[:2]] == ["worst", "best"]
        and len(fig.axes) == 12
        and all(ax.images or len(ax.lines) == 2 for ax in fig.axes)
    )
    assert [ax.get_ylabel().split("\n")[0] for ax in fig.axes[2::4]] == [f"path {p}" for p in order[:3]]
    table = als_table(
        {"x": score_paths(L, names)}, {"x": bootstrap_als(L, B=20)}, {"old": {"a": 1.0, "mean": 2.0}}, "judge"
    )
    assert (
        table.splitlines()[2] == "| old (published) | 1.00 | – | – | – | 2.00 | not stated |"
        and "x (ours, judge)" in table
        and table.endswith("| 7 |")
    )
    plt.close("all")
