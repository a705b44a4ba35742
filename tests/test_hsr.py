"""Unit tests of Hierarchical Semantic Regularization: gradient path, head order, pairing, parameter counts, offline errors."""
import os
import time

import pytest
import torch

from hsr_nb.hsr import HSR, TEACHERS, Head, load_teacher
from hsr_nb.hsr.heads import count
from hsr_nb.nets import Generator
from hsr_nb.nets.backbones import WeightsNotFound

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def teacher(): return load_teacher("test_resnet", weights="random")


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(0)
    return Generator(16, 0, 16, 128, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=512, channel_max=16))


def run(G, hsr, seed=0):
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    img, feats = G.synthesis(G.mapping(z, None), noise_mode="const", taps=hsr.taps)
    return hsr(feats, img)


def test_gradient_reaches_coarse_blocks_and_mapping_only(G, teacher):
    hsr = HSR(G.tap_channels, teacher, head_hidden=8)
    assert hsr.taps == (8, 16, 32, 64)
    G.zero_grad(set_to_none=True)
    run(G, hsr)[0].backward()
    got = {n for n, p in G.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    out_of_reach = {n for n, _ in G.named_parameters() if ".torgb." in n or ".b128." in n}
    assert got.isdisjoint(out_of_reach) and got == {n for n, _ in G.named_parameters()} - out_of_reach
    assert all(p.grad.abs().sum() > 0 for p in hsr.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("hidden", [0, 512])
def test_pooled_order_equals_official(side, hidden):
    x = torch.randn(2, 64, side, side)
    fast, slow = Head(64, 96, hidden), Head(64, 96, hidden, order="official")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ya, yb = fast(a, (14, 14)), slow(b, (14, 14))
    assert (ya - yb).abs().max() < 1e-4
    ya.square().mean().backward(), yb.square().mean().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-6)
    for p, q in zip(fast.parameters(), slow.parameters()): assert torch.allclose(p.grad, q.grad, atol=1e-4)


def test_pooled_order_double_precision_bound():
    head = Head(8, 12, 32).double()
    h = torch.randn(1, 32, 64, 64, dtype=torch.float64)
    pool = torch.nn.functional.adaptive_avg_pool2d
    assert (head.last(pool(h, 14)) - pool(head.last(h), 14)).abs().max() < 1e-13


SHAPES = {
    "dino_vitb16": [(768, 14)] * 4, "deit_base": [(768, 14)] * 4, "dino_vits16": [(384, 14)] * 4,
    "dinov2_vits14": [(384, 16)] * 4, "dinov2_vitb14": [(768, 16)] * 4, "dinov3_vits16": [(384, 16)] * 4, "dinov3_vitb16": [(768, 16)] * 4,
    "resnet50": [(2048, 7), (1024, 14), (512, 28), (256, 56)], "dino_resnet50": [(2048, 7), (1024, 14), (512, 28), (256, 56)],
    "vgg16": [(512, 7), (512, 14), (256, 28), (128, 56)],
}


@pytest.mark.parametrize("name", TEACHERS)
def test_shapes_of_every_published_teacher(name):
    t = load_teacher(name, weights="random")
    with torch.no_grad(): maps = t(torch.zeros(1, 3, 32, 32))
    assert [(m.shape[1], m.shape[2]) for m in maps.values()] == SHAPES[name]
    assert {k: m.shape[1] for k, m in maps.items()} == t.channels and {k: tuple(m.shape[2:]) for k, m in maps.items()} == t.grids
    assert SHAPES[name] == list(zip(TEACHERS[name].channels, TEACHERS[name].grids))   # known before anything is built
    assert list(maps) == [8, 16, 32, 64] and t.input_size == ((256, 256) if "dinov3" in name else (224, 224))
    assert not any(p.requires_grad for p in t.parameters()) and not any(m.training for m in t.backbone.net.modules())
    assert t.backbone.mean == (0.485, 0.456, 0.406) and t.backbone.std == (0.229, 0.224, 0.225)
    assert all(torch.isfinite(m).all() for m in maps.values())
    if "vit" in name or "deit" in name:                                   # (dino, dinov2, dinov3, deit) the final norm is applied to every block
        for m in maps.values(): assert m.mean(1).abs().max() < 1e-4


def test_last_block_changes_only_the_coarsest_loss(G):
    t = load_teacher("vit_tiny_patch16_224", weights="random", layers=TEACHERS["dino_vitb16"].layers)
    hsr = HSR(G.tap_channels, t, head_hidden=8)
    with torch.no_grad():
        before = run(G, hsr)[1]
        for p in t.backbone.net.blocks[11].parameters(): p.add_(0.1 * torch.randn_like(p))
        after = run(G, hsr)[1]
    assert before[8] != after[8] and all(torch.equal(before[k], after[k]) for k in (16, 32, 64))


def test_parameter_counts():
    dino = [sum(p.numel() for p in Head(c, 768).parameters()) for c in (512, 256)]
    assert dino == [5_247_744, 4_199_168] and 3 * dino[0] + dino[1] == 19_942_400
    assert sum(count(c, t) for c, t in zip((512, 512, 512, 256), (2048, 1024, 512, 256))) == 23_088_896


@pytest.mark.parametrize("cin,hidden", [(512, 4096), (64, 256), (64, 0)])
def test_heads_start_at_unit_scale(cin, hidden):
    with torch.no_grad(): y = Head(cin, 256, hidden)(torch.randn(8, cin, 8, 8), (8, 8))
    assert 0.85 < y.std() < 1.15


def test_building_uses_no_global_randomness():
    state = torch.get_rng_state()
    a = HSR({8: 16, 16: 16}, load_teacher("test_resnet", weights="random"), head_hidden=8, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.randn(5)
    b = HSR({8: 16, 16: 16}, load_teacher("test_resnet", weights="random"), head_hidden=8, seed=3)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert all(torch.equal(v, b.teacher.state_dict()[k]) for k, v in a.teacher.state_dict().items())


def test_loss_options(G, teacher):
    plain, per_tap = run(G, HSR(G.tap_channels, teacher, head_hidden=8))
    assert torch.isclose(plain, sum(per_tap.values()))
    half, same = run(G, HSR(G.tap_channels, teacher, head_hidden=8, weight=0.5, layer_weights={8: 2, 16: 0, 32: 0, 64: 0}))
    assert torch.isclose(half, per_tap[8]) and all(torch.equal(same[k], per_tap[k]) for k in per_tap)
    assert 0 <= run(G, HSR(G.tap_channels, teacher, loss="cosine"))[0] <= 16
    assert run(G, HSR(G.tap_channels, teacher, loss="smooth_l1", head_hidden=0))[0] > 0
    subset = HSR(G.tap_channels, teacher, taps=(32, 8), head_hidden=8)
    assert torch.isclose(run(G, subset)[1][32], per_tap[32])
    for pairing, pairs in (("reversed", {8: 64, 16: 32, 32: 16, 64: 8}), ("last_only", {8: 8, 16: 8, 32: 8, 64: 8})):
        assert HSR(G.tap_channels, teacher, pairing=pairing, head_hidden=8).pairs == pairs
    for bad in (dict(loss="l3"), dict(pairing="up"), dict(taps=()), dict(taps=(128,)), dict(layer_weights=[1, 2])):
        with pytest.raises(ValueError): HSR(G.tap_channels, teacher, **{"head_hidden": 8, **bad})


def test_target_is_clamped_and_resized_inside_the_teacher(teacher):
    img = torch.randn(2, 3, 32, 32) * 2
    a, b = teacher(img), teacher(img.clamp(-1, 1).repeat_interleave(5, 2).repeat_interleave(5, 3))   # 160 pixels by repetition
    assert all(torch.allclose(a[t], b[t], atol=1e-5) for t in a)
    assert teacher(torch.zeros(1, 1, 20, 30))[8].shape[0] == 1           # grey, not square


def test_state_moves_and_refuses(teacher):
    a, b = (HSR({8: 16, 16: 16}, teacher, head_hidden=8, seed=s) for s in (0, 1))
    for p in a.parameters(): p.data.add_(1)
    a.update_ema(0.9)
    b.load_state_dict(a.state_dict())
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    with pytest.raises(ValueError, match="wrong shape"): HSR({8: 16, 16: 16}, teacher, head_hidden=9).load_state_dict(a.state_dict())
    with pytest.raises(ValueError, match="missing"): b.load_state_dict({})
    assert a.to(torch.float64).teacher is teacher and next(teacher.parameters()).dtype == torch.float64   # the teacher moves along
    a.to(torch.float32)


@pytest.mark.parametrize("name", ["dino_vitb16", "dino_resnet50", "vit_base_patch16_224.dino"])
def test_offline_error_is_fast_and_helpful(name):
    start = time.time()
    with pytest.raises(WeightsNotFound) as e: load_teacher(name)
    assert time.time() - start < 1 and "weights=" in str(e.value) and "https://" in str(e.value)


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(WeightsNotFound, match="nowhere.pth"): load_teacher("resnet50", weights=tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("not a network")
    with pytest.raises(ValueError, match="text.pth"): load_teacher("resnet50", weights=tmp_path / "text.pth")
    with pytest.raises(ValueError, match="did you mean"): load_teacher("resnet51")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth does not fit"): load_teacher("test_resnet", weights=tmp_path / "other.pth")


def test_download_is_refused_quickly_when_the_hub_is_offline(monkeypatch):
    import huggingface_hub
    import timm  # noqa: F401  (its import is not part of the time)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.time()
    with pytest.raises(WeightsNotFound, match="weights="): load_teacher("dino_vits16", allow_download=True)
    assert time.time() - start < 10
