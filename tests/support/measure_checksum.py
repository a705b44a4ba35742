"""What the checksum of a checkpoint costs, as ratios within one process: against the library, against our own writer
without one, and against other ways of making one.

`python tests/support/measure_checksum.py` writes the figures to data/results."""

import os
import tempfile
import time
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file

from hsr_nb.base.provenance import write_result
from hsr_nb.base.whole import whole
from hsr_nb.interop import safetensors as files
from hsr_nb.training import override, preset
from hsr_nb.training.state import build_state, flatten

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"net.channel_max": 256, "net.channel_base": 16384, "hsr.teacher": "none"}
PIECE = 1 << 20  # bytes


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


def raw(v: torch.Tensor) -> np.ndarray:
    return v.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def crc32(v: torch.Tensor) -> bytes:
    return zlib.crc32(raw(v)).to_bytes(4, "little")


def in_pieces(path: Path, tensors: dict, texts: dict):
    "As the package writes, but each piece of a tensor is summed when it is about to be written."
    places = files._places(tensors)
    unknown = {files.group_of(name): "0" * 64 for name in tensors}
    sums = {}
    with open(path, "wb") as f:
        f.write(files._header(texts, places, unknown))
        for name in places:
            data = raw(tensors[name])
            found = []
            for begin in range(0, len(data), PIECE):
                piece = data[begin : begin + PIECE]
                found.append(files.tensor_sums(torch.from_numpy(piece)))
                f.write(piece.data)
            sums[name] = b"".join(found)
        f.seek(0)
        f.write(files._header(texts, places, files.group_digests(tensors, sums)))


def ways(tensors: dict, folder: Path) -> dict:
    "Ways to save the same tensors, by what they are."
    ours, plain = folder / "a.safetensors", folder / "b.safetensors"

    def save():
        files.save_safetensors(ours, tensors, {"kimg": 1})

    def by_the_library():
        with whole(plain) as made:
            save_file({name: v.detach().cpu().contiguous() for name, v in tensors.items()}, made)

    def changed(**parts):
        def work():
            with patch.multiple(files, **parts):
                save()

        return work

    nothing = {"tensor_sums": lambda v: b"", "group_digests": lambda *_: {"G": "0" * 64}}
    return {
        "without a checksum": changed(**nothing),
        "as it is": save,
        "summed in pieces, as they are written": changed(_write_tensors=in_pieces),
        "zlib.crc32 in the place of sums": changed(tensor_sums=crc32),
        "the library, without a checksum": by_the_library,
    }


def least(times: list, kind: int) -> float:
    "Of the run that was disturbed least."
    return min(t[kind] for t in times)


def measure(repeats: int = 25) -> list[dict]:
    "All ways in turn, so that whatever else the machine does meets all."
    tensors = state()
    mb = sum(v.nbytes for v in tensors.values()) / 1e6
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        todo = ways(tensors, Path(folder))

        def load(verify):
            found, _ = files.load_safetensors(Path(folder, "a.safetensors"), verify=verify)
            for v in found.values():  # read what was only mapped
                v.sum()

        todo["as it is"]()
        times = {what: [] for what in todo}
        reads, checks = [], []
        for _ in range(repeats):
            for what, work in todo.items():
                times[what].append(took(work))
            todo["as it is"]()
            reads.append(took(lambda: load(False)))
            checks.append(took(lambda: load(True)))
    base = times["without a checksum"]
    rows = []
    for what, found in times.items():
        ratios = [round(least(found, kind) / least(base, kind), 3) for kind in (0, 1)]
        rows.append({"saving": what, "processor": ratios[0], "clock": ratios[1]})
        if what == "as it is":
            for kind, name in enumerate(("processor", "clock")):
                extra = least(checks, kind) - least(reads, kind)
                rows[-1][f"verify_{name}"] = round(extra / mb * 100, 4)
    load_average = round(os.getloadavg()[0], 1)
    return [row | {"checkpoint_mb": round(mb, 1), "load_average": load_average, "repeats": repeats} for row in rows]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = {
        "state": "small64",
        **SIZES,
        "threads": 1,
        "unit": "times what our own writer takes without a checksum; seconds for 100 MB to verify",
        "times": "of the least disturbed run of each kind, which took turns",
    }
    print(write_result(ROOT / "data/results", "checksum", config, measure()).read_text())
