"""How fast and how small a conversion of the FFHQ-256 layout is.

`python tests/support/measure_interop.py` writes the figure to data/results."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import foreign
import torch

from hsr_nb.base.provenance import write_result
from hsr_nb.interop import load_generator
from hsr_nb.nets import Discriminator, Generator

ROOT = Path(__file__).resolve().parents[2]

# In a fresh process: the time and the additional peak memory of one call, after everything is imported.
CHILD = """
import json, sys, time
import torch

def peak():  # VmHWM and not ru_maxrss, which a child inherits from its parent: a large parent would hide everything
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

imported = time.process_time()
torch_only = peak()
from hsr_nb.interop.convert import convert_checkpoint
before, clock, cpu = peak(), time.perf_counter(), time.process_time()
if sys.argv[1] == "ours":
    convert_checkpoint(sys.argv[2], sys.argv[3])
else:
    torch.save(torch.load(sys.argv[2], weights_only=True), sys.argv[3])
found = dict(s=time.perf_counter() - clock, cpu_s=time.process_time() - cpu, imported=imported, torch_only=torch_only)
print(json.dumps(found | dict(before=before, after=peak(), threads=torch.get_num_threads())))
"""


def child(kind, source, dest):
    command = [sys.executable, "-c", CHILD, kind, str(source), str(dest)]
    r = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def median(runs, key):
    return sorted(r[key] for r in runs)[len(runs) // 2]


def measure(repeats: int = 5, together: bool = False) -> list:
    """The average alone (24.8 million parameters); medians over `repeats` processes.

    With `together` also G, D and G_ema in one file."""
    net = dict(channel_base=16384, channel_max=512, num_fp16_res=4, conv_clamp=256)
    G = Generator(img_resolution=256, synthesis_kwargs=net).eval()
    D = Discriminator(img_resolution=256, epilogue_kwargs=dict(mbstd_group_size=8), **net)
    sources = {"G_ema": dict(G_ema=G)}
    if together:
        sources["G, D, G_ema"] = dict(G=G, D=D, G_ema=G)
    with tempfile.TemporaryDirectory() as folder:
        return [convert(what, nets, G, repeats, Path(folder)) for what, nets in sources.items()]


@torch.no_grad()
def convert(what: str, nets: dict, G, repeats: int, folder: Path) -> dict:
    "One row: a file of these networks, converted by us and merely read and written by torch."
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    want = G(z, noise_mode="const")
    source, plain, ours_out = folder / "ffhq256.pkl", folder / "plain.pt", folder / "out.safetensors"
    source.write_bytes(foreign.official(**nets))
    torch.save({k: v.state_dict() for k, v in nets.items()}, plain)
    ours = []
    theirs = []
    for _ in range(repeats):
        ours.append(child("ours", source, ours_out))
        theirs.append(child("torch", plain, folder / "out"))
        found = load_generator(ours_out)(z, noise_mode="const")
        ours_out.unlink()
    size = source.stat().st_size
    return dict(
        networks=what,
        parameters=sum(p.numel() for p in G.parameters()),
        file_mb=size / 1e6,
        convert_s=median(ours, "s"),
        convert_cpu_s=median(ours, "cpu_s"),
        torch_load_and_save_cpu_s=median(theirs, "cpu_s"),
        import_torch_cpu_s=median(ours, "imported"),
        peak_over_file=max(r["after"] - r["torch_only"] for r in ours) / size,
        peak_of_the_call_over_file=max(r["after"] - r["before"] for r in ours) / size,
        torch_baseline_mb=median(ours, "torch_only") / 1e6,
        threads=ours[0]["threads"],
        load_average=round(os.getloadavg()[0], 1),
        image_difference=float((found - want).abs().max()),
    )


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    config = {
        "repeats": repeats,
        "layout": "official, FFHQ 256",
        "peak": "VmHWM of the process less that after import torch",
        "source": "page cache warm",
    }
    print(write_result(ROOT / "data/results", "convert", config, measure(repeats)).read_text())
