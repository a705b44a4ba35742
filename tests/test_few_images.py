"The experiment on few images as a whole, at a smoke budget: stopped, gone on with, decided, published, shown."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsr_nb.interop.checkpoint import checkpoints
from hsr_nb.studies.few_images import FewImagesConfig, go_on, known_rows, pilot, plan

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    **{"batch": "4", "net.channel_max": "4", "net.z_dim": "4", "net.w_dim": "4", "hsr.teacher": "none"},
    **{"device": "cpu", "tick_kimg": "0.008", "loss.pl_interval": "2", "augment.target": "0.05"},
}


def small(folder, **changes):
    asked = {
        **{"folder": str(folder / "runs"), "out": str(folder / "results"), "sizes": (6, 8), "seeds": (0, 1)},
        **{"all_seeds": (0,), "kimg": 0.016, "every": 0.008, "session": 0.008, "yardstick": "kid"},
        **{"n": 8, "n_end": 10, "settings": SMALL},
    }
    return FewImagesConfig(**asked | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "Begun without a minute to spend, then done in one go."
    folder = tmp_path_factory.mktemp("few")
    first = go_on(small(folder, minutes=0.0))
    after_nothing = sorted(p.name for p in (folder / "runs").rglob("*.json"))
    said = []
    assert go_on(small(folder), said.append)
    return folder, first, after_nothing, said


def table(folder):
    (file,) = (folder / "results").glob("few-images-*.json")
    return json.loads(file.read_text())


def test_every_run_is_measured_once(done):
    folder, first, after_nothing, said = done
    assert first is False and after_nothing == []
    data = table(folder)
    rows = data["rows"]
    assert len(rows) == len(said) == (2 + 3 * 2 + 3) * 3  # runs, each twice along the way and once at the end
    assert {row["n"] for row in rows} == {8, 10} and {row["pictures"] for row in rows} == {None, 6, 8}
    assert all(("p" in row) == (row["arm"] == "ada") for row in rows)
    scores = {k.split("[")[0] for k in rows[0] if "[" in k}
    assert scores == {"kid", "kid_std", "precision", "recall", "nearest", "nearest_fresh"}
    assert {"D_sign_known", "D_logit_fresh"} <= rows[0].keys()
    kept = checkpoints(folder / "runs" / "none-all-seed0")
    assert [p.stem for p in kept] == ["000000008", "000000016"]  # where it was measured, and no more


def test_the_pilot_decides_and_is_not_reported(done):
    data = table(done[0])
    about = data["config"]
    assert about["pictures"] in (6, 8) and about["arms"]["ada"]["augment.ada_kimg"] == 50
    assert [(v["arm"], v["pictures"]) for v in about["verdicts"]] == [
        ("ada", about["pictures"]),
        ("diffaugment", about["pictures"]),
        ("ada", None),
        ("diffaugment", None),
    ]
    few = [v for v in about["verdicts"] if v["pictures"]]
    assert all(v["seeds"] == [0, 1] for v in few) and all(v["score"].startswith("kid[") for v in about["verdicts"])


def test_nothing_is_done_twice_and_another_yardstick_trains_nothing(done):
    folder = done[0]
    said = []
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.safetensors")}
    assert go_on(small(folder), said.append) and said == []
    other = small(folder, yardstick="fid")
    assert len(list(plan(other))) == 2 and not any(known_rows(cell) for cell in pilot(other))
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.safetensors")}


def test_the_page_shows_the_table_and_what_is_not_there_yet(done, tmp_path):
    for results in (done[0] / "results", tmp_path / "empty"):
        page = tmp_path / f"{results.name}.ipynb"
        command = [sys.executable, "-m", "papermill", "-k", "python3", "nbs/experiments/few_images.ipynb", str(page)]
        command += ["-p", "results", str(results), "-p", "folder", str(done[0] / "runs")]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)})
        cells = json.loads(page.read_text())["cells"]
        shown = json.dumps([cell["outputs"] for cell in cells if cell["cell_type"] == "code"])
        assert ("nothing has been measured yet" in shown) == (results.name == "empty")
        assert ("ada is harmless" in shown) == (results.name == "results")


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "hsr_nb.studies.few_images", "--yardstick", "eye", "--folder", str(tmp_path / "x")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0 and "yardstick, fid, kid" in done.stderr
