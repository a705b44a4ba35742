"""Sweeps: finished cells are kept through a kill, arms are lengthened, a failing cell is named, other people's schedulers are used."""

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
from hsr_nb.studies.sweep import (
    SweepConfig,
    SweepFailed,
    asked,
    collect,
    finished,
    jobs,
    main,
    missing,
    publish,
    summary,
    sweep,
)  # noqa: E402

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
train(override(preset_config(preset), run_dir=run_dir, seed=seed, kimg=kimg, device=device, **settings), progress=False)
"""


@pytest.fixture
def ask(tmp_path):
    "A configuration of two arms at a size that takes seconds; `fail`: part of the run folder's name that fails."

    def make(fail="", **changes):
        python = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        nb = nbformat.v4.new_notebook(
            metadata=python,
            cells=[
                nbformat.v4.new_code_cell(
                    f"run_dir = preset = settings = None\nseed = kimg = 0\ndevice = 'cpu'\nfail = {fail!r}",
                    metadata={"tags": ["parameters"]},
                ),
                nbformat.v4.new_code_cell(TRAIN),
            ],
        )
        nbformat.write(nb, tmp_path / "train.ipynb")
        given = dict(
            axis="teacher",
            folder=str(tmp_path / "sweep"),
            seeds=(0,),
            baseline_kimg=0.032,
            kimg=0.064,
            n=120,
            pairs=8,
            paths=4,
            settings=TINY,
            notebook=str(tmp_path / "train.ipynb"),
            out=str(tmp_path / "results"),
        )
        return SweepConfig(**given | changes)

    return make


def stamps(cfg):
    return {
        j["run_dir"]: (Path(j["run_dir"]) / "config.json").stat().st_mtime_ns
        for j in jobs(cfg)
        if finished(j) is not None
    }


def test_arms_branch_from_their_own_seed_and_finished_cells_are_kept(ask):
    cfg = ask()
    rows = sweep(cfg)
    assert [r["teacher"] for r in rows] == ["none", "synthfaces-tiny"] and all(
        r["kimg"] == 0.064 and "fid[synthfaces-attributes]" in r and r["curve"]["kimg"] for r in rows
    )
    for job in jobs(cfg):
        meta = load_checkpoint(sorted(Path(job["run_dir"], "checkpoints").glob("*.safetensors"))[-1])[1]
        assert meta["config"]["init_from"] == (f"{cfg.folder}/seed0/baseline" if "row" in job else None)
    before = stamps(cfg)
    assert len(before) == 3 and sweep(cfg) == rows and stamps(cfg) == before  # nothing was run again
    assert all(finished(j) is None for j in jobs(ask(n=121)) if "row" in j)  # a score of another kind is another score
    assert all(
        finished(j) is None for j in jobs(ask(settings={"loss.r1_gamma": "2"}))
    )  # and a run of other settings another run
    longer = ask(kimg=0.128)
    assert [r["kimg"] for r in sweep(longer)] == [0.128] * 2 and len(
        list(Path(cfg.folder, "seed0/baseline/checkpoints").iterdir())
    ) == 1
    file = json.loads(publish(longer, collect(longer)).read_text())
    assert file["name"] == "ablation-teacher" and {"seed", "teacher", "kimg"} <= set(file["rows"][0])
    assert missing(longer) == []
    shutil.rmtree(cfg.folder)
    assert (
        missing(longer) == [] and sweep(longer) == file["rows"] and not Path(cfg.folder).exists()
    )  # the result file is enough
    assert (
        len(missing(cfg)) == 3 and len(missing(ask(kimg=0.128, seeds=(0, 1)))) == 3
    )  # other settings, another seed: not done
    assert (
        summary(file["rows"], "teacher")[1]["fid[synthfaces-attributes]"]["difference"]["low"] is None
    )  # one seed: no interval


def test_a_failing_arm_is_named_and_the_others_are_kept(ask):
    with pytest.raises(SweepFailed, match=r"1 of 3 runs failed, first .*teacher_synthfaces-tiny: .*meant to fail"):
        sweep(ask(fail="teacher_synthfaces-tiny"))
    assert [r["teacher"] for r in collect(ask())] == ["none"]
    assert len(sweep(ask())) == 2  # the same sweep, its notebook mended


@pytest.mark.slow
def test_a_killed_sweep_goes_on(ask):
    cfg = ask(kimg=0.512)
    flags = [x for k, v in TINY.items() for x in (k, v)]
    command = [
        sys.executable,
        "-c",
        "import sys; from hsr_nb.studies.sweep import main; sys.exit(main())",
        "--axis",
        "teacher",
        "--folder",
        cfg.folder,
        "--seeds",
        "0",
        "--baseline-kimg",
        "0.032",
        "--kimg",
        "0.512",
        "--n",
        "120",
        "--pairs",
        "8",
        "--paths",
        "4",
        "--notebook",
        cfg.notebook,
        "--out",
        cfg.out,
        "--settings",
        *flags,
    ]
    p = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    todo, until = [j for j in jobs(cfg) if "row" in j], time.time() + 180
    while not any(finished(j) for j in todo) and time.time() < until and p.poll() is None:
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
    ):
        assert main(args) == 2
        err = capfd.readouterr().err
        assert words in err and "Traceback" not in err and err.count("\n") == 1
    assert main(["--scheduler", "tcp://127.0.0.1:9", "--kimg", "5"]) == 2


def test_shell_page_and_committed_table_ask_for_the_same():
    cells = nbformat.read(ROOT / "nbs/experiments/ablation.ipynb", 4).cells
    page = {}
    exec(next(c.source for c in cells if "parameters" in c.metadata.get("tags", [])), page)
    shell = SweepConfig()
    assert (
        all(page[k] == (list(v) if isinstance(v, tuple) else v) for k, v in vars(shell).items() if k in page)
        and page["results"] == shell.out
    )
    for file in (ROOT / "data/results").glob("ablation-plr-hsr-cpu*.json"):
        assert json.loads(file.read_text())["config"] == asked(shell) | {"seeds": list(shell.seeds)}
