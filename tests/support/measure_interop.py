"""How fast and how small a conversion of the FFHQ-256 layout is; `python tests/support/measure_interop.py` writes the figure to data/results."""

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
imported = time.process_time()
# VmHWM and not ru_maxrss, which a child inherits from its parent: a large parent would hide everything
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
torch_only = peak()
from hsr_nb.interop.convert import convert_checkpoint
before, clock, cpu = peak(), time.perf_counter(), time.process_time()
if sys.argv[1] == "ours": convert_checkpoint(sys.argv[2], sys.argv[3])
else: torch.save(torch.load(sys.argv[2], weights_only=True), sys.argv[3])
print(json.dumps(dict(s=time.perf_counter() - clock, cpu_s=time.process_time() - cpu, imported=imported, torch_only=torch_only, before=before, after=peak(), threads=torch.get_num_threads())))
"""


def child(kind, source, dest):
    r = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(source), str(dest)], capture_output=True, text=True, cwd=ROOT
    )
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def measure(repeats: int = 5, together: bool = False) -> list:
    "The average alone (24.8 million parameters), and with `together` also G, D and G_ema in one file; medians over `repeats` processes."
    rows, net = [], dict(channel_base=16384, channel_max=512, num_fp16_res=4, conv_clamp=256)
    G, D = (
        Generator(img_resolution=256, synthesis_kwargs=net).eval(),
        Discriminator(img_resolution=256, epilogue_kwargs=dict(mbstd_group_size=8), **net),
    )
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = G(z, noise_mode="const")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for what, nets in (("G_ema", dict(G_ema=G)), ("G, D, G_ema", dict(G=G, D=D, G_ema=G)))[: 1 + together]:
            source, plain, out = folder / "ffhq256.pkl", folder / "plain.pt", folder / "out"
            source.write_bytes(foreign.official(**nets))
            torch.save({k: v.state_dict() for k, v in nets.items()}, plain)
            ours, theirs = [], []
            for _ in range(repeats):
                ours.append(child("ours", source, folder / "out.safetensors"))
                theirs.append(child("torch", plain, out))
                with torch.no_grad():
                    difference = float(
                        (load_generator(folder / "out.safetensors")(z, noise_mode="const") - want).abs().max()
                    )
                (folder / "out.safetensors").unlink()

            def median(runs, k):
                return sorted(r[k] for r in runs)[len(runs) // 2]

            size = source.stat().st_size
            rows.append(
                dict(
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
                    image_difference=difference,
                )
            )
    return rows


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(
        write_result(
            ROOT / "data/results",
            "convert",
            {
                "repeats": repeats,
                "layout": "official, FFHQ 256",
                "peak": "VmHWM of the process less that after import torch",
                "source": "page cache warm",
            },
            measure(repeats),
        ).read_text()
    )
