"A run says what it is about, shows life, can be left between two phases, and speaks with one voice."

import contextlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr_nb.base import shell, signals
from hsr_nb.base.shell import bar, busy
from hsr_nb.commands import front
from hsr_nb.data import DataError
from hsr_nb.interop import load_checkpoint, load_generator
from hsr_nb.interop.checkpoint import checkpoints
from hsr_nb.interop.convert import convert_checkpoint
from hsr_nb.training import begin as begin_module
from hsr_nb.training import outlook as outlook_module
from hsr_nb.training import override, preset, train
from hsr_nb.training import run as run_module
from hsr_nb.training.checks import differences, kept_settings, open_data
from hsr_nb.training.cli import parse
from hsr_nb.training.parallel import Processes
from hsr_nb.training.watch import Stopped, Watch

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "data.path": "digits",
    "data.resolution": 16,
    "net.channel_max": 8,
    "net.z_dim": 8,
    "net.w_dim": 8,
    "net.mbstd_group": 4,
    "batch": 8,
    "hsr.head_hidden": 8,
    "hsr.start_kimg": 0.008,
    "hsr.head_init": "prefit",
    "hsr.target_norm": "standardised",
    "hsr.prefit_kimg": 0.024,
    "hsr.norm_kimg": 0.064,
    "hsr.interval": 1,
    "loss.pl_interval": 2,
    "loss.r1_interval": 2,
    "tick_kimg": 0.016,
    "kimg": 0.032,
    "device": "cpu",
}


def config(folder, **changes):
    return override(preset("tiny32"), **SMALL | {"run_dir": str(folder)} | changes)


def state(folder):
    tensors, meta = load_checkpoint(folder)
    return tensors, meta["count"] | {"seconds": 0}


def stopping_at(monkeypatch, number):
    "SIGTERM when the so-manieth phase of a session begins."
    calls = []
    begins = Watch.__call__

    def told(self, phase, share=None):
        calls.append(phase)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        begins(self, phase)

    monkeypatch.setattr(Watch, "__call__", told)
    monkeypatch.setattr(Watch, "heavy", True)  # light steps are finished instead
    return calls


def test_a_run_that_is_left_between_phases_again_and_again_is_the_same_run(tmp_path, monkeypatch):
    whole = train(config(tmp_path / "whole"), progress=False)
    left = config(tmp_path / "left")
    seen: list[list[str]] = []
    for number in itertools.chain((1, 2, 4), itertools.cycle((2, 5))):
        with monkeypatch.context() as m:
            seen.append(stopping_at(m, number))
            try:
                train(left, progress=False)
                break
            except Stopped as e:
                assert e.code == 143
    assert len(seen) > 6
    assert seen[:2] == [["g_main"], ["g_main", "g_path_length"]] and seen[2][0] == "g_path_length"
    assert any("fit_heads" in calls for calls in seen)
    (a, counted), (b, also) = state(whole), state(left.run_dir)
    assert counted == also and "phases" not in also
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert {p.stem for p in checkpoints(left.run_dir)} >= {"000000000", "000000032"}


def test_nothing_is_written_where_nothing_was_done(tmp_path, monkeypatch):
    stopping_at(monkeypatch, 1)
    with pytest.raises(Stopped):
        train(config(tmp_path / "run"), progress=False)
    assert checkpoints(tmp_path / "run") == []


def test_sigterm_before_the_first_step_ends_at_once(tmp_path, monkeypatch):
    def forever(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    for name in ("open_data", "build_state", "measure_targets", "Scores"):
        with monkeypatch.context() as m:
            m.setattr(begin_module if hasattr(begin_module, name) else run_module, name, forever)
            began = time.monotonic()
            with pytest.raises(Stopped):
                train(config(tmp_path / name), progress=False)
            assert time.monotonic() - began < 30
        assert signal.getsignal(signal.SIGTERM) is before and checkpoints(tmp_path / name) == []


def test_a_sheet_that_there_was_no_time_for_is_drawn_later(tmp_path):
    cfg = config(tmp_path / "run", kimg=0.016, **{"hsr.teacher": "none"})
    train(cfg, progress=False)
    sheet = tmp_path / "run/samples/fakes000000016.png"
    content = sheet.read_bytes()
    sheet.unlink()
    train(override(cfg, kimg=0.032), progress=False)
    assert sheet.read_bytes() == content


def test_three_lines_before_a_run(tmp_path, capsys, monkeypatch):
    train(config(tmp_path / "a", kimg=0.016, **{"hsr.teacher": "none"}))
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(r"cpu \(\d+ threads?\), [\d.]+ GiB of memory; digits: \d+ images, 16x16 .*grey\n", said.err)
    assert re.search(r"G [\d.]+ M and D [\d.]+ M parameters; without HSR: --hsr.teacher synthfaces-tiny", said.err)
    assert re.search(r"about [\d.]+ \S+ a step of 8 images(: .* to 0.016 kimg)?, with [\d.]+ GiB of memory", said.err)
    monkeypatch.setattr(outlook_module, "machine_memory", lambda device: 2**20)
    train(config(tmp_path / "b", kimg=0.016))
    said = capsys.readouterr()
    assert "HSR every step from 0.008 kimg, teacher synthfaces-tiny" in said.err
    assert "that is nearly all there is: --batch-gpu 4 takes less" in said.err
    train(config(tmp_path / "c", kimg=0.016), progress=False)
    assert capsys.readouterr().err == ""


def test_a_long_phase_shows_life(tmp_path, capsys, monkeypatch):
    "The first step takes long here: it says so while it lasts."
    slow = run_module.train_step

    def slower(step, rampup):
        step.watch("d_main")
        time.sleep(0.6)
        slow(step, rampup)

    monkeypatch.setattr(run_module, "train_step", slower)
    monkeypatch.setattr("hsr_nb.training.watch.SLOW", 0.2)
    monkeypatch.setattr("hsr_nb.training.watch.QUIET", 0.1)
    train(config(tmp_path / "run", kimg=0.008, **{"hsr.teacher": "none"}))
    assert re.search(r"discriminator for \d s", capsys.readouterr().err)


def echo(numbers, wait):
    "Signals as bytes of the pipe, and what they end."
    reading, writing = os.pipe()
    ended = []
    thread = threading.Thread(target=signals._read, args=(reading, ended.append))
    thread.start()
    for number in numbers:
        os.write(writing, bytes([number]))
        time.sleep(wait)
    os.close(writing)
    thread.join()
    return ended


def test_a_second_signal_ends_and_an_echo_has_time(monkeypatch):
    monkeypatch.setattr(signals, "ECHO", 0.2)
    assert echo([signal.SIGTERM, signal.SIGTERM], 0.3) == [signal.SIGTERM]
    assert echo([signal.SIGINT, signal.SIGTERM], 0.3) == [signal.SIGTERM]
    assert echo([signal.SIGTERM, signal.SIGCHLD], 0.3) == []
    assert echo([signal.SIGTERM, signal.SIGTERM], 0.01) == []  # at least not at once
    monkeypatch.setattr(signals, "GRACE", 0.1)
    assert echo([signal.SIGTERM, signal.SIGTERM], 0.19) == [signal.SIGTERM]


def test_another_wakeup_is_left_alone():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        with signals.two_end_it():
            assert signal.set_wakeup_fd(writing, warn_on_full_buffer=False) == writing
    finally:
        assert signal.set_wakeup_fd(-1) == writing
        os.close(reading)
        os.close(writing)
    with signals.two_end_it():
        pass
    assert signal.set_wakeup_fd(-1) == -1


def photographs(folder, n=8, left_out=0):
    folder.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for i in range(left_out):
        (folder / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    return folder


def test_a_set_that_is_not_read_whole_is_allowed_by_its_option(tmp_path):
    photos = photographs(tmp_path / "photos", left_out=3)
    words = ["tiny32", "--data.path", str(photos), "--data.resolution", "16", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(DataError, match=r"3 left out.*HEIC") as e:
        open_data(parse(words), Processes())
    assert "--data.allow-partial" in str(e.value)
    with pytest.warns(UserWarning, match="3 left out"):
        assert len(open_data(parse([*words, "--data.allow-partial"]), Processes())) == 8


def test_auto_goes_on_with_other_processes_as_its_sentence_says(monkeypatch):
    begun = {"config": parse(["auto", "--data.resolution", "32"]).to_dict()}
    monkeypatch.setenv("WORLD_SIZE", "2")
    now = parse(["auto", "--data.resolution", "32"])
    said = kept_settings(begun, now, 2)
    assert "`auto` takes batch" in said and "number of processes, now 2" in said
    options = re.search(r"now 2: (--.*) goes on", said)[1].split()
    assert {"--batch", "--loss.r1-gamma", "--opt.ema-kimg"} <= set(options)
    kept = parse(["auto", "--data.resolution", "32", *options])
    assert differences(begun, kept, {}, None) == [] and kept_settings(begun, kept, 2) == ""
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert kept_settings(begun, parse(["auto", "--data.resolution", "32", "--batch", "16"]), 1) == ""


def together(tmp_path, *words, world=2):
    "hsr_train in several processes: exit codes, and what all of them said."
    port = str(20000 + os.getpid() % 20000)
    code = "import sys; from hsr_nb.commands.front import hsr_train; sys.exit(hsr_train())"
    started = []
    for rank in range(world):
        env = os.environ | {
            "PYTHONPATH": str(ROOT),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-c", code, *words]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, **pipes))
    said = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], "".join(out for out, _ in said), "".join(err for _, err in said)


def test_several_processes_say_each_thing_once(tmp_path):
    photos = photographs(tmp_path / "photos", 64, left_out=1)
    size = ["--data.path", photos.name, "--data.resolution", "16", "--net.channel-base", "64", "--net.channel-max", "4"]
    words = ["auto", *size, "--net.z-dim", "4", "--net.w-dim", "4", "--device", "cpu", "--run-dir", "run"]
    codes, out, err = together(tmp_path, "auto", "--kimgs", "3")
    assert codes == [2, 2] and out == "" and err.count("--kimgs") == 1
    codes, out, err = together(tmp_path, *words)
    assert codes == [2, 2] and out == "" and "Traceback" not in err
    assert err.count("hsr_train: ") == 1 and err.count("1 left out") == 1, err
    words += ["--data.allow-partial", "--kimg", "0.064"]
    codes, out, err = together(tmp_path, *words)
    assert codes == [0, 0] and out == "run\n" and "Traceback" not in err, err
    assert err.count("1 left out") == 1 and err.count("images, 16x16") == 1 and err.count("a step of") == 1
    env = {name: v for name, v in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    code = "import sys; from hsr_nb.commands.front import hsr_train; sys.exit(hsr_train())"
    command = [sys.executable, "-c", code, *words]
    pipes = dict(capture_output=True, text=True)
    alone = subprocess.run(command, cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)}, **pipes)
    assert alone.returncode == 2 and "`auto` takes batch" in alone.stderr and "--batch 64" in alone.stderr


def test_everything_that_takes_long_shows_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bar, "__defaults__", (None, 0.0))
    monkeypatch.setattr(busy.__wrapped__, "__defaults__", (0.01, True))
    monkeypatch.setattr(shell, "QUIET", 0.01)
    small = ["--n", "260", "--reals", "260", "--pairs", "4", "--paths", "2", "--device", "cpu", "--out", str(tmp_path)]
    scores = ["--scores", "fid", "kid", "pr", "ppl", "als"]
    assert front.hsr_eval(["synthfaces-baseline", *scores, *small]) == 0
    said = capsys.readouterr()
    shown = ("real pictures", "pictures drawn", "resamples of fid", "subsets of kid", "balls", "path length", "paths")
    assert [what for what in shown if what not in said.err] == []
    task, *lines = said.out.splitlines()
    assert task == "synthfaces-baseline: measuring fid, kid, pr, ppl, als"
    assert lines[0].startswith("fid[") and len(lines) > 5
    mixing = ["--mix-rows", "1-3", "--mix-cols", "4-6", "--batch", "4", "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert front.hsr_generate(["synthfaces-baseline", *mixing]) == 0
    assert "mixing grid" in capsys.readouterr().err
    convert_checkpoint("synthfaces-baseline", tmp_path / "g.pt2")
    said = capsys.readouterr().err
    assert [what for what in ("tracing the graph", "writing pt2") if what not in said] == []


def test_in_a_file_a_bar_has_lines_of_its_own(tmp_path, monkeypatch):
    "Results are not glued to it where both streams go into one file."
    monkeypatch.setattr(bar, "__defaults__", (None, 0.0))
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as log, contextlib.redirect_stderr(log):
        assert front.hsr_generate(["synthfaces-baseline", "--seeds", "0,2,7,8,9", "--device", "cpu"]) == 0
        assert front.hsr_data(["--source", "out", "--dest", "out.zip"]) == 0
        small = ["--batch", "4", "--net.channel-max", "8", "--kimg", "0.008"]
        assert front.hsr_train(["tiny32", "--data.path", "out.zip", "--hsr.teacher", "None", *small]) == 0
    lines = log.getvalue().splitlines(keepends=True)
    assert all(line.endswith("\n") and "\r" not in line for line in lines)
    assert "out: 5 pictures (seed0000.png, seed0002.png, ..., seed0009.png)\n" in lines
    assert any(line.startswith("out.zip: 5 images, ") for line in lines) and "runs/run\n" in lines
    drawn = [line for line in lines if "%|" in line]
    assert all(sum(what in line for line in drawn) for what in ("pictures: ", "image/s]", " kimg ["))


def test_a_grid_in_batches_is_the_grid():
    from hsr_nb.explore.generate import style_mixing_grid

    G = load_generator("synthfaces-baseline")
    for noise in ("const", "random"):
        one, many = (style_mixing_grid(G, [1, 2], [3, 4], [0, 1], noise_mode=noise, batch=b) for b in (64, 3))
        torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-4)
