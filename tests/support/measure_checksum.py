"""What the checksum of a checkpoint costs, as ratios within one process.

`python tests/support/measure_checksum.py` writes the figures to data/results."""

import os
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from hsr_nb.base.provenance import write_result
from hsr_nb.base.whole import whole
from hsr_nb.interop import safetensors as files
from hsr_nb.training import override, preset
from hsr_nb.training.state import build_state, flatten

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"net.channel_max": 256, "net.channel_base": 16384, "hsr.teacher": "none"}


def state() -> dict:
    "Tensors of a training state that has made a step, as a run saves them: mostly not contiguous."
    s = build_state(override(preset("small64"), **SIZES), (3, 64, 64))
    for optimiser in (s.opt_G, s.opt_D):
        for group in optimiser.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        optimiser.step()
    return flatten(s)


def took(work) -> tuple[float, float]:
    "Seconds of the processor, of the clock."
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def least(times: list, kind: int) -> float:
    "Of the run that was disturbed least."
    return min(t[kind] for t in times)


def measure(repeats: int = 25) -> list[dict]:
    "Both ways in turn, so that whatever else the machine does meets both."
    tensors = state()
    mb = sum(v.nbytes for v in tensors.values()) / 1e6

    def by_the_library():
        with whole(plain) as made:
            save_file({name: v.detach().cpu().contiguous() for name, v in tensors.items()}, made)

    def load(verify):
        found, _ = files.load_safetensors(file, verify=verify)
        for v in found.values():  # read what was only mapped
            v.sum()

    library, saves, reads, checks = [], [], [], []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        file, plain = Path(folder, "a.safetensors"), Path(folder, "b.safetensors")
        for _ in range(repeats):
            library.append(took(by_the_library))
            saves.append(took(lambda: files.save_safetensors(file, tensors, {"kimg": 1})))
            reads.append(took(lambda: load(False)))
            checks.append(took(lambda: load(True)))
    row = {"checkpoint_mb": round(mb, 1)}
    for kind, name in enumerate(("cpu", "clock")):
        ratio = least(saves, kind) / least(library, kind)
        row[f"save_{name}_over_library_without_checksum"] = round(ratio, 3)
        seconds = least(checks, kind) - least(reads, kind)
        row[f"verify_{name}_s_per_100_mb"] = round(seconds / mb * 100, 4)
    return [row | {"load_average": round(os.getloadavg()[0], 1), "repeats": repeats}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = {
        "state": "small64",
        **SIZES,
        "threads": 1,
        "times": "of the least disturbed run of each kind, which took turns",
    }
    print(write_result(ROOT / "data/results", "checksum", config, measure()).read_text())
