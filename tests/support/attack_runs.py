"""Attacks on run folders: shared, linked, damaged and foreign ones, flipped bits, the umask, a full disk.

`python tests/support/attack_runs.py`; the exit status is the number of failures."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hsr_nb.studies.evaluate import main as evaluate
from hsr_nb.studies.paired_seeds import paired_difference
from hsr_nb.studies.sweep_tables import text_table
from hsr_nb.training import TrainingFailed, override, preset, train
from hsr_nb.training.run_folder import RunFolder

SMALL = {
    "data.resolution": 16,
    "net.channel_max": 8,
    "net.z_dim": 8,
    "net.w_dim": 8,
    "batch": 4,
    "hsr.head_hidden": 8,
    "hsr.start_kimg": 0.008,
    "loss.r1_interval": 4,
    "loss.pl_interval": 2,
    "kimg": 0.048,
    "tick_kimg": 0.004,
    "snapshot_kimg": 0.008,
    "device": "cpu",
}
OTHER = """
import sys
from hsr_nb.training.run_folder import RunFolder
try:
    RunFolder(sys.argv[1], True)
    print("let in")
except ValueError:
    print("refused")
"""


class Attacks:
    "A trained run to be hurt, and the count of what went wrong."

    def __init__(self, home: Path):
        self.home = home
        self.failures = 0
        (home / "images").mkdir()
        rng = np.random.default_rng(11)
        for i in range(24):
            pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(home / "images" / f"{i:03d}.png")
        self.whole = home / "whole"
        code, said = self.go(self.whole)
        assert code == 0, said

    def check(self, what: str, good: bool, found: object):
        self.failures += not good
        print("ok  " if good else "FAIL", what, "" if good else f"found: {found}", flush=True)

    def child(self, work: Callable) -> tuple[int, str]:
        "The exit status of some work in a forked process, and what it said."
        errors = self.home / "errors"
        errors.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            os._exit(_status(work, errors))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, errors.read_text(errors="replace").strip()

    def go(self, run: Path, **changes) -> tuple[int, str]:
        "Train a run, or go on with it."
        cfg = override(
            preset("tiny32"), **SMALL | {"run_dir": str(run), "data.path": str(self.home / "images")} | changes
        )
        return self.child(lambda: train(cfg, progress=False))

    def fresh(self, name: str) -> Path:
        "A copy of the run as it was halfway."
        run = self.home / name
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.whole, run)
        for file in (run / "checkpoints").iterdir():
            if int(file.stem) > 24:
                file.unlink()
        return run


def _status(work: Callable, errors: Path) -> int:
    "The exit status of some work whose output goes to a file."
    fd = os.open(errors, os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    try:
        code = work()
        return code if isinstance(code, int) else 0
    except (ValueError, OSError, TrainingFailed) as e:
        print(e, flush=True)
        return 2
    except BaseException:
        traceback.print_exc()
        return 99


def locks(a: Attacks):
    "Neither another handle nor a mere copy of the folder opens the door."

    def let_in(run):
        r = subprocess.run([sys.executable, "-c", OTHER, str(run)], capture_output=True, text=True)
        return r.stdout.strip()

    with RunFolder(a.home / "one", writes=True):
        try:
            RunFolder(a.home / "one", writes=True)
            second = "let in"
        except ValueError:
            second = "refused"
    a.check("a second in the same process is refused", second == "refused", second)
    with RunFolder(a.home / "two", writes=True):
        shutil.copytree(a.home / "two", a.home / "copy")
        other = let_in(a.home / "two")
    a.check("a backup made in the same process does not free the lock", other == "refused", other)


def links(a: Attacks):
    "What lies outside stays as it was, whatever in the folder leads there."
    before = "precious\n" * 3
    cases = [(".lock", "precious"), ("metrics.jsonl", "precious"), ("samples", ""), (".write-test.tmp", "nowhere")]
    cases += [(f"checkpoints/{i:09d}.safetensors", "precious") for i in (8, 24)]
    for name, target in cases:
        for how in (os.symlink, os.link) if target == "precious" else (os.symlink,):
            victim = a.home / "victim"
            shutil.rmtree(victim, ignore_errors=True)
            victim.mkdir()
            (victim / "precious").write_text(before)
            (victim / ".tmp_thesis").write_text("x")
            (victim / ".notes.tmp").write_text("x")
            run = a.fresh("links")
            place = run / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            how(victim / target if target else victim, place)
            code, said = a.go(run)
            left = {p.name for p in victim.iterdir()}
            good = (victim / "precious").read_text() == before and left == {"precious", ".tmp_thesis", ".notes.tmp"}
            a.check(f"{name} as {how.__name__} changes nothing outside", good and code in (0, 2), (code, said, left))


def files_of_others(a: Attacks):
    run = a.fresh("own")
    names = (".tmp_notes", ".tmpbackup", ".tmp123456", ".notes.json.tmp", "samples/.my.png.tmp", ".write-test.tmp")
    for name in names:
        (run / name).write_text("mine")
    (run / ".tmp_backup").mkdir()
    code, said = a.go(run)
    gone = [name for name in names if not (run / name).exists()]
    a.check("files of others stay, and stop nobody", code == 0 and not gone, (code, said, gone))


def logs(a: Attacks):
    "One bad line is one line lost; side files are not needed to go on."
    rows = (a.whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    half = "".join(rows[2:6])
    nested = "[" * 100_000 + "]" * 100_000
    damaged = {
        "a bad line in the middle": rows[0] + rows[1].replace('"', "", 1) + half,
        "a line that is a number": rows[0] + "5\n" + half,
        "a line without nimg": rows[0] + "{}\n" + half,
        "a nested line": f"{rows[0]}{nested}\n{half}",
        "a count that is true": f'{rows[0]}{{"nimg": true}}\n{half}',
        "a score that is a word": f'{rows[0]}{{"nimg": 8, "fid[x]": "good"}}\n{half}',
    }
    contents = {what: text.encode() for what, text in damaged.items()}
    contents["a line that is not UTF-8"] = rows[0].encode() + b"\xff\xfe\n" + half.encode()
    for what, data in contents.items():
        run = a.fresh("log")
        (run / "metrics.jsonl").write_bytes(data)
        code, said = a.go(run)
        left = len((run / "metrics.jsonl").read_text(errors="replace").splitlines())
        good = code == 0 and left >= len(rows) - 1 or code == 2 and "metrics.jsonl" in said
        a.check(f"metrics.jsonl: {what}", good, (code, said[-200:], left, len(rows)))
    for what, text in (("empty", ""), ("a list", "[]"), ("nested", nested), ("earlier", '{"earlier": {"a": 1}}')):
        run = a.fresh("provenance")
        (run / "provenance.json").write_text(text)
        code, said = a.go(run)
        a.check(f"provenance.json: {what}", code == 0, (code, said[-200:]))


def bits(a: Attacks):
    "A flipped bit of the newest checkpoint is noticed, by name."
    data = (a.whole / "checkpoints/000000024.safetensors").read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(5)
    for part, low, high in (("tensors", body, len(data)), ("header", 8, body)):
        met = []
        for _ in range(8):
            hurt = bytearray(data)
            hurt[rng.integers(low, high)] ^= 1 << int(rng.integers(8))
            run = a.fresh("flip")
            (run / "checkpoints/000000024.safetensors").write_bytes(hurt)
            met.append(a.go(run)[0])
        a.check(f"flipped bits in the {part} are noticed", met == [2] * 8, met)


def privacy_and_room(a: Attacks):
    old = os.umask(0o077)
    a.go(a.home / "umask", kimg=0.008)
    os.umask(old)
    modes = {oct(file.stat().st_mode & 0o777) for file in (a.home / "umask/checkpoints").iterdir()}
    a.check("umask 077 holds for checkpoints", modes == {"0o600"}, modes)

    def score():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        out = ["--cache", str(a.home / "cache"), "--out", str(a.home / "report.json"), "--device", "cpu"]
        return evaluate(["synthfaces-hsr", "--scores", "kid", "--n", "60", *out])

    code, said = a.child(score)
    sentences = [line for line in said.splitlines() if not line.endswith("measuring kid")]
    a.check("hsr_eval on a full disk says so in one sentence", code == 2 and len(sentences) == 1, (code, said[-300:]))


def sweep(a: Attacks):
    "A table is written also where a score's reference mean is 0."
    difference = paired_difference({0: 0.1, 1: 0.2}, {0: 0.0, 1: 0.0})
    score = {"mean": 0.1, "sd": None, "difference": difference}
    said = text_table([{"arm": "x", "row": {}, "seeds": [0, 1], "recall[j]": score}])
    a.check("hsr_sweep with a reference mean of 0", "recall[j]" in said, said)


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        a = Attacks(Path(folder))
        for attack in (locks, links, files_of_others, logs, bits, privacy_and_room, sweep):
            attack(a)
    print(a.failures, "failures")
    return min(a.failures, 100)


if __name__ == "__main__":
    sys.exit(main())
