"""Sweeps keep finished cells through a kill, lengthen arms, name a failing cell, and use other people's schedulers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("papermill")
pytest.importorskip("distributed")
from hsr_nb.interop.checkpoint import load_checkpoint  # noqa: E402
from hsr_nb.studies.sweep import SweepFailed, main, sweep  # noqa: E402
from hsr_nb.studies.sweep_jobs import SweepConfig, finished, jobs  # noqa: E402
from hsr_nb.studies.sweep_tables import asked, collect, missing, publish, summary  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "net.channel_max": "8",
    "net.z_dim": "8",
    "net.w_dim": "8",
    "batch": "8",
    "net.mbstd_group": "4",
    "data.max_size": "64",
    "tick_kimg": "0.016",
    "hsr.head_hidden": "8",
}
TRAIN = """
from hsr_nb.training import train, override, preset as preset_config
if fail and fail in run_dir: raise RuntimeError("this arm was meant to fail")
cfg = override(preset_config(preset), run_dir=run_dir, seed=seed, kimg=kimg, device=device, **settings)
train(cfg, progress=False)
"""
FID = "fid[synthfaces-attributes-b]"


@pytest.fixture
def ask(tmp_path):
    "A configuration of two arms at a size that takes seconds; `fail`: part of the run folder's name that fails."

    def make(fail="", **changes):
        python = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        parameters = f"run_dir = preset = settings = None\nseed = kimg = 0\ndevice = 'cpu'\nfail = {fail!r}"
        cells = [
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(TRAIN),
        ]
        nbformat.write(nbformat.v4.new_notebook(metadata=python, cells=cells), tmp_path / "train.ipynb")
        given = dict(
            axis="teacher",
            folder=str(tmp_path / "sweep"),
            seeds=(0,),
            baseline_kimg=0.032,
            kimg=0.064,
            n=260,
            pairs=8,
            paths=4,
            settings=TINY,
            notebook=str(tmp_path / "train.ipynb"),
            out=str(tmp_path / "results"),
        )
        return SweepConfig(**given | changes)

    return make


def stamps(cfg):
    "When the runs that are finished were begun, by folder."
    done = [job["run_dir"] for job in jobs(cfg) if finished(job) is not None]
    return {run_dir: Path(run_dir, "config.json").stat().st_mtime_ns for run_dir in done}


def checkpoints(run_dir):
    return sorted(Path(run_dir, "checkpoints").glob("*.safetensors"))


def test_arms_branch_from_their_own_seed_and_finished_cells_are_kept(ask):
    cfg = ask()
    rows = sweep(cfg)
    assert [r["teacher"] for r in rows] == ["none", "synthfaces-tiny"]
    assert all(r["kimg"] == 0.064 and FID in r and r["curve"]["kimg"] for r in rows)
    for job in jobs(cfg):
        _, meta = load_checkpoint(checkpoints(job["run_dir"])[-1])
        trunk = f"{cfg.folder}/seed0/baseline" if "row" in job else None
        assert meta["config"]["init_from"] == trunk

    before = stamps(cfg)
    assert len(before) == 3
    assert sweep(cfg) == rows
    assert stamps(cfg) == before  # nothing was run again
    # a score of another kind is another score, and a run of other settings another run
    assert all(finished(j) is None for j in jobs(ask(n=261)) if "row" in j)
    assert all(finished(j) is None for j in jobs(ask(settings={"loss.r1_gamma": "2"})))

    longer = ask(kimg=0.128)
    assert [r["kimg"] for r in sweep(longer)] == [0.128] * 2
    assert len(list(Path(cfg.folder, "seed0/baseline/checkpoints").iterdir())) == 1
    file = json.loads(publish(longer, collect(longer)).read_text())
    assert file["name"] == "ablation-teacher"
    assert {"seed", "teacher", "kimg"} <= set(file["rows"][0])
    assert missing(longer) == []

    shutil.rmtree(cfg.folder)  # the result file is enough
    assert missing(longer) == []
    assert sweep(longer) == file["rows"]
    assert not Path(cfg.folder).exists()
    assert len(missing(cfg)) == 3  # other settings: not done
    assert len(missing(ask(kimg=0.128, seeds=(0, 1)))) == 3  # another seed: not done
    one_seed = summary(file["rows"], "teacher")[1][FID]["difference"]
    assert one_seed["low"] is None  # no interval


def test_a_failing_arm_is_named_and_the_others_are_kept(ask, capfd):
    told = []
    with pytest.raises(SweepFailed, match=r"1 of 3 runs failed, first .*teacher_synthfaces-tiny: .*meant to fail"):
        sweep(ask(fail="teacher_synthfaces-tiny"), told.append)
    assert [r["teacher"] for r in collect(ask())] == ["none"]
    assert len(told) == 1 and told[0].startswith("seed 0, teacher none: yardstick[")
    table = next(Path(ask().out).glob("ablation-teacher-*.json"))  # was written when its first row came
    assert [r["teacher"] for r in json.loads(table.read_text())["rows"]] == ["none"]
    assert "Traceback" not in capfd.readouterr().err
    assert "meant to fail" in Path(ask().folder, "seed0/teacher_synthfaces-tiny/messages.txt").read_text()
    assert len(sweep(ask())) == 2  # the same sweep, its notebook mended


@pytest.mark.slow
def test_a_killed_sweep_goes_on(ask):
    cfg = ask(kimg=0.512)
    script = "import sys; from hsr_nb.studies.sweep import main; sys.exit(main())"
    size = ["--baseline-kimg", "0.032", "--kimg", "0.512", "--n", "260", "--pairs", "8", "--paths", "4"]
    where = ["--folder", cfg.folder, "--notebook", cfg.notebook, "--out", cfg.out]
    flags = [x for item in TINY.items() for x in item]
    p = subprocess.Popen(
        [sys.executable, "-c", script, "--axis", "teacher", "--seeds", "0", *size, *where, "--settings", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    arms = [j for j in jobs(cfg) if "row" in j]
    until = time.time() + 180
    while not any(finished(j) for j in arms) and time.time() < until and p.poll() is None:
        time.sleep(0.2)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    before = stamps(cfg)
    assert len(before) == 2
    time.sleep(3)  # a kernel notices that its parent is gone
    assert len(sweep(cfg)) == 2
    assert before.items() <= stamps(cfg).items()


@pytest.mark.slow
def test_the_workers_of_another_scheduler(ask):
    from dask.distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        assert len(sweep(ask(scheduler=cluster.scheduler_address))) == 2


def test_wrong_requests_are_one_sentence(capfd):
    for args, words in (
        (["--axis", "colour"], "no axis 'colour'"),
        (["--kimg", "1"], "must be longer than their baseline"),
        (["--seeds", "1", "1"], "given once each"),
        (["--settings", "hsr.colour", "1"], "hsr.colour"),
        (["--notebook", "gone.ipynb", "--out", "None"], "no notebook gone.ipynb (--notebook)"),
    ):
        assert main(args) == 2
        err = capfd.readouterr().err
        assert words in err
        assert "Traceback" not in err
        assert err.count("\n") == 1
    assert main(["--scheduler", "tcp://127.0.0.1:9", "--kimg", "5"]) == 2


def test_shell_page_and_committed_table_ask_for_the_same():
    cells = nbformat.read(ROOT / "nbs/experiments/ablation.ipynb", 4).cells
    page = {}
    exec(next(c.source for c in cells if "parameters" in c.metadata.get("tags", [])), page)
    shell = SweepConfig()
    assert page["results"] == shell.out
    for k, v in vars(shell).items():
        if k in page:
            assert page[k] == (list(v) if isinstance(v, tuple) else v), k
    today = {k: v for k, v in asked(shell).items() if k != "preset_digest"}  # presets may have changed since
    for file in (ROOT / "data/results").glob("ablation-plr-hsr-cpu*.json"):
        then = {k: v for k, v in json.loads(file.read_text())["config"].items() if k != "preset_digest"}
        assert then == today | {"seeds": list(shell.seeds)}


def test_a_sweep_of_other_seeds_keeps_the_rows_of_the_table(tmp_path):
    def rows(seeds):
        return [{"teacher": "none", "seed": seed, "als[judge]": 1.0} for seed in seeds]

    def ask(seeds, **changes):
        return SweepConfig(axis="teacher", seeds=seeds, out=str(tmp_path), **changes)

    def seeds_in(file):
        return [row["seed"] for row in json.loads(file.read_text())["rows"]]

    assert seeds_in(publish(ask((0, 1, 2)), rows((0, 1, 2)))) == [0, 1, 2]
    assert seeds_in(publish(ask((1,)), rows((1,)))) == [0, 1, 2]
    assert seeds_in(publish(ask((5,)), rows((5,)))) == [0, 1, 2, 5]
    assert seeds_in(publish(ask((5,), kimg=30.0), rows((5,)))) == [5]  # measured in another way, so another table
