"""Coverage-guided fuzzing of the readers: whatever the bytes, the answer is a network or a CheckpointError.

python tests/support/fuzz_unpickle.py SECONDS [FILE]   writes the counts to data/results, or to FILE alone
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seeds(folder: Path):
    "Small files of every kind as a start."
    import pickle

    import foreign
    import torch

    from hsr_nb.nets import Discriminator, Generator

    G = Generator(
        z_dim=2,
        w_dim=2,
        img_resolution=8,
        mapping_kwargs=dict(num_layers=1),
        synthesis_kwargs=dict(channel_base=16, channel_max=2),
    )
    D = Discriminator(img_resolution=8, channel_base=16, channel_max=2)
    files = [foreign.official(protocol, G_ema=G, p=0.5) for protocol in range(6)]
    files += [foreign.tensorflow(G, D, protocol) for protocol in (3, 4)]
    for value in (foreign.rosinality(G, D), G.state_dict(), {"w": torch.ones(2)}):
        files += [foreign.saved(value, zip=True), foreign.saved(value, zip=False)]
    files += [pickle.dumps({"a": [1, 2**70, "x", b"y", {1, 2}, (None, True, 1.5)]}, p) for p in range(6)]
    for i, data in enumerate(files):
        (folder / f"{i:02d}").write_bytes(data)
    return len(files)


def fuzz(seconds: float, corpus: str, out: str):
    "Runs in a process of its own, which ends when the time is up."
    import io

    import atheris
    import torch  # before the instrumentation, and the rest that is not the target

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["hsr_nb.interop", "hsr_nb.untrusted"]):
        from hsr_nb.interop import checkpoint as reader
    from hsr_nb.base.errors import CheckpointError

    seeds_read = 0
    for file in sorted(Path(corpus).iterdir()):  # warm up: what is loaded on first use is not fuzzing
        try:
            reader.read_foreign(io.BytesIO(file.read_bytes()), "fuzz", tensorflow=True)
            seeds_read += 1
        except CheckpointError:
            pass
    start = None
    count = {"runs": 0, "refused": 0, "read": 0, "seeds_read": seeds_read}

    def peak():  # kB; ru_maxrss is inherited from the parent
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

    base = peak()

    def one(data):
        nonlocal start
        start = start or time.monotonic()
        count["runs"] += 1
        try:
            reader.read_foreign(io.BytesIO(data), "fuzz", tensorflow=True)
            count["read"] += 1
        except CheckpointError:
            count["refused"] += 1
        if time.monotonic() - start > seconds:
            grown = (peak() - base) / 1024
            found = count | {"seconds": round(time.monotonic() - start, 1), "memory_grown_mb": round(grown, 1)}
            Path(out).write_text(json.dumps(found))
            os._exit(0)

    atheris.Setup(
        [
            sys.argv[0],
            corpus,
            f"-max_total_time={int(seconds) + 120}",
            "-max_len=65536",
            "-timeout=20",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={corpus}/",
            "-verbosity=0",
            "-seed=1",
        ],
        one,
    )
    atheris.Fuzz()


def run(seconds: float) -> dict:
    "Fuzz for some seconds in a child; the counts, or an AssertionError with what the fuzzer said."
    with tempfile.TemporaryDirectory() as folder:
        corpus, out = Path(folder, "corpus"), Path(folder, "out.json")
        corpus.mkdir()
        n = seeds(corpus)
        r = subprocess.run(
            [sys.executable, __file__, "--child", str(seconds), str(corpus), str(out)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"},
        )
        assert r.returncode == 0 and out.exists(), (r.stdout + r.stderr)[-4000:]
        return json.loads(out.read_text()) | {"seeds": n, "corpus": len(list(corpus.iterdir()))}


def write(found: dict):
    "The counts into data/results."
    import importlib.metadata

    from hsr_nb.base.provenance import write_result

    config = {"atheris": importlib.metadata.version("atheris"), "target": "hsr_nb.interop.checkpoint.read_foreign"}
    write_result(ROOT / "data/results", "fuzz-unpickle", config, [found])


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        fuzz(float(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        found = run(float(sys.argv[1]))
        if len(sys.argv) > 2:
            Path(sys.argv[2]).write_text(json.dumps(found))
        else:
            write(found)
        print(found)
