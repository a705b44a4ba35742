"The command lines of the guide are read as they stand, and run: not silent, not large, and ended by two signals."

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import foreign
import numpy as np
import pytest
from PIL import Image

from hsr_nb.base.shell import options
from hsr_nb.data.convert import ConvertConfig as DataConfig
from hsr_nb.explore.generate import GenerateConfig
from hsr_nb.interop.convert import ConvertConfig
from hsr_nb.nets import Discriminator, Generator
from hsr_nb.studies import EvalConfig
from hsr_nb.studies.sweep_jobs import SweepConfig
from hsr_nb.training.cli import parse

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "hsr_data": DataConfig,
    "hsr_generate": GenerateConfig,
    "hsr_eval": EvalConfig,
    "hsr_convert": ConvertConfig,
    "hsr_sweep": SweepConfig,
}
# command: what is added to what the guide says, so that it takes seconds and not hours
BUDGET = {
    "hsr_train tiny32": "--kimg 0.064",
    "hsr_data": "",
    "hsr_train small64": "--kimg 0.032",
    "hsr_generate": "",
    "hsr_eval": "--n 140 --pairs 16 --paths 8",
    "hsr_convert": "",
    "hsr_sweep": "--seeds 0 --kimg 0.064 --baseline-kimg 0.032 --n 128 --pairs 4 --paths 4",
    "papermill": "-p kimg 0.064",
}
SILENT = 5  # seconds of work without a word
LARGE = 3 * 10**9  # bytes


def command_lines() -> list[str]:
    "The lines of the shell blocks that call a command of this package, without what is said about them."
    cells = json.loads((ROOT / "nbs/guides/commands.ipynb").read_text(encoding="utf-8"))["cells"]
    page = "\n".join("".join(cell["source"]) + "\n" for cell in cells)
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", page)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("hsr_", "papermill"))]


def test_every_line_has_a_budget_and_every_budget_a_line():
    lines = command_lines()
    assert len(lines) == len(BUDGET)
    for line, start in zip(lines, BUDGET, strict=True):
        assert line.startswith(start)


def test_every_line_is_read_as_it_stands():
    for line in command_lines():
        command, *words = shlex.split(line)
        if command == "hsr_train":
            assert parse(words).run_dir.startswith("runs/")
        elif command == "papermill":
            assert (ROOT / words[2]).is_file()
        else:
            assert options(CONFIGS[command], command, positional=command != "hsr_data")(words)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    "A folder with the photographs and the checkpoint that the guide speaks of."
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "my_photos").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 255, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(np.kron(pixels, np.ones((10, 10, 1), np.uint8))).save(folder / "my_photos" / f"{i:03d}.jpg")
    size = dict(channel_base=1024, channel_max=64, num_fp16_res=0, conv_clamp=256)
    G = Generator(z_dim=128, w_dim=128, img_resolution=32, img_channels=3, synthesis_kwargs=size).eval()
    G, D = foreign.randomise(G, Discriminator(img_resolution=32, img_channels=3, **size).eval())
    (folder / "official.pkl").write_bytes(foreign.official(G=G, D=D, G_ema=G))
    (folder / "nbs").symlink_to(ROOT / "nbs")
    return folder


def start(line: str, folder: Path) -> subprocess.Popen:
    "A command line in a process group of its own, its output in one pipe."
    command, *words = shlex.split(line)
    call = [sys.executable, "-m", "papermill"]
    if command != "papermill":
        call = [sys.executable, "-c", f"import sys; from hsr_nb.commands.front import {command} as go; sys.exit(go())"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return subprocess.Popen([*call, *words], cwd=folder, env=env, start_new_session=True, **pipes)


def worked(pid: int) -> float:
    "Seconds that a process and its children have computed: on a busy machine another measure than the clock's."
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pid:  # of the process group
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def watch(process: subprocess.Popen) -> tuple[int, float, int, str]:
    "Exit code, the longest silence in seconds of work, the largest process in bytes, the output."
    said = b""
    longest = 0.0
    last = worked(process.pid)
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.5)
        now = worked(process.pid)
        longest = max(longest, now - last)
        if ready:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            said += piece
            last = now
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, longest, usage.ru_maxrss * 1024, said.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts the work of processes in /proc")
def test_every_line_runs_with_signs_of_life_and_in_little_memory(workplace):
    for line, more in zip(command_lines(), BUDGET.values(), strict=True):
        code, silent, memory, said = watch(start(f"{line} {more}", workplace))
        assert code == 0, (line, said[-2000:])
        assert memory < LARGE, (line, memory)
        at_once = 2 if "--workers 2" in line else 1  # the work of all processes is counted, and two work at a time
        assert silent <= SILENT * at_once, (line, silent, said[-2000:])
    assert (workplace / "runs/faces/report.json").exists() and (workplace / "out.ipynb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", [f"hsr_train {preset} --run-dir runs/{preset}" for preset in ("tiny32", "auto")])
def test_two_signals_end_it(workplace, line):
    process = start(line, workplace)
    said = b""
    while b"parameters" not in said:
        said += os.read(process.stdout.fileno(), 1 << 16)
        assert process.poll() is None, said
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) in (143, -signal.SIGTERM)
    process.stdout.close()
