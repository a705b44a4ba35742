"""Runs that die: killed at any moment, told to leave, out of disk, without permission, two in one folder.

What lies on the disk is whole, and going on equals never having stopped."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hsr_nb.interop.safetensors as files
from hsr_nb.base.errors import Failure
from hsr_nb.base.whole import _machine
from hsr_nb.data import ImageDataset
from hsr_nb.data.sampler import batches
from hsr_nb.interop import CheckpointError, load_checkpoint, load_generator
from hsr_nb.interop.checkpoint import checkpoints
from hsr_nb.interop.safetensors import save_safetensors
from hsr_nb.judges.maps import YARDSTICK
from hsr_nb.training import override, preset, read_metrics, train
from hsr_nb.training.checks import open_data
from hsr_nb.training.config import TrainConfig
from hsr_nb.training.monitor import Scores
from hsr_nb.training.parallel import join
from hsr_nb.training.state import build_state

# Children are forked from a server that has imported everything and computed nothing: one thread, so that a fork is
# safe, and 10 ms instead of seconds for a start.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "timm", "pytest", "hsr_nb.training.run", "hsr_nb.hsr", "torch.distributed"])

SMALL = {
    "net.channel_max": 8,
    "net.z_dim": 8,
    "net.w_dim": 8,
    "batch": 4,
    "hsr.head_hidden": 8,
    "hsr.start_kimg": 0.008,
    "hsr.interval": 2,
    "loss.r1_interval": 4,
    "loss.pl_interval": 2,
    "augment.kind": "ada",
    "augment.target": 0.05,
    "augment.ada_kimg": 0.1,
    "kimg": 0.048,
    "tick_kimg": 0.004,
    "snapshot_kimg": 0.012,
    "metrics": ("kid",),
    "metric_ticks": 2,
    "metric_images": 8,
    "device": "cpu",
}  # twelve steps, four checkpoints, a score at every other step
CHANGES = {"os.rename", "os.remove", "os.truncate", "os.chmod", "os.mkdir"}


def pictures(path, n=24, size=16, seed=0):
    path.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(path / f"{i:03d}.png")
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("crash") / "images")


def config(folder, images, **changes):
    return override(
        preset("tiny32"), **SMALL | {"data.path": str(images), "data.resolution": 16, "run_dir": str(folder)} | changes
    )


# --- children


def work(cfg, said=None, *steps):
    "In a child: prepare (pairs of a function and its arguments), train, and leave an error's sentence in a file."
    for prepare, args in steps:
        prepare(*args)
    try:
        train(cfg, progress=False)
    except (ValueError, OSError, Failure) as e:
        if said:
            Path(said).write_text(str(e))
        sys.exit(2)


def child(cfg, *args):
    p = SERVER.Process(target=work, args=(cfg, *args))
    p.start()
    return p


def ended(p, seconds=300):
    "The exit status of a child, which must come."
    p.join(seconds)
    if p.exitcode is None:
        p.kill()
        p.join()
        raise AssertionError(f"the child did not end within {seconds} s")
    return p.exitcode


def file_changes(folder, note):
    "In a child: `note` is called before everything that changes the folder."

    def hook(event, args):
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if (writes or event in CHANGES) and str(args[0]).startswith(folder):
            note()

    sys.addaudithook(hook)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_change(folder, n):
    "In a child: SIGKILL right before the n-th change of the folder."
    seen = itertools.count(1)
    file_changes(folder, lambda: next(seen) == n and die())


def count_changes(folder, out):
    "In a child: keep the number of changes in a file."
    seen = itertools.count(1)
    file_changes(folder, lambda: Path(out).write_text(str(next(seen))))


def die_within_write(k, share):
    "In a child: SIGKILL when a share of the k-th checkpoint has been written."
    write, seen = files._write_tensors, itertools.count(1)

    def torn(path, tensors, meta):
        write(path, tensors, meta)
        if next(seen) == k:
            os.truncate(path, int(share * os.path.getsize(path)))
            die()

    files._write_tensors = torn


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# --- what must hold


def drop_seconds(rows):
    return [{k: v for k, v in r.items() if not k.startswith("sec")} for r in rows]


def assert_whole(run):
    "Every file but the unfinished ones is complete; the newest checkpoint loads."
    for p in run.rglob("*"):
        unfinished = any(part.startswith(".tmp") or part.endswith((".tmp", ".part")) for part in p.parts)
        if not p.is_file() or unfinished:
            continue
        if p.suffix == ".safetensors":
            load_checkpoint(p)
        elif p.suffix == ".png":
            Image.open(p).load()
        elif p.suffix == ".json":
            json.loads(p.read_text())
        elif p.suffix == ".jsonl":
            assert [json.loads(line) for line in p.read_text().splitlines()] == read_metrics(run)
        else:
            assert p.name == ".lock", p
    if checkpoints(run):
        load_generator(run)


def assert_same_run(whole, run, extra=()):
    "Bit for bit the same weights and moments, the same lines, pictures and pointers; nothing else is left but `extra`."
    (a, meta), (b, other) = load_checkpoint(whole), load_checkpoint(run)
    wrong = [k for k in a if not torch.equal(a[k], b[k])]
    assert list(a) == list(b) and not wrong, f"{len(wrong)} of {len(a)} tensors differ, first {wrong[0]}"
    assert drop_seconds([meta["count"]]) == drop_seconds([other["count"]])
    assert drop_seconds(read_metrics(whole)) == drop_seconds(read_metrics(run))

    def names(d):
        return {p.relative_to(d).as_posix() for p in d.rglob("*") if p.is_file()}

    assert names(run) - set(extra) == names(whole)
    for name in names(whole):
        if name.endswith(".png") or name == "best.json":
            assert (whole / name).read_bytes() == (run / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    "The run that nobody disturbed, how long it took, and how often it changed its folder."
    folder = tmp_path_factory.mktemp("whole")
    warm = SERVER.Process(target=int)
    warm.start()
    ended(warm)  # the server itself takes seconds to start
    began, run = time.monotonic(), folder / "run"
    assert ended(child(config(run, images))) == 0
    seconds = time.monotonic() - began
    counting = count_changes, (str(folder / "counted"), str(folder / "changes"))
    assert ended(child(config(folder / "counted", images), None, counting)) == 0
    assert_same_run(run, folder / "counted")
    state, _ = load_checkpoint(run)
    assert state["augment.p"] > 0, "augmentation takes part, and its probability has moved"
    return run, seconds, int((folder / "changes").read_text())


# --- SIGKILL


def killed(cfg, how, rng, seconds, changes):
    "Kill one session; where it had ended before, start afresh and kill sooner."
    for sooner in itertools.count():
        if how == "any time":
            p = child(cfg)
            p.join(rng.uniform(0, seconds) / 2**sooner)
            p.kill()
        elif how == "at a change":
            n = max(1, rng.randint(1, changes) >> sooner)
            p = child(cfg, None, (die_at_change, (cfg.run_dir, n)))
        else:
            k = max(1, rng.randint(1, 4) >> sooner)
            p = child(cfg, None, (die_within_write, (k, rng.random())))
        if ended(p) == -signal.SIGKILL:
            return
        assert p.exitcode == 0
        shutil.rmtree(cfg.run_dir)


def kill_three_times(seed, images, whole, run):
    "Three kills of one run in a row, each of another kind, then the rest of it."
    rng, (undisturbed, seconds, changes) = random.Random(seed), whole
    for how in rng.sample(["any time", "at a change", "within a checkpoint"], 3):
        killed(config(run, images), how, rng, seconds, changes)
        if run.exists():
            assert_whole(run)
    assert ended(child(config(run, images))) == 0
    assert_same_run(undisturbed, run)


@pytest.mark.parametrize("seed", range(2))
def test_six_kills(seed, images, whole, tmp_path):
    kill_three_times(seed, images, whole, tmp_path / "run")


def test_a_kill_between_the_last_checkpoint_and_its_pointer(images, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run/best.json").write_text("{}")
    assert ended(child(config(tmp_path / "run", images))) == 0
    assert (tmp_path / "run/best.json").read_bytes() == (whole[0] / "best.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 117))
def test_fifty_one_kills(seed, images, whole, tmp_path):
    kill_three_times(seed, images, whole, tmp_path / "run")


# --- SIGTERM


def until(p, condition, seconds=300):
    "Wait for a condition while the child lives."
    end = time.monotonic() + seconds
    while not condition():
        assert p.is_alive(), f"the child ended with {p.exitcode}"
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.005)


def lines(run):
    return len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0


@pytest.mark.parametrize("steps", [1, 4])
def test_sigterm_saves_and_ends_with_143(steps, images, whole, tmp_path):
    "Also where a score was due at that step: it is caught up."
    run = tmp_path / "run"
    p = child(config(run, images))
    until(p, lambda: lines(run) >= steps)
    os.kill(p.pid, signal.SIGTERM)
    assert ended(p) == 143
    nimg = load_checkpoint(run)[1]["count"]["nimg"]
    assert nimg < 48, "it came too late to stop anything"
    assert_whole(run)
    assert ended(child(config(run, images))) == 0
    own = {f"checkpoints/{nimg:09d}.safetensors", f"samples/fakes{nimg:09d}.png"}
    assert_same_run(whole[0], run, own if nimg % 12 else ())


def test_sigterm_to_the_whole_group(images, tmp_path):
    "As schedulers and `timeout` send it: to the loader's processes too."
    run = tmp_path / "run"
    p = child(config(run, images, kimg=1000.0, **{"data.workers": 2}), None, (os.setsid, ()))
    until(p, lambda: lines(run) >= 1)
    os.killpg(p.pid, signal.SIGTERM)
    assert ended(p) == 143
    assert load_checkpoint(run)[1]["count"]["nimg"] == read_metrics(run)[-1]["nimg"]


def take_on(images):
    "In a child, whose loader's processes come from a server of its own: all of the group are told to end."
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: None)
    real = batches(ImageDataset(images), 4, seed=0, workers=2)
    for _ in range(20):
        next(real)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.05)
    sys.exit(143)


def test_the_loader_outlives_sigterm_to_its_group(images):
    "What was noted in the middle of a step is acted on after the next batch."
    p = SERVER.Process(target=take_on, args=(images,))
    p.start()
    assert ended(p, 60) == 143


def rank(r, port, then, *args):
    "In a child: be one of two processes."
    os.environ |= {"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    then(*args)


def two(then, *args):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = [SERVER.Process(target=rank, args=(r, port, then, *args)) for r in range(2)]
    for p in ranks:
        p.start()
    return ranks


def test_sigterm_to_one_of_two_processes(images, tmp_path):
    "Both finish the step, one saves, both leave."
    run = tmp_path / "run"
    ranks = two(work, config(run, images, kimg=1000.0, snapshot_kimg=1000.0, **{"net.use_noise": False}))
    until(ranks[0], lambda: lines(run) >= 2)
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert [ended(p) for p in ranks] == [143, 143]
    assert load_checkpoint(run)[1]["count"]["nimg"] == read_metrics(run)[-1]["nimg"] < 1000
    assert_whole(run)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_whose_peer_died_ends_in_one_sentence(victim, images, tmp_path):
    "Killed in the middle of a run, as for memory: the other one says so and ends, and its checkpoint is whole."
    run, said = tmp_path / "run", tmp_path / "said"
    ranks = two(work, config(run, images, kimg=1000.0), said)
    until(ranks[0], lambda: checkpoints(run))
    ranks[victim].kill()
    assert ended(ranks[1 - victim], 120) == 2
    sentence = said.read_text()
    assert sentence.startswith("another process of this run has died or does not answer ("), sentence
    assert sentence.endswith("the same command goes on from it") and len(sentence) < 700 and "\n" not in sentence
    ranks[victim].join()
    assert_whole(run)
    assert load_checkpoint(run)[1]["count"]["nimg"] > 0


def test_other_counts_of_threads_and_processes_are_said(images, whole, tmp_path):
    "They are in the provenance, and a run that goes on under others may give other numbers."
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    checkpoints(run)[-1].unlink()
    about = json.loads((run / "provenance.json").read_text())
    assert about["threads"] == torch.get_num_threads() and about["processes"] == 1
    (run / "provenance.json").write_text(json.dumps(about | {"threads": 7, "processes": 3}))
    with pytest.warns(UserWarning, match="trained with") as notes:
        train(config(run, images), progress=False)
    said = [str(note.message) for note in notes if "trained with" in str(note.message)]
    assert len(said) == 2 and all(text.startswith(str(run)) and "numbers may differ" in text for text in said)
    assert "3 processes so far and goes on with 1: noise" in said[0]
    assert f"7 threads so far and goes on with {torch.get_num_threads()}: sums" in said[1]


# --- scores while training


def measured(cfg, out):
    procs, _ = join("cpu")
    ds = open_data(cfg)
    found = Scores(cfg, ds, procs, "cpu").measure(build_state(cfg, ds.image_shape).G_ema)
    if procs.rank == 0:
        Path(out).write_text(json.dumps(found))
    else:
        assert found == {}


def test_scores_of_two_processes_are_those_of_one(tmp_path):
    cfg = config(tmp_path, pictures(tmp_path / "images", 131), metrics=("yardstick", "fid", "kid"), metric_images=117)
    measured(cfg, tmp_path / "one.json")
    assert [ended(p) for p in two(measured, cfg, tmp_path / "two.json")] == [0, 0]
    one, both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two"))
    primary = {f"yardstick[{YARDSTICK}]", f"yardstick_se[{YARDSTICK}]"}
    assert set(one) == {f"{k}[synthfaces-attributes]" for k in ("fid", "kid", "kid_std")} | primary
    assert all(v > 0 for v in one.values())
    assert one == pytest.approx(both, rel=1e-5)


def test_scores_leave_the_run_alone(images, whole, tmp_path):
    "The same weights with and without; the pointer names the lowest, and only checkpoints that exist."
    run = tmp_path / "run"
    assert ended(child(config(run, images, metrics=()))) == 0
    a, b = load_checkpoint(whole[0])[0], load_checkpoint(run)[0]
    assert all(torch.equal(a[k], b[k]) for k in a) and not (run / "best.json").exists()
    key, rows = "kid[synthfaces-attributes]", read_metrics(whole[0])
    assert [r["nimg"] for r in rows if key in r] == [8, 12, 16, 24, 32, 36, 40, 48]
    assert not any(key in r for r in read_metrics(run))
    low = min((r for r in rows if r["nimg"] % 12 == 0), key=lambda r: r[key])
    assert json.loads((whole[0] / "best.json").read_text()) == {
        key: {"checkpoint": f"checkpoints/{low['nimg']:09d}.safetensors", "nimg": low["nimg"], "score": low[key]}
    }


def test_the_teacher_does_not_judge(images, tmp_path):
    with pytest.raises(ValueError, match="taught this network and cannot judge it"):
        train(config(tmp_path / "run", images, metric_detector="synthfaces-tiny"), progress=False)


# --- disks and folders


def leftovers(run):
    "What was begun and not finished."
    return [*run.rglob("*.tmp"), *run.rglob("*.part")]


@contextlib.contextmanager
def tmpfs(path, size):
    "A small disk of its own, for root."
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    allowed = os.geteuid() == 0 and shutil.which("mount") is not None
    if not allowed or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


FULL = {
    "config.json": (0, {}),
    "metrics.jsonl": (4000, {"metrics": (), "snapshot_kimg": 1000.0, "kimg": 1.0}),
    "samples/fakes": (4000, {"metrics": (), "tick_kimg": 1000.0}),
    "checkpoints/0": (60_000, {"metrics": ()}),
}


@pytest.mark.parametrize("what", FULL)
def test_no_room_for(what, images, whole, tmp_path):
    """A limit on the size of a file stands for a disk that fills up within this file.

    The run ends with its name, and goes on when there is room."""
    (size, changes), run = FULL[what], tmp_path / "run"
    shutil.copytree(whole[0], run)
    for p in checkpoints(run)[1:]:
        p.unlink()  # twelve images, then on
    before, size = checkpoints(run)[0].read_bytes(), size or os.path.getsize(run / what) - 1
    assert ended(child(config(run, images, **changes), tmp_path / "said", (limit_files, (size,)))) == 2
    said = (tmp_path / "said").read_text()
    assert f"cannot write {run}/{what}" in said and ("File too large" in said or "No space left" in said), said
    assert_whole(run)
    assert checkpoints(run)[0].read_bytes() == before and len(checkpoints(run)) == 1
    assert not leftovers(run)
    for p in (run / "samples").glob("fakes*"):
        p.unlink()
    assert ended(child(config(run, images))) == 0
    assert load_checkpoint(run)[0].keys() == load_checkpoint(whole[0])[0].keys()
    assert drop_seconds(read_metrics(run)) == drop_seconds(read_metrics(whole[0]))


@pytest.mark.parametrize("room", [0, 40_000])
def test_full_disk(room, images, whole, tmp_path):
    "A real one: filled up while the run is going on."
    with tmpfs(tmp_path / "disk", "8m") as disk:
        run = disk / "run"
        p = child(config(run, images, kimg=1000.0), tmp_path / "said")
        until(p, lambda: checkpoints(run))
        with open(disk / "filler", "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 4096)
            f.truncate(max(0, f.tell() - room))
        assert ended(p) == 2
        said = (tmp_path / "said").read_text()
        assert said.startswith(f"cannot write {run}/") and "No space left on device" in said, said
        assert_whole(run)
        assert not leftovers(run)
        (disk / "filler").unlink()
        for p in checkpoints(run)[1:]:
            p.unlink()
        assert ended(child(config(run, images))) == 0
        assert_whole(run)
        a, b = load_checkpoint(whole[0])[0], load_checkpoint(checkpoints(run)[-1])[0]
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_read_only_folder(images, tmp_path):
    with contextlib.ExitStack() as stack:
        if os.geteuid():
            disk = tmp_path / "disk"
            disk.mkdir()
        else:
            disk = stack.enter_context(tmpfs(tmp_path / "disk", "8m"))
        assert ended(child(config(disk / "run", images, kimg=0.012))) == 0
        before = {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()}
        if os.geteuid():
            for d in (disk, *(p for p in disk.rglob("*") if p.is_dir())):
                d.chmod(0o500)
                stack.callback(d.chmod, 0o700)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for name in ("run", "other"):
            with pytest.raises(CheckpointError, match=f"cannot write to the run folder {disk}/{name}: "):
                train(config(disk / name, images), progress=False)
        assert {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()} == before
        load_generator(disk / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_second_in_a_folder_is_refused(workers, images, tmp_path):
    "The lock goes with its owner at once, although loader processes outlive a killed parent by seconds."
    run = tmp_path / "run"
    p = child(config(run, images, kimg=1000.0, **{"data.workers": workers}))
    try:
        until(p, lambda: lines(run) >= 1)
        with pytest.raises(CheckpointError, match=f"in use by process {p.pid}"):
            train(config(run, images), progress=False)
        n = lines(run)
        until(p, lambda: lines(run) > n)  # the first goes on
    finally:
        p.kill()
        p.join()
    for c in checkpoints(run):
        c.unlink()
    train(config(run, images, kimg=0.004), progress=False)
    assert_whole(run)


def test_clock_going_backwards(images, whole, tmp_path, monkeypatch):
    "The newest checkpoint is the one with the most images, whatever the clocks say."
    run, past = tmp_path / "run", itertools.count(10**9, -1000)
    train(config(run, images, kimg=0.012), progress=False)
    for p in (p for p in run.rglob("*") if p.is_file()):
        os.utime(p, (4e9, 4e9))  # written in 2096
    monkeypatch.setattr(time, "time", lambda: next(past))
    train(config(run, images, kimg=0.024), progress=False)
    for p in checkpoints(run):
        os.utime(p, (4e9 - int(p.stem), 4e9 - int(p.stem)))  # the older, the later
    train(config(run, images), progress=False)
    assert_same_run(whole[0], run)
    assert all(r["seconds"] >= 0 and r["sec_per_kimg"] > 0 for r in read_metrics(run))


# --- another run


def test_another_run_is_refused_unless_forced(images, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    before = load_checkpoint(run)[0]
    cases = {
        "loss.r1_gamma was 1.0, now 3.0": {"loss.r1_gamma": 3.0},
        "hsr.teacher was 'synthfaces-tiny', now 'none'": {"hsr.teacher": "none"},
        "data.resolution was 16, now 8": {"data.path": str(pictures(tmp_path / "small", size=8)), "data.resolution": 8},
        "data set's identity": {"data.path": str(pictures(tmp_path / "others", seed=1))},
    }
    for words, change in cases.items():
        with pytest.raises(CheckpointError, match=words):
            train(config(run, images, kimg=0.052, **change), progress=False)
    with (
        pytest.warns(UserWarning, match="net.channel_max was 8, now 4"),
        pytest.raises(CheckpointError, match="of the shape"),
    ):
        train(config(run, images, kimg=0.052, **{"net.channel_max": 4}), progress=False, force=True)
    assert all(torch.equal(before[k], v) for k, v in load_checkpoint(run)[0].items())
    with pytest.warns(UserWarning, match="going on by force"):
        both = cases["data set's identity"] | {"loss.r1_gamma": 3.0}
        train(config(run, images, kimg=0.052, **both), progress=False, force=True)
    about = json.loads((run / "provenance.json").read_text())
    assert len(about["forced"]) == 2 and about["forced"][0] == "loss.r1_gamma was 1.0, now 3.0"
    assert about["earlier"][-1]["until_nimg"] == 48
    meta = load_checkpoint(run)[1]
    assert meta["count"]["nimg"] == 52 and meta["config"]["loss"]["r1_gamma"] == 3.0


def test_the_same_teacher_with_other_weights_is_refused(images, whole, tmp_path):
    "The name alone does not make a teacher."
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    tensors, meta = load_checkpoint(run)
    meta["teacher"]["sha256"] = "0" * 64
    save_safetensors(checkpoints(run)[-1], tensors, meta)
    with pytest.raises(CheckpointError, match="the teacher's weights was 000000000000"):
        train(config(run, images, kimg=0.052), progress=False)
    with pytest.warns(UserWarning, match="going on by force"):
        train(config(run, images, kimg=0.052), progress=False, force=True)


def test_a_setting_younger_than_the_checkpoint_had_its_default(images, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    tensors, meta = load_checkpoint(run)
    assert meta["config"]["opt"].pop("ema_kimg") == TrainConfig().opt.ema_kimg
    save_safetensors(checkpoints(run)[-1], tensors, meta)
    train(config(run, images), progress=False)


def test_leftovers_of_a_kill_are_removed(tmp_path):
    "Ours, and those of earlier versions."
    from hsr_nb.training.run_folder import RunFolder

    folder = tmp_path / "run" / "checkpoints"
    unfinished = folder / f".000001024.safetensors.{_machine()}-99999999-0a1b2c3d.part"
    unfinished.mkdir(parents=True)
    left = [folder / ".000001024.safetensors.tmp", unfinished / "000001024.safetensors"]
    left += [tmp_path / "run/.config.json.tmp", tmp_path / "run/.metrics.jsonl.4711.tmp"]
    for p in left:
        p.write_bytes(b"half")
    with RunFolder(tmp_path / "run", writes=True):
        assert not any(p.exists() for p in left) and not leftovers(tmp_path / "run")


def test_files_of_others_in_a_run_folder_stay(tmp_path):
    from hsr_nb.training.run_folder import RunFolder

    run = tmp_path / "run"
    run.mkdir()
    (run / ".tmp_backup").mkdir()
    names = (".tmp_notes", ".tmpbackup", ".tmp123456", ".notes.json.tmp", ".my.png.tmp", ".write-test.tmp", ".x.part")
    for folder in (run, run / "samples", run / "checkpoints"):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text("mine")
    with RunFolder(run, writes=True):
        pass
    assert (run / ".tmp_backup").is_dir()
    for folder in (run, run / "samples", run / "checkpoints"):
        assert all((folder / name).read_text() == "mine" for name in names)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.json", "samples", "checkpoints"])
def test_links_in_a_run_folder_are_not_followed(tmp_path, name):
    from hsr_nb.training.run_folder import RunFolder

    elsewhere = tmp_path / "elsewhere"
    if name in ("samples", "checkpoints"):
        elsewhere.mkdir()
        (elsewhere / ".x.png.tmp").write_text("precious")
    else:
        elsewhere.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=f"{name} is a link"):
        RunFolder(run, writes=True)
    kept = elsewhere / ".x.png.tmp" if elsewhere.is_dir() else elsewhere
    assert kept.read_text() == "precious"


def test_other_names_of_files_elsewhere_are_not_written_to(tmp_path):
    "A link that leads nowhere makes nothing there, and a hard link carries no line out of the folder."
    from hsr_nb.base.whole import append_line
    from hsr_nb.training.run_folder import RunFolder

    run = tmp_path / "run"
    run.mkdir()
    (run / ".write-test.tmp").symlink_to(tmp_path / "nowhere")
    with RunFolder(run, writes=True):
        pass
    assert not (tmp_path / "nowhere").exists() and (run / ".write-test.tmp").is_symlink()
    (tmp_path / "precious").write_text("mine")
    (run / ".lock").unlink()
    os.link(tmp_path / "precious", run / ".lock")
    with pytest.raises(CheckpointError, match=r"another name elsewhere.*\.lock"):
        RunFolder(run, writes=True)
    (run / ".lock").unlink()
    os.link(tmp_path / "precious", run / "metrics.jsonl")
    with RunFolder(run, writes=True) as folder, pytest.raises(CheckpointError, match="metrics.jsonl"):
        folder.log({"nimg": 1})
    with pytest.raises(OSError):
        append_line(run / ".write-test.tmp", "x")
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "nowhere").exists()


def test_a_linked_checkpoint_is_not_followed(tmp_path):
    for name in ("run", "theirs"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    run = tmp_path / "run"
    theirs = tmp_path / "theirs/checkpoints/000000001.safetensors"
    save_safetensors(theirs, {"G_ema.a": torch.ones(1)}, {"count": {"nimg": 1}})
    (run / "checkpoints" / theirs.name).symlink_to(theirs)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/checkpoints").symlink_to(theirs.parent)
    for folder in (run, tmp_path / "linked"):
        with pytest.raises(CheckpointError, match="is a link, and a run folder holds its own checkpoints"):
            load_checkpoint(folder)
    assert load_checkpoint(run / "checkpoints" / theirs.name)[1]["count"]  # named by hand it is meant


def test_what_a_log_and_a_provenance_claim(tmp_path):
    "Any line, and any provenance, is a row or is left out with a word."
    from hsr_nb.training.run_folder import best_checkpoints, earlier_sessions

    nested = "[" * 100_000 + "]" * 100_000
    bad = [nested, '{"nimg": true}', '{"nimg": -1}', f'{{"nimg": {"9" * 300}}}', '{"nimg": 1, "kimg": "x"}', "null"]
    bad += [
        '{"nimg": 1, "fid[x]": "good"}',
        '{"nimg": 1, "fid[x]": [1]}',
        '{"nimg": 1.5}',
    ]
    good = ['{"nimg": 1, "fid[x]": null}', '{"nimg": 1, "fid[x]": NaN}', '{"nimg": 1, "fid[x]": 2.5, "loss/G": -1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*bad, *good]))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/000000001.safetensors").touch()
    with pytest.warns(UserWarning, match="line 1 is damaged") as said:
        assert len(read_metrics(tmp_path)) == len(good)
    assert len(said) == len(bad)
    with pytest.warns(UserWarning):
        assert best_checkpoints(tmp_path)["fid[x]"]["score"] == 2.5
    (tmp_path / "metrics.jsonl").write_text("x\n" * 50)
    with pytest.warns(UserWarning, match="39 more lines") as said:
        assert read_metrics(tmp_path) == [] and len(said) == 11
    for claims in (nested, "[]", "5", '{"earlier": {"a": 1}}', '{"earlier": [1]}', '{"earlier": "x"}', "", "\ud800"):
        (tmp_path / "provenance.json").write_bytes(claims.encode("utf-8", "surrogatepass"))
        with pytest.warns(UserWarning, match="provenance.json is damaged"):
            assert earlier_sessions(tmp_path, 5) == []


def test_one_damaged_line_of_a_log_is_one_line_lost(tmp_path):
    lines = [json.dumps({"nimg": n}) for n in range(5)]
    lines[1] = '{"nimg": 1'
    lines[2] = "5"
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"nimg": \xff')
    with pytest.warns(UserWarning, match="line [23] is damaged and left out"):
        rows = read_metrics(tmp_path)
    assert [row["nimg"] for row in rows] == [0, 3, 4]


def test_a_refused_start_leaves_what_was_there(tmp_path, images):
    "Nothing that the run itself made, no folder above it either; files of others and of earlier runs stay."
    (tmp_path / "note.pt").write_text("no network")
    refused = {"init_from": str(tmp_path / "note.pt")}
    with pytest.raises(ValueError, match="note.pt"):
        train(override(config(tmp_path / "new/deep/run", images), **refused), progress=False)
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine"
    (mine / "samples").mkdir(parents=True)
    for name in ("config.json", "notes.txt", "samples/a.png"):
        (mine / name).write_text("mine")
    with pytest.raises(ValueError, match="note.pt"):
        train(override(config(mine, images), **refused), progress=False)
    assert sorted(str(p.relative_to(mine)) for p in mine.rglob("*")) == [
        "config.json",
        "notes.txt",
        "samples",
        "samples/a.png",
    ]
    run = train(config(tmp_path / "run", images), progress=False)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "messages.txt"}
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(override(config(run, images), seed=5), progress=False)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
