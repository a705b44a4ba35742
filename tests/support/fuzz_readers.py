"""Seeded fuzzing of every reader of files from outside: whatever they hold, the answer is a value or a typed sentence.

Each reader runs in a process of its own whose memory is limited and measured. The figures of a whole run go to
data/results; the exit status is the number of readers with faults, whose inputs are kept in FOLDER."""

import argparse
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fuzz_inputs as f

from hsr_nb.base.provenance import write_result

ROOT = Path(__file__).resolve().parents[2]
SEED = 17
MOST_MB = 1500
MOST_SECONDS = 30  # of the processor's time, for one input


@dataclass(frozen=True)
class Reader:
    "How inputs are made, where they lie, and what reads them."

    seeds: Callable  # -> list of bytes
    change: Callable  # (random numbers, seeds) -> bytes
    file: str  # name of an input
    read: Callable  # of a path
    named: bool = True  # a refusal says which file it is


def read_network(path):
    from hsr_nb.interop import load_generator

    load_generator(path, tensorflow=True)


def read_run(path):
    "What training, scores and editing ask of a checkpoint."
    from hsr_nb.editing.directions import load_directions
    from hsr_nb.interop import load_checkpoint, load_generator
    from hsr_nb.training.checks import differences
    from hsr_nb.training.state import restore

    state, cfg = _own_state()
    try:
        load_generator(path)
    except ValueError:
        _, meta = load_checkpoint(path)
        if "directions" in meta:
            load_directions(path, state.G)
        raise
    restore(state, path)
    differences(load_checkpoint(path)[1], cfg, {"sha256": "0" * 64}, None)


@functools.cache
def _own_state():
    "A state for what is read, made once, and its configuration."
    from hsr_nb.training.state import build_state

    cfg = f.small_config()
    return build_state(cfg, (3, 8, 8)), cfg


def read_recipe(path):
    from hsr_nb.explore.recipe import parse_history

    parse_history(path.read_bytes(), "0" * 64)


def read_text(path):
    "A report of scores."
    from hsr_nb.studies.comparison import read_report

    read_report(path)


def read_images(path):
    "Checked, converted and opened; what the first that refuses says is raised in the end."
    from hsr_nb.data import check_dataset

    refusals = []
    for read in (lambda p: check_dataset(p, threads=1).require(), read_archive, open_images):
        try:
            read(path)
        except ValueError as e:
            if fault_of(e, path):
                raise
            refusals.append(e)
    if refusals:
        raise refusals[0]


def open_images(path):
    from hsr_nb.data import ImageDataset

    dataset = ImageDataset(path, labels=True, threads=1)
    dataset.labels(range(len(dataset)))
    dataset.images(range(len(dataset)))


def read_archive(path):
    from hsr_nb.data import convert_dataset

    out = path.with_name("out.zip")
    try:
        convert_dataset(path, out, progress=False)
    finally:
        out.unlink(missing_ok=True)


def read_database(path):
    read_archive(path.parent)


@functools.cache
def small_judge(of_timm: bool) -> bytes:
    "The weights that cards are read with."
    from safetensors.torch import save

    from hsr_nb.judges.backbones import build_net
    from hsr_nb.judges.detectors import AttributeNet

    net = build_net("test_resnet", {"num_classes": 2}) if of_timm else AttributeNet((4, 8), 2)
    return save(net.state_dict())


def read_card(path):
    "Loaded, and asked about a picture, of which the judge may say, under its own name, that it is too small."
    import torch

    from hsr_nb.judges.attributes import load_bank

    weights = path.with_suffix(".safetensors")
    weights.write_bytes(small_judge(b'"timm"' in path.read_bytes()))
    bank = load_bank(weights)
    try:
        bank(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def read_editor(path):
    "Loaded, and moved with along its first attributes."
    from hsr_nb.editing.methods import load_editor

    state, _ = _own_state()
    editor = load_editor(path, state.G)
    ws = state.G.mapping.w_avg.expand(1, state.G.num_ws, -1)
    for attribute in editor.attributes[:5]:
        editor.edit(ws, attribute, 0.5, native=True)


def read_latents(path):
    from hsr_nb.editing.latents import load_latents

    load_latents(path)


def read_log(path):
    from hsr_nb.training.run_folder import best_checkpoints, read_metrics

    checkpoints = path.parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    for row in read_metrics(path.parent)[:3]:
        (checkpoints / f"{row['nimg']:09d}.safetensors").touch()
    best_checkpoints(path.parent)


def read_provenance(path):
    from hsr_nb.training.run_folder import earlier_sessions

    earlier_sessions(path.parent, 80)


def read_logits(path):
    from hsr_nb.studies.stored_logits import load_logits

    load_logits(path)


def editors() -> list[bytes]:
    return f.editors(_own_state()[0].G)


def latents() -> list[bytes]:
    return f.latents(_own_state()[0].G)


def recipes() -> list[bytes]:
    from hsr_nb.explore.recipe import Edit, History, Recipe, dump_history

    h = History([Recipe(), Recipe(seed=3, bred=((4, 0.5),), mix_seed=9, mix_layers=(1, 2))])
    h.push(Recipe(edits=(Edit("pca 1", 2.0, (0, 3)),)))
    h.keep("a picture")
    return [dump_history(h, "0" * 64, "a network").encode()]


def reports() -> list[bytes]:
    from hsr_nb.studies.comparison import ALIKE, FORMAT

    part = {"name": "digits", "sha256": "0" * 64}
    about = {"format": FORMAT, "asked": ["kid"], "scores": {"kid[x]": 0.1}, "network": part}
    return [json.dumps(about | {key: part for key in ALIKE}).encode()]


def readers() -> dict[str, Reader]:
    return {
        "pickles": Reader(f.pickles, f.change_pickle, "x.pkl", read_network),
        "torch zips": Reader(f.torch_zips, f.change_torch_zip, "x.pt", read_network),
        "safetensors": Reader(f.checkpoints, f.change_safetensors, "x.safetensors", read_run),
        "metadata": Reader(f.checkpoints, f.change_metadata, "x.safetensors", read_run),
        "recipes": Reader(recipes, f.change_json, "x.json", read_recipe, named=False),
        "reports": Reader(reports, f.change_json, "x.json", read_text),
        "dataset.json": Reader(f.image_sets, f.change_labels, "x.zip", read_images),
        "images": Reader(f.image_sets, f.change_images, "x.zip", read_images),
        "CIFAR": Reader(f.cifar_archives, f.change_cifar, "x.tar.gz", read_archive),
        "idx": Reader(f.idx, f.change_idx, "x-idx3-ubyte", read_archive),
        "LMDB": Reader(f.lmdbs, f.change_lmdb, "x/data.mdb", read_database),
        "cards": Reader(f.cards, f.change_json, "x.json", read_card),
        "editors": Reader(editors, f.change_file_of_claims, "x.safetensors", read_editor),
        "latents": Reader(latents, f.change_file_of_claims, "x.safetensors", read_latents),
        "logs": Reader(f.logs, f.change_log, "x/metrics.jsonl", read_log),
        "provenance": Reader(f.provenances, f.change_json, "x/provenance.json", read_provenance),
        "logits": Reader(f.logits, f.change_logits, "x.npz", read_logits),
    }


# ---- in the child


def peak() -> float:
    "The most memory since it was last forgotten, in MB."
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def fault_of(e: BaseException, path: Path | None) -> str | None:
    "What is wrong with an error, None where it is as it should be."
    from hsr_nb.base.errors import CheckpointError, DataError

    said = str(e)
    typed = isinstance(e, (CheckpointError, DataError)) or type(e) in (ValueError, FileNotFoundError)
    if not typed:
        return f"untyped {type(e).__name__}: {ascii(said[:300])}"
    lines = said.splitlines()
    if max(map(len, lines), default=0) > 700 or len(lines) > 40:
        return f"{len(said)} characters: {ascii(said[:100])}"
    if not all(line.isprintable() for line in lines):
        return f"not printable: {ascii(said[:300])}"
    if path is not None and str(path.parent) not in said:
        return f"does not name the file: {ascii(said[:300])}"
    return None


class TooSlow(BaseException):
    "So much processor time."


def too_slow(*_):
    raise TooSlow(f"{MOST_SECONDS} s of processor time")


def watch(name: str, seconds: float, seed: int, folder: Path):
    "Read inputs until the time is up; what was seen is in `folder/found.json` after each second."
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    reader = readers()[name]
    rng = random.Random(f"{seed} {name}")
    seeds = reader.seeds()
    path = folder / reader.file
    path.parent.mkdir(exist_ok=True)
    count = {"reader": name, "runs": 0, "read": 0, "refused": 0, "faults": []}
    worst = {"longest_message": 0, "slowest_cpu_s": 0.0, "largest_mb": 0.0}
    for data in seeds:  # also loads what is loaded on first use
        path.write_bytes(data)
        attempt(reader, path, count, worst)
    count |= {"seeds": len(seeds), "seeds_read": count["read"], "runs": 0, "read": 0, "refused": 0}
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + (MOST_MB << 20),) * 2)
    signal.signal(signal.SIGPROF, too_slow)
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        path.write_bytes(reader.change(rng, seeds))
        found = attempt(reader, path, count, worst)
        if found:
            shutil.copy(path, folder / f"fault-{len(count['faults'])}-{path.name}")
            count["faults"].append(f"input {count['runs']}: {found}")
        if found or count["runs"] % 50 == 1:
            (folder / "found.json").write_text(json.dumps(count | worst))
    (folder / "found.json").write_text(json.dumps(count | worst | {"seconds": round(time.monotonic() - begun)}))


def attempt(reader: Reader, path: Path, count: dict, worst: dict) -> str | None:
    "Read one input; the fault, or None."
    count["runs"] += 1
    found = None
    forget_peak()
    cpu = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        reader.read(path)
        count["read"] += 1
    except BaseException as e:
        if isinstance(e, KeyboardInterrupt):
            raise
        count["refused"] += 1
        worst["longest_message"] = max(worst["longest_message"], len(str(e)))
        found = fault_of(e, path if reader.named else None)
    signal.setitimer(signal.ITIMER_PROF, 0)
    mb = peak()
    worst["slowest_cpu_s"] = round(max(worst["slowest_cpu_s"], time.process_time() - cpu), 2)
    worst["largest_mb"] = round(max(worst["largest_mb"], mb), 1)
    if found is None and mb > MOST_MB:
        found = f"{mb:.0f} MB"
    return found


def watch_each(names: list[str], seconds: float, seed: int, home: Path):
    "Fork for each reader, when everything is imported; how each ended is in a file of its folder."
    import hsr_nb.data
    import hsr_nb.editing.directions
    import hsr_nb.editing.methods
    import hsr_nb.explore.recipe
    import hsr_nb.interop.start
    import hsr_nb.judges.attributes
    import hsr_nb.metrics.als_paths
    import hsr_nb.studies.comparison
    import hsr_nb.training  # noqa: F401

    for name in names:
        folder = home / name
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                watch(name, seconds, seed, folder)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        (folder / "status").write_text(str(os.waitstatus_to_exitcode(status)))


# ---- in the parent


def run(names: list[str], seconds: float, seed: int = SEED, keep: Path | None = None) -> list[dict]:
    "Fuzz readers for some seconds each, in children: the counts, with what ended a child among the faults."
    with tempfile.TemporaryDirectory() as home:
        paths = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"
        command = [sys.executable, __file__, "--child", home, str(seconds), str(seed), *names]
        env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        r = subprocess.run(command, capture_output=True, text=True, cwd=home, env=env)
        assert r.returncode == 0, r.stderr[-4000:]
        return [_outcome(Path(home, name), name, r.stderr, keep) for name in names]


def _outcome(folder: Path, name: str, said: str, keep: Path | None) -> dict:
    "What a reader's process left, and copies of the inputs that failed."
    found = {"reader": name, "faults": []}
    if (folder / "found.json").exists():
        found = json.loads((folder / "found.json").read_text())
    status = (folder / "status").read_text()
    if status != "0":  # the input that did it is still there
        shutil.copy(folder / readers()[name].file, folder / "fault-last")
        found["faults"].append(f"the process ended with {status}: {said[-1000:]}")
    if found["faults"] and keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("fault-*"):
            shutil.copy(file, keep / f"{name.replace(' ', '-')}-{file.name}")
    return found


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("seconds", type=float, help="for each reader")
    p.add_argument("readers", nargs="*", help=f"of {', '.join(readers())}; all without any")
    p.add_argument("--keep", type=Path, help="a folder for the inputs that were read wrongly")
    p.add_argument("--seed", type=int, default=SEED)
    p.add_argument("--result", help="write the figures under this name; fuzz-readers without any where all are read")
    p.add_argument("--jobs", type=int, default=1, help="readers at a time")
    return p.parse_args()


def main() -> int:
    asked = options()

    def fuzz(name):
        (row,) = run([name], asked.seconds, asked.seed, asked.keep)
        print(json.dumps(row), flush=True)
        return row

    with ThreadPoolExecutor(asked.jobs) as pool:
        rows = list(pool.map(fuzz, asked.readers or readers()))
    if asked.result or not asked.readers:
        limits = {"memory_limit_mb": MOST_MB, "limit_cpu_s": MOST_SECONDS}
        config = {"seconds": asked.seconds, "seed": asked.seed, **limits}
        write_result(ROOT / "data/results", asked.result or "fuzz-readers", config, rows)
    return sum(bool(row["faults"]) for row in rows)


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        watch_each(sys.argv[5:], float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[2]))
    else:
        sys.exit(main())
