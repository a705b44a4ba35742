"""Attacks on the readers: a hostile file ends in a typed refusal of one plain sentence, within seconds and megabytes.

`python tests/support/attack_readers.py [GROUP ...] [--seconds 60] [--mb 1500]`; the exit status counts the failures.
Each file is read in a forked process whose memory and time are limited. The sets want 3 GB of memory."""

import argparse
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import attack_files as files
import torch

from hsr_nb.data import check_dataset, convert_dataset
from hsr_nb.explore import Explorer
from hsr_nb.explore.explorer import load_recipe
from hsr_nb.interop import load_generator
from hsr_nb.judges.attributes import load_classifier
from hsr_nb.nets.seeds import generator_hash

FORKED = (load_generator, check_dataset, convert_dataset)  # loaded before, so that their memory is not the files'


@dataclass(frozen=True)
class Group:
    "Hostile files and those who read them."

    make: Callable  # -> {name: bytes}
    readers: tuple[Callable, ...]  # of a path; all but the first read zips alone
    named: bool = True  # a refusal names the file
    lines: bool = False  # a refusal may have several lines


def torchscript() -> dict[str, bytes]:
    "A program that writes a file of its choice when it is run."

    class Evil(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            said = "owned\n"
            written = torch.from_file("OWNED", True, len(said), dtype=torch.uint8)
            for i in range(len(said)):
                written[i] = ord(said[i])
            return x.flatten(1)[:, :2].contiguous() + written.float().mean() * 0.0001

    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Evil()), out)
    return {"writes-a-file.pt": out.getvalue()}


def judge(path: Path):
    try:
        load_classifier(path, 32).fn(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    finally:
        assert not Path("OWNED").exists(), "the classifier wrote a file of its choice"


def convert(path: Path):
    convert_dataset(path, path.with_name("out.zip"), progress=False)


def look(path: Path):
    check_dataset(path).require()


def foreign(path: Path):
    load_generator(path, tensorflow=True)


def groups(wanted: list[str]) -> dict[str, Group]:
    found = {
        "pickles": Group(files.pickles, (foreign,)),
        "torch": Group(files.torch_zips, (load_generator,)),
        "safetensors": Group(files.safetensors, (load_generator,)),
        "sets": Group(files.sets, (convert, look), lines=True),
        "torchscript": Group(torchscript, (judge,)),
    }
    if not wanted or "recipes" in wanted:
        explorer = Explorer("synthfaces-baseline", judge=None, samples=500, components=2)
        owner = generator_hash(load_generator("synthfaces-baseline"))

        def read_recipe(path):
            load_recipe(explorer, path)

        found["recipes"] = Group(lambda: files.recipes(owner), (read_recipe,), named=False)
    return {name: found[name] for name in wanted or found}


def peak_mb() -> int:
    "The most memory of this process."
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10


def attempt(read: Callable, path: Path, seconds: int, mb: int) -> dict:
    "What happens when a file is read, in this process, which is limited from now on."
    before, begun = peak_mb(), time.monotonic()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + (mb << 20),) * 2)
    signal.alarm(seconds)
    said, kind, typed = "", "accepted", False
    try:
        read(path)
    except BaseException as e:
        kind, said, typed = type(e).__name__, str(e), isinstance(e, (ValueError, OSError))
    took, grew = round(time.monotonic() - begun, 1), peak_mb() - before
    return dict(kind=kind, typed=typed, said=said[:5000], length=len(said), seconds=took, mb=grew)


def watched(read: Callable, path: Path, seconds: int, mb: int) -> dict:
    "The same in a forked process, whatever ends it."
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(into, json.dumps(attempt(read, path, seconds, mb)).encode())
        os._exit(0)
    os.close(into)
    with open(out) as found:
        text = found.read()
    _, status = os.waitpid(pid, 0)
    if text:
        return json.loads(text)
    return dict(kind=f"ended by signal {status & 127}", typed=False, said="", length=0, seconds=seconds, mb=-1)


def faults(group: Group, path: Path, seen: dict, mb: int) -> list[str]:
    "What is wrong with how a file was met."
    plain = all(c.isprintable() or c == "\n" for c in seen["said"])
    longest = max(map(len, seen["said"].splitlines()), default=0)
    wrong = {
        f"no typed refusal: {seen['kind']}": not seen["typed"],
        f"a line of {longest} characters": longest > 700,
        "control characters": not plain,
        "the file is not named": group.named and seen["typed"] and path.name not in seen["said"],
        "more than one line": "\n" in seen["said"] and not group.lines,
        f"took {seen['mb']} MB": seen["mb"] > mb / 2,
    }
    return [what for what, is_so in wrong.items() if is_so]


def attack(group: Group, folder: Path, seconds: int, mb: int):
    "Each file by each reader: (name, what was seen, what is wrong)."
    for name, data in group.make().items():
        path = folder / name
        path.write_bytes(data)
        readers = group.readers if path.suffix == ".zip" else group.readers[:1]
        for read in readers:
            seen = watched(read, path, seconds, mb)
            yield name, seen, faults(group, path, seen, mb)
        path.unlink()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("groups", nargs="*")
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--mb", type=int, default=1500)
    asked = p.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for group in groups(asked.groups).values():
            for name, seen, wrong in attack(group, Path(folder), asked.seconds, asked.mb):
                failures += bool(wrong)
                verdict = "FAIL" if wrong else "ok  "
                costs = f"{seen['seconds']} s, {seen['mb']} MB"
                print(verdict, name, costs, "; ".join(wrong), ascii(seen["said"][:120]), flush=True)
        os.chdir("/")
    print(failures, "failures")
    return min(failures, 100)


if __name__ == "__main__":
    sys.exit(main())
