"Run on a machine with a GPU (`python3 run.py gpu`); elsewhere skipped with the reason."

import pytest
import torch

from hsr_nb.base.streams import stream
from hsr_nb.interop import load_checkpoint
from hsr_nb.nets import Discriminator, Generator
from hsr_nb.training import override, preset, read_metrics, train
from hsr_nb.training.gpu import fast_math
from hsr_nb.training.loop import Step, train_step
from hsr_nb.training.parallel import Processes, Stats
from hsr_nb.training.randomness import send
from hsr_nb.training.state import build_state

pytestmark = pytest.mark.gpu


def networks(**kw):
    torch.manual_seed(0)
    size = dict(channel_base=2048, channel_max=64, num_fp16_res=4, conv_clamp=256, **kw)
    return Generator(64, 0, 64, 64, 3, dict(num_layers=2), size).eval(), Discriminator(0, 64, **size).eval()


@pytest.mark.parametrize("low_precision", ["float16", "bfloat16"])
def test_half_precision_is_close_to_exact(low_precision):
    G, D = networks(low_precision=low_precision)
    z = torch.randn(8, 64)
    with torch.no_grad():
        want = G(z, noise_mode="const")
        verdict = D(want)
        G, D = G.cuda(), D.cuda()
        exact, half = G(z.cuda(), noise_mode="const", force_fp32=True), G(z.cuda(), noise_mode="const")
        assert half.dtype == torch.float32 and (exact.cpu() - want).norm() < 2e-3 * want.norm()
        assert (half.cpu() - want).norm() < 0.03 * want.norm()
        assert (D(want.cuda()).cpu() - verdict).norm() < 0.1 * verdict.norm().clamp(min=1)


def test_blocks_run_in_the_stated_type():
    G, _ = networks()
    assert [b.dtype for b in (G.synthesis.b4, G.synthesis.b8, G.synthesis.b64)] == [
        torch.float32,
        torch.float16,
        torch.float16,
    ]
    _, feats = G.cuda().synthesis(G.mapping(torch.randn(2, 64, device="cuda")), taps=(4, 64))
    assert feats[4].dtype == torch.float32 and feats[64].dtype == torch.float16


def test_training_runs_and_resumes(tmp_path):
    cfg = override(
        preset("small64"),
        **{
            "data.max_size": 256,
            "kimg": 0.32,
            "tick_kimg": 0.16,
            "hsr.start_kimg": 0.0,
            "run_dir": str(tmp_path / "run"),
            "device": "cuda",
        },
    )
    train(cfg, progress=False)
    train(override(cfg, kimg=0.64), progress=False)
    rows = read_metrics(cfg.run_dir)
    assert load_checkpoint(cfg.run_dir)[1]["count"]["nimg"] >= 640 and all("loss/hsr64" in r for r in rows)


def steps(cfg, n, stats, s=None):
    device = torch.device("cuda", 0)
    s = s or build_state(cfg, (3, 64, 64), 0, device)

    def labels(i):
        return torch.zeros(len(i), 0)

    for _ in range(n):
        rng = stream(0, "real", s.count["step"])
        images = (torch.rand(cfg.batch, 3, 64, 64, generator=rng) * 255).to(torch.uint8)
        real = send(images, device).float() / 127.5 - 1
        real_labels = send(labels(range(cfg.batch)), device)
        step = Step(cfg, s, Processes(), labels, 100, real, real_labels, stats)
        with fast_math(device):
            train_step(step, cfg.opt.ema_rampup)
    return s


SPARSE = {
    "batch": 8,
    "hsr.start_kimg": 0.0,
    "hsr.interval": 2,
    "net.use_noise": True,
    "loss.pl_interval": 2,
    "loss.r1_interval": 2,
    "device": "cuda",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"compile": "off"},
        {"compile": "on", "hsr.teacher": "none"},
        {"compile": "off", "hsr.target_norm": "standardised", "hsr.linearity": 0.5},
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(changes):
    "After the steps that compile kernels and try convolutions, PyTorch refuses whatever waits."
    cfg, stats = override(preset("small64"), **SPARSE | changes), Stats()
    s = build_state(cfg, (3, 64, 64), 0, torch.device("cuda", 0))
    if s.hsr is not None and not s.hsr.targets.measured:
        s.hsr.targets.measure([torch.rand(8, 3, 64, 64, device="cuda") * 2 - 1])
    steps(cfg, 4, stats, s=s)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError):
            torch.ones(1, device="cuda").item()
        steps(cfg, 4, stats, s=s)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert s.count["step"] == 8 and all(v == v for v in stats.means(Processes()).values())


def test_compiled_networks_are_close_to_plain_ones():
    "Noise included: it is drawn inside, from the generator that every phase seeds."
    cfg = override(preset("small64"), **SPARSE | {"compile": "on", "hsr.teacher": "none"})
    s = steps(cfg, 2, Stats())
    for p in s.G.synthesis.parameters():
        if p.ndim == 0:
            p.data.fill_(1.0)  # the strength of the noise
    ws = s.G.mapping(torch.randn(8, 128, device="cuda")).detach()
    with torch.no_grad():
        torch.manual_seed(1)
        plain = s.G.synthesis(ws)
        torch.manual_seed(1)
        fast = s.fast_G(ws)
        torch.manual_seed(2)
        other = s.G.synthesis(ws)
        assert (fast - plain).norm() < 0.03 * plain.norm() and (other - plain).norm() > 0.3 * plain.norm()
        verdict = s.D(plain)
        assert (s.fast_D(plain) - verdict).norm() < 0.1 * verdict.norm().clamp(min=1)
