"Run on a machine with a GPU (`python3 run.py gpu`); elsewhere skipped with the reason."
import pytest
import torch

from hsr_nb.interop import load_checkpoint
from hsr_nb.nets import Discriminator, Generator
from hsr_nb.training import override, preset, read_metrics, train

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
    assert [b.dtype for b in (G.synthesis.b4, G.synthesis.b8, G.synthesis.b64)] == [torch.float32, torch.float16, torch.float16]
    _, feats = G.cuda().synthesis(G.mapping(torch.randn(2, 64, device="cuda")), taps=(4, 64))
    assert feats[4].dtype == torch.float32 and feats[64].dtype == torch.float16


def test_training_runs_and_resumes(tmp_path):
    cfg = override(preset("small64"), **{"data.max_size": 256, "kimg": 0.32, "tick_kimg": 0.16, "hsr.start_kimg": 0.0, "run_dir": str(tmp_path / "run"), "device": "cuda"})
    train(cfg, progress=False)
    train(override(cfg, kimg=0.64), progress=False)
    rows = read_metrics(cfg.run_dir)
    assert load_checkpoint(cfg.run_dir)[1]["count"]["nimg"] >= 640 and all("loss/hsr64" in r for r in rows)
