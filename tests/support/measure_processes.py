"""How far runs on one and on two processes are apart: continued, from the start, with constant and with random noise.

`python tests/support/measure_processes.py` writes the figures to data/results."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from hsr_nb.base.provenance import write_result
from hsr_nb.interop import load_checkpoint
from hsr_nb.training import override, preset

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
SMALL = {
    "data.path": "digits",
    "data.resolution": 32,
    "net.channel_max": 16,
    "net.use_noise": True,
    "net.z_dim": 16,
    "net.w_dim": 16,
    "batch": 8,
    "hsr.teacher": "none",
    "tick_kimg": 1000,
    "snapshot_kimg": 1000,
    "metrics": (),
    "device": "cpu",
}

# In processes of their own. With "const" the generator's noise is what its buffers hold instead of drawn anew.
TRAIN = """
import functools
import json
import sys

import hsr_nb.training.begin as begin
from hsr_nb.training import config_from_dict, train

build = begin.build_state


def const(*args):
    s = build(*args)
    s.G.synthesis.forward = functools.partial(s.G.synthesis.forward, noise_mode="const")
    return s


if sys.argv[2] == "const":
    begin.build_state = const
train(config_from_dict(json.load(open(sys.argv[1]))), progress=False)
"""


def trained(run: Path, steps: int, processes: int, noise: str, **changes) -> Path:
    "A run folder after so many steps, begun or continued, on one or several gloo processes."
    cfg = override(preset("tiny32"), **SMALL | {"run_dir": str(run), "kimg": steps * 8 / 1000} | changes)
    script, asked = run.with_suffix(".py"), run.with_suffix(".json")
    script.write_text(TRAIN)
    asked.write_text(json.dumps(cfg.to_dict()))
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(script), str(asked), noise], check=True, timeout=600, env=env)
    return run


def apart(a: Path, b: Path) -> float:
    "The distance of two runs' averaged generators, relative to the length of the first one's weights."
    first, second = (load_checkpoint(run)[0] for run in (a, b))
    names = [name for name in first if name.startswith("G_ema.")]
    one, other = (torch.cat([t[name].double().flatten() for name in names]) for t in (first, second))
    return float((one - other).norm() / one.norm())


def continued(folder: Path, first: int, then: int, noise: str) -> float:
    "How far a run that changes the number of processes halfway is from one that keeps it."
    kept = trained(folder / f"kept-{first}-{then}-{noise}", STEPS // 2, first, noise)
    changed = Path(shutil.copytree(kept, kept.with_name(kept.name + "-changed")))
    trained(kept, STEPS, first, noise)
    trained(changed, STEPS, then, noise)
    return apart(kept, changed)


def from_the_start(folder: Path, noise: str, **changes) -> float:
    name = f"{noise}-{len(changes)}"
    one = trained(folder / f"one-{name}", STEPS, 1, noise, **changes)
    two = trained(folder / f"two-{name}", STEPS, 2, noise, **changes)
    return apart(one, two)


def measure() -> list[dict]:
    rows = []

    def add(what, noise, value):
        rows.append({"what": what, "noise": noise, "relative difference": float(f"{value:.1e}")})
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add("1 process, stopped halfway and continued, against 1", "constant", continued(folder, 1, 1, "const"))
        add("2 processes, continued on 1, against 2", "constant", continued(folder, 2, 1, "const"))
        add("1 process, continued on 2, against 1", "constant", continued(folder, 1, 2, "const"))
        add("2 from the start against 1", "constant", from_the_start(folder, "const"))
        slow = {"opt.g_lr": 2e-5, "opt.d_lr": 2e-5}
        add("the same at a hundredth of the learning rate", "constant", from_the_start(folder, "const", **slow))
        add("1 process, continued on 2, against 1", "random", continued(folder, 1, 2, "random"))
        add("2 from the start against 1", "random", from_the_start(folder, "random"))
    return rows


if __name__ == "__main__":
    config = {
        "steps": STEPS,
        "images": "digits, 32 px",
        "batch": 8,
        "backend": "gloo",
        "unit": "distance of the weights over their length",
    }
    print(write_result(ROOT / "data/results", "processes", config, measure()))
