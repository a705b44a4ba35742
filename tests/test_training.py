"Runs as a whole: exact resume, branches, several processes, signals, and what happens when something is wrong."

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr_nb.data import DataError
from hsr_nb.interop import CheckpointError, load_checkpoint, load_generator
from hsr_nb.interop.checkpoint import checkpoints
from hsr_nb.interop.safetensors import save_safetensors
from hsr_nb.training import TrainingFailed, override, preset, read_metrics, train
from hsr_nb.training.run import sample_sheet
from hsr_nb.training.state import build_state, flatten, restore

SMALL = {
    "data.path": "digits",
    "data.resolution": 32,
    "net.channel_max": 16,
    "net.z_dim": 16,
    "net.w_dim": 16,
    "batch": 8,
    "hsr.head_hidden": 32,
    "hsr.start_kimg": 0.016,
    "hsr.interval": 2,
    "tick_kimg": 0.032,
    "snapshot_kimg": 1000,
    "kimg": 0.064,
    "device": "cpu",
}


def config(folder, **changes):
    return override(preset("tiny32"), **SMALL | {"run_dir": str(folder)} | changes)


def run(cfg):
    return train(cfg, progress=False)


def state_of(folder):
    return load_checkpoint(folder)[0]


def same(a, b, prefixes=("",)):
    keys = [k for k in a if k.startswith(prefixes)]
    assert keys == [k for k in b if k.startswith(prefixes)]
    wrong = [k for k in keys if not torch.equal(a[k], b[k])]
    assert not wrong, f"{len(wrong)} of {len(keys)} tensors differ, first {wrong[0]}"


TRAIN = """
import json
import sys

from hsr_nb.training import config_from_dict, train

train(config_from_dict(json.loads(sys.argv[1])), progress=False)
"""


def spawn(cfg, **kw):
    "Train in a process of its own."
    command = [sys.executable, "-c", TRAIN, json.dumps(cfg.to_dict())]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **kw)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "An uninterrupted run of 8 + 8 steps with HSR and labels."
    return run(config(tmp_path_factory.mktemp("whole") / "run", kimg=0.128, **{"data.labels": True}))


def test_resume_equals_uninterrupted(whole, tmp_path):
    cfg = config(tmp_path / "run", **{"data.labels": True})
    run(cfg)
    run(override(cfg, kimg=0.128))
    same(state_of(whole), state_of(tmp_path / "run"))

    def drop(r):
        return {k: v for k, v in r.items() if not k.startswith("sec")}

    assert [drop(r) for r in read_metrics(whole)] == [drop(r) for r in read_metrics(tmp_path / "run")]


@pytest.mark.parametrize("saving", ("loss.reuse_fakes", "net.cpu_bfloat16"))
def test_savings_resume_exactly_and_are_off_by_default(saving, tmp_path):
    "The pictures of a step are no state, and what is kept of networks in bfloat16 is float32."
    plain = config(tmp_path / "plain", kimg=0.032, **{"hsr.teacher": "none"})
    run(plain)
    off = override(plain, run_dir=str(tmp_path / "off"), **{saving: False})
    run(off)
    same(state_of(tmp_path / "plain"), state_of(tmp_path / "off"))
    on = override(plain, run_dir=str(tmp_path / "on"), **{saving: True})
    run(on)
    pieces = override(on, run_dir=str(tmp_path / "pieces"), kimg=0.016)
    run(pieces)
    run(override(pieces, kimg=0.032))
    whole, resumed = state_of(tmp_path / "on"), state_of(tmp_path / "pieces")
    same(whole, resumed)
    assert all(v.dtype == torch.float32 for v in whole.values())
    assert not torch.equal(
        whole["G_ema.synthesis.b8.conv0.weight"], state_of(tmp_path / "off")["G_ema.synthesis.b8.conv0.weight"]
    )
    image = load_generator(tmp_path / "on")(torch.zeros(1, 16), torch.zeros(1, 0), noise_mode="const")
    assert image.dtype == torch.float32


def test_resume_after_kill(whole, tmp_path):
    "Killed without warning after a checkpoint: what follows the checkpoint is lost, nothing else."
    cfg = config(tmp_path / "run", kimg=1000, snapshot_kimg=0.064, **{"data.labels": True})
    p = spawn(cfg)
    while not checkpoints(tmp_path / "run"):
        assert p.poll() is None, p.stderr.read()
        time.sleep(0.02)
    p.kill()
    p.wait()
    p.stderr.close()
    for extra in checkpoints(tmp_path / "run")[1:]:
        extra.unlink()
    run(override(cfg, kimg=0.128, snapshot_kimg=1000))
    same(state_of(whole), state_of(tmp_path / "run"))
    assert [r["nimg"] for r in read_metrics(tmp_path / "run")] == [32, 64, 96, 128]


def test_sigterm_saves_and_leaves(whole, tmp_path):
    cfg = config(tmp_path / "run", kimg=1000, **{"data.labels": True})
    p = spawn(cfg)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert p.poll() is None, p.stderr.read()
        time.sleep(0.02)
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 143
    p.stderr.close()
    stopped = load_checkpoint(tmp_path / "run")[1]["count"]["nimg"]
    assert stopped < 100_000
    if stopped < 128:
        run(override(cfg, kimg=0.128))
        same(state_of(whole), state_of(tmp_path / "run"))


def test_everything_is_in_the_checkpoint(whole):
    tensors, meta = load_checkpoint(whole)
    assert {k.split(".")[0] for k in tensors} == {"G", "D", "G_ema", "hsr", "opt_G", "opt_D", "pl_mean"}
    assert any(k.startswith("opt_G.hsr.heads") for k in tensors) and any(k.startswith("hsr.heads_ema") for k in tensors)
    assert tensors["pl_mean"] > 0 and meta["count"]["nimg"] == 128 and meta["teacher"]["name"] == "synthfaces-tiny"
    assert not any(k.startswith("G") and "head" in k for k in tensors)
    prov = json.loads((whole / "provenance.json").read_text())
    assert {"git", "versions", "device", "data", "seed"} <= prov.keys()
    assert {"sha256", "resize_filter"} <= prov["data"].keys()


def test_stripped_export_gives_identical_images(whole, tmp_path):
    tensors, meta = load_checkpoint(whole)
    averaged = {k: v for k, v in tensors.items() if k.startswith("G_ema.")}
    save_safetensors(tmp_path / "G.safetensors", averaged, {"G": meta["G"]})

    def sheet(path):
        return sample_sheet(load_generator(path), 0, lambda i: torch.eye(10)[i % 10], 10)

    assert torch.equal(sheet(whole), sheet(tmp_path / "G.safetensors"))


def test_weight_zero_is_the_baseline_bit_for_bit(tmp_path):
    run(config(tmp_path / "none", **{"hsr.teacher": "none"}))
    run(config(tmp_path / "zero", **{"hsr.weight": 0.0}))
    a, b = state_of(tmp_path / "none"), state_of(tmp_path / "zero")
    same(a, {k: b[k] for k in a})


def test_hsr_changes_the_generator(tmp_path):
    run(config(tmp_path / "none", **{"hsr.teacher": "none"}))
    run(config(tmp_path / "hsr"))
    a, b = state_of(tmp_path / "none"), state_of(tmp_path / "hsr")
    assert not torch.equal(a["G.synthesis.b8.conv1.weight"], b["G.synthesis.b8.conv1.weight"])
    assert any("loss/hsr8" in r for r in read_metrics(tmp_path / "hsr"))
    assert not any("loss/hsr8" in r for r in read_metrics(tmp_path / "none"))


def test_branch_adds_heads_and_keeps_everything_else(tmp_path):
    run(config(tmp_path / "base", **{"hsr.teacher": "none"}))
    cfg = config(tmp_path / "arm", init_from=str(tmp_path / "base"), init_mode="branch", kimg=0.128)
    s = build_state(cfg, (1, 32, 32))
    fresh = {k: v.clone() for k, v in flatten(s).items() if k.startswith("hsr.")}
    restore(s, tmp_path / "base", heads_may_differ=True)
    base, arm = state_of(tmp_path / "base"), flatten(s)
    same(base, {k: arm[k] for k in base})
    assert all(torch.equal(fresh[k], arm[k]) for k in fresh) and s.count["nimg"] == 64
    heads = [k for k in arm if k.startswith("hsr.heads.")]
    assert heads and all(torch.equal(arm[k], arm[k.replace("heads.", "heads_ema.")]) for k in heads)
    run(cfg)
    assert load_checkpoint(tmp_path / "arm")[1]["count"]["nimg"] == 128
    off = {"init_from": str(tmp_path / "arm"), "init_mode": "branch", "hsr.teacher": "none"}
    run(config(tmp_path / "off", kimg=0.16, **off))
    assert not any(k.startswith("hsr") or ".hsr." in k for k in state_of(tmp_path / "off"))


def test_branch_arm_equals_its_baseline_when_nothing_changes(tmp_path):
    base = run(config(tmp_path / "base", **{"hsr.teacher": "none"}))
    run(config(tmp_path / "arm", init_from=str(base), init_mode="branch", kimg=0.128, **{"hsr.teacher": "none"}))
    run(config(tmp_path / "base", kimg=0.128, **{"hsr.teacher": "none"}))
    same(state_of(base), state_of(tmp_path / "arm"))


def test_transfer_takes_networks_only(tmp_path):
    base = run(config(tmp_path / "base", **{"hsr.teacher": "none"}))
    arm = run(config(tmp_path / "arm", init_from=str(base), kimg=0.008, **{"hsr.teacher": "none"}))
    meta = load_checkpoint(arm)[1]
    assert meta["count"] == meta["count"] | {"nimg": 8, "step": 1}
    with pytest.raises(CheckpointError, match="shape"):
        run(config(tmp_path / "bad", init_from=str(base), **{"hsr.teacher": "none", "net.channel_max": 8}))


CONSTANT_NOISE = """
import functools
import json
import sys

import hsr_nb.training.begin as b
import hsr_nb.training.run as r
from hsr_nb.training import config_from_dict

build = b.build_state


def const(*args):
    s = build(*args)
    s.G.synthesis.forward = functools.partial(s.G.synthesis.forward, noise_mode="const")
    return s


b.build_state = const
r.train(config_from_dict(json.load(open(sys.argv[1]))), progress=False)
"""


def torchrun(cfg, n=2):
    "The configuration on n gloo processes, constant noise (per-part noise is drawn per process)."
    folder = Path(cfg.run_dir).parent
    script, conf = folder / f"t{n}.py", folder / f"c{n}.json"
    script.write_text(CONSTANT_NOISE)
    conf.write_text(json.dumps(cfg.to_dict()))
    command = [sys.executable]
    if n > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
    command += [str(script), str(conf)]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("reuse", (False, True))
def test_two_processes_equal_one(reuse, tmp_path):
    "Penalties, HSR, mixing, minibatch-std and augmentation included; only rounding may differ."
    common = {
        "loss.reuse_fakes": reuse,
        "augment.kind": "ada",
        "augment.groups": "bgcfnc",
        "augment.target": 0.05,
        "augment.ada_kimg": 0.02,
        "augment.interval": 1,
        "data.labels": True,
        "kimg": 0.024,
        "loss.pl_interval": 1,
        "loss.r1_interval": 2,
        "hsr.start_kimg": 0.0,
        "hsr.interval": 1,
        "opt.g_lr": 0.001,
        "opt.d_lr": 0.001,
    }  # Adam turns the rounding of a vanishing gradient into a step of this size
    for n in (1, 2):
        torchrun(config(tmp_path / f"p{n}", **common), n)
    a, b = state_of(tmp_path / "p1"), state_of(tmp_path / "p2")
    assert a["augment.p"] > 0
    gap = {k: ((a[k] - b[k]).norm() / a[k].norm().clamp(min=1e-2)).item() for k in a if not k.startswith("opt")}
    assert max(gap.values()) < 1e-3, max(gap.items(), key=lambda kv: kv[1])
    for x, y in zip(*(read_metrics(tmp_path / f"p{n}") for n in (1, 2))):
        assert all(abs(x[k] - y[k]) < 1e-3 * max(1, abs(x[k])) for k in x if not k.startswith("sec"))
    assert json.loads((tmp_path / "p2" / "provenance.json").read_text())["processes"] == 2


THREADS = """
import atexit
import os
import pathlib

import torch
import torch.distributed as dist

note = pathlib.Path(__file__).with_name("rank" + os.environ["RANK"])


def threads():
    return sorted(p.read_text().strip() for p in pathlib.Path("/proc/self/task").glob("*/comm"))


# what is registered before `join` runs after its leaving
atexit.register(lambda: note.write_text(f"{during} {threads()}"))
from hsr_nb.training.parallel import join

procs, _ = join("cpu")
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
procs.wait()
during = threads()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are named in /proc")
def test_processes_leave_their_group_before_they_end(tmp_path):
    "Gloo's threads, if they still run then, abort a finished process now and then."
    (tmp_path / "t.py").write_text(THREADS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, str(tmp_path / "t.py")], check=True, timeout=120)
    for r in range(2):
        during, after = (tmp_path / f"rank{r}").read_text().split("] ")
        assert "gloo" in during and "gloo" not in after


def test_a_smaller_budget_and_a_second_session(tmp_path):
    "A run that has enough is left alone; what earlier sessions were is kept."
    cfg = config(tmp_path / "run", kimg=0.032, **{"hsr.teacher": "none"})
    run(cfg)
    before = state_of(tmp_path / "run")
    run(override(cfg, kimg=0.008))
    same(before, state_of(tmp_path / "run"))
    (earlier,) = json.loads((tmp_path / "run" / "provenance.json").read_text())["earlier"]
    assert earlier["until_nimg"] == 32 and earlier["device"]


def test_a_transfer_resumes_as_a_transfer(tmp_path):
    "Its averages have no ramp-up; going on without saying where it came from is refused."
    run(config(tmp_path / "a", kimg=0.016, **{"hsr.teacher": "none"}))
    cfg = config(tmp_path / "b", kimg=0.016, **{"hsr.teacher": "none", "init_from": str(tmp_path / "a")})
    run(cfg)
    with pytest.raises(CheckpointError, match="init_from was"):
        run(override(cfg, kimg=0.032, init_from=None))
    run(override(cfg, kimg=0.032))


def test_workers_and_mirror_keep_the_order(tmp_path):
    for w in (0, 1):
        run(config(tmp_path / f"w{w}", kimg=0.032, **{"data.workers": w, "data.mirror": True, "hsr.teacher": "none"}))
    same(state_of(tmp_path / "w0"), state_of(tmp_path / "w1"))


def make_folder(path, n=12, size=(32, 32)):
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path / f"{i:03d}.png")
    return path


def test_a_folder_of_images_and_wide_ones(tmp_path):
    square = {"data.path": str(make_folder(tmp_path / "imgs")), "data.resolution": None}
    run(config(tmp_path / "run", kimg=0.016, **square))
    images = make_folder(tmp_path / "wide", size=(32, 48))
    wide = {"data.path": str(images), "data.resolution": None, "net.base_size": [4, 6], "hsr.teacher": "none"}
    assert load_generator(run(config(tmp_path / "wrun", kimg=0.016, **wide))).img_size == (32, 48)


BAD = {
    "fewer images than a batch": ({"batch": 4096}, "fewer than one batch of 4096"),
    "no such path": ({"data.path": "no/such/folder"}, "no/such/folder"),
    "no power of two": ({"data.resolution": 24}, "24"),
    "unknown teacher": ({"hsr.teacher": "no_such_net"}, "no_such_net"),
    "labels that are not there": ({"data.path": "FOLDER", "data.labels": True, "data.resolution": None}, "label"),
    "missing source": ({"init_from": "no/such/run"}, "no/such/run"),
    "batch_gpu": ({"batch_gpu": 3}, "batch_gpu 3"),
    "an interval of nothing": ({"hsr.interval": 0}, "hsr.interval must be greater than 0, found 0"),
    "a negative budget": ({"kimg": -1.0}, "kimg must be greater than 0, found -1.0"),
    "minibatch-std groups of nothing": ({"net.mbstd_group": 0}, "net.mbstd_group must be greater than 0, found 0"),
    "no part of the batch": ({"loss.pl_batch_shrink": 0}, "loss.pl_batch_shrink must be greater than 0"),
    "missing tap": ({"hsr.taps": [8, 64]}, "64"),
    "unknown augmentation": ({"augment.kind": "strong"}, "augment.kind must be none, ada or diffaugment"),
    "unknown group": ({"augment.kind": "ada", "augment.groups": "bgd"}, "unknown augmentation 'bgd'"),
    "unknown policy": ({"augment.kind": "diffaugment", "augment.policy": "color,flip"}, "unknown step 'flip'"),
    "a target of certainty": ({"augment.kind": "ada", "augment.target": 1.0}, "augment.target"),
    "a target of nothing": ({"augment.kind": "ada", "augment.target": 0.0}, "augment.target"),
    "no time for p": ({"augment.kind": "ada", "augment.ada_kimg": 0.0}, "augment.ada_kimg"),
    "a negative probability": ({"augment.kind": "ada", "augment.p": -0.5}, "probability p"),
    "more frozen than there is": ({"net.freeze_d": 11}, "has 0 to 10 convolutions that can be frozen"),
    "fewer frozen than none": ({"net.freeze_d": -1}, "net.freeze_d is -1"),
    "filters wider than pictures": (
        {"augment.kind": "ada", "augment.groups": "bgcf", "data.path": "synthfaces", "data.resolution": 16},
        "at least 22 pixels, found 16x16",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests_are_one_sentence(what, tmp_path):
    change, words = BAD[what]
    folder = make_folder(tmp_path / "imgs")
    cfg = config(tmp_path / "run", **{k: str(folder) if v == "FOLDER" else v for k, v in change.items()})
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        run(cfg)
    lines = str(e.value).strip().splitlines()
    report = isinstance(e.value, DataError) and "problem" in lines[0]  # of a data set: one more line for each bad file
    assert words in str(e.value) and len(lines) == (2 if report else 1)
    assert not checkpoints(tmp_path / "run")


def cli(*args, **kw):
    exe = os.path.join(os.path.dirname(sys.executable), "hsr_train")
    return subprocess.run([exe, *args], capture_output=True, text=True, timeout=120, **kw)


def test_command_line_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("not an image")
    for args, words in (
        (["tiny32", "--data.path", str(tmp_path / "empty")], "empty"),
        (["tiny32", "--data.path", str(tmp_path / "text")], "a.png"),
        (["nope"], "tiny32"),
    ):
        r = cli(*args, "--run-dir", str(tmp_path / "run")) if args != ["nope"] else cli(*args)
        assert r.returncode == 2 and words in r.stderr and "Traceback" not in r.stderr, r.stderr


def test_command_line_help():
    "To stdout, with exit code 0; a preset that does not exist is named together with those that do."
    for args, words in ((["--help"], "usage: hsr_train PRESET"), (["tiny32", "--help"], "--hsr.weight")):
        r = cli(*args)
        assert r.returncode == 0 and words in r.stdout and not r.stderr, r.stderr
    for args, words in ((["tiny23"], "unknown preset 'tiny23'"), ([], "which preset?")):
        r = cli(*args)
        assert r.returncode == 2 and not r.stdout
        assert r.stderr.startswith(f"hsr_train: {words}") and "tiny32, small64" in r.stderr
        assert len(r.stderr.splitlines()) == 1


def test_command_line_force_and_status(monkeypatch, capsys):
    "--force is no setting; SIGTERM's status passes through."
    from hsr_nb.training import cli, run

    calls = []
    monkeypatch.setattr(cli, "train", lambda cfg, force: calls.append((cfg, force)) or "the folder")
    for args in (["tiny32", "--kimg", "4"], ["tiny32", "--force", "--kimg", "4"]):
        monkeypatch.setattr(sys, "argv", ["hsr_train", *args])
        assert cli.main() == 0
    assert calls[0][0] == calls[1][0] and calls[0][0].kimg == 4
    assert [force for _, force in calls] == [False, True]
    assert "the folder" in capsys.readouterr().out
    for error, status in (
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (TrainingFailed("loss/G became nan"), 2),
        (torch.OutOfMemoryError(), 2),
        (ValueError("no"), 2),
    ):

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(cli, "train", fail)
        assert cli.main() == status
    assert capsys.readouterr().err.splitlines() == [
        "hsr_train: interrupted; the same command goes on from the last checkpoint",
        "hsr_train: loss/G became nan",
        "hsr_train: not enough GPU memory; a smaller --batch-gpu may help",
        "hsr_train: no",
    ]

    def stop(*_, **__):
        raise run.Stopped()

    monkeypatch.setattr(cli, "train", stop)
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 143


def test_read_only_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    r = cli("tiny32", "--data.path", "digits", "--hsr.teacher", "none", "--run-dir", str(tmp_path / "file" / "run"))
    assert r.returncode == 2 and "cannot write to the run folder" in r.stderr and "Traceback" not in r.stderr, r.stderr
    if os.geteuid():
        (tmp_path / "ro").mkdir(mode=0o500)
        r = cli("tiny32", "--data.path", "digits", "--hsr.teacher", "none", "--run-dir", str(tmp_path / "ro" / "run"))
        assert r.returncode == 2 and "cannot write to the run folder" in r.stderr, r.stderr


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    "A file that may not grow stands for a full disk: the write fails half-way."
    cfg = config(tmp_path / "run")
    run(cfg)
    before = checkpoints(cfg.run_dir)[0].read_bytes()

    def limit():
        half = len(before) // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))

    p = spawn(override(cfg, kimg=0.128), preexec_fn=limit)
    _, err = p.communicate(timeout=120)
    assert p.returncode != 0 and "cannot write" in err.strip().splitlines()[-1], err
    assert [c.read_bytes() for c in checkpoints(cfg.run_dir)] == [before]
    assert [f.suffix for f in (tmp_path / "run" / "checkpoints").iterdir()] == [".safetensors"]


def test_not_finite_stops_with_the_cause(tmp_path):
    cfg = config(tmp_path / "run", **{"hsr.teacher": "none"})
    run(cfg)
    tensors, meta = load_checkpoint(cfg.run_dir)
    tensors["D.b4.out.bias"].fill_(float("nan"))
    bad = save_safetensors(tmp_path / "bad.safetensors", tensors, meta)
    with pytest.raises(TrainingFailed, match="loss/G became nan"):
        run(config(tmp_path / "next", init_from=str(bad), init_mode="branch", kimg=1, **{"hsr.teacher": "none"}))
    assert not checkpoints(tmp_path / "next")


def test_another_configuration_is_refused(whole, tmp_path):
    with pytest.raises(CheckpointError, match="loss.r1_gamma was 1.0, now 3.0"):
        run(config(whole, kimg=0.128, **{"data.labels": True, "loss.r1_gamma": 3.0}))
    with pytest.raises(CheckpointError, match="data.labels was True, now False"):
        run(config(whole))


def papermill(tmp_path, **params):
    command = [sys.executable, "-m", "papermill", "-k", "python3"]
    command += ["nbs/experiments/train.ipynb", str(tmp_path / "out.ipynb")]
    for name, value in {"run_dir": tmp_path / "run", "kimg": 0.064, "batch": 8, "device": "cpu", **params}.items():
        command += ["-p", name, str(value)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)


def test_notebook_on_digits(tmp_path):
    r = papermill(tmp_path, data="digits", hsr_start_kimg=0)
    assert r.returncode == 0, r.stderr[-2000:]
    assert (tmp_path / "run" / "samples" / "grid.png").exists() and (tmp_path / "run" / "curves.png").exists()
    assert (tmp_path / "run" / "samples" / "film.gif").read_bytes()[:6] == b"GIF89a"


def test_notebook_on_a_folder(tmp_path):
    r = papermill(tmp_path, data=make_folder(tmp_path / "imgs"), hsr_start_kimg=0)
    assert r.returncode == 0, r.stderr[-2000:]
    assert load_generator(tmp_path / "run").img_size == (32, 32)


def test_notebook_refuses_unknown_parameters(tmp_path):
    r = papermill(tmp_path, data="digits", hsr_wieght=1)
    assert (
        r.returncode == 1
        and "no parameter hsr_wieght on this page: did you mean hsr_weight?" in r.stderr
        and not (tmp_path / "run").exists()
    )
