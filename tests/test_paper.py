"The whole paper in one call, on a budget of minutes."

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_paper_runs_small_from_training_to_figures(tmp_path):
    papermill = pytest.importorskip("papermill")
    before = {file: file.stat().st_mtime_ns for file in (ROOT / "data/results").iterdir()}
    page = papermill.execute_notebook(
        ROOT / "nbs/experiments/paper.ipynb",
        tmp_path / "out.ipynb",
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    said = json.dumps([cell.get("outputs", []) for cell in page.cells])
    for part in ("training", "linearity", "edits", "inversion", "figures"):
        assert f"{part}: " in said
    assert "16 figures" in said and "a smoke run is no result" in said
    assert {file: file.stat().st_mtime_ns for file in (ROOT / "data/results").iterdir()} == before


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(tmp_path):
    "The same call a second time executes nothing; other settings in the same folder are refused, and nothing is lost."
    papermill = pytest.importorskip("papermill")
    few = {"seeds": [0], "baseline_kimg": 0.16, "kimg": 0.32, "n": 60, "pairs": 20, "paths": 8}
    asked = few | {"smoke": False, "parts": ["training", "linearity"], "folder": str(tmp_path / "paper")}

    def said(**changes):
        page = papermill.execute_notebook(
            ROOT / "nbs/experiments/paper.ipynb",
            tmp_path / "out.ipynb",
            asked | changes,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(ROOT),
        )
        return json.dumps([cell.get("outputs", []) for cell in page.cells])

    assert "stands" not in said()
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "paper/runs").rglob("*.safetensors")}
    again = said()
    assert "training: stands" in again and "linearity: stands" in again
    assert {file: file.stat().st_mtime_ns for file in made} == made
    with pytest.raises(papermill.PapermillExecutionError, match="belongs to another run: hsr.weight was 1.0, now 2.0"):
        said(settings={"hsr.weight": 2.0})
    assert {file: file.stat().st_mtime_ns for file in made} == made


def test_an_unknown_part_is_named(tmp_path):
    papermill = pytest.importorskip("papermill")
    with pytest.raises(papermill.PapermillExecutionError, match="no part 'editing'; there are training"):
        papermill.execute_notebook(
            ROOT / "nbs/experiments/paper.ipynb",
            tmp_path / "out.ipynb",
            {"parts": ["editing"]},
            kernel_name="python3",
            progress_bar=False,
            cwd=str(ROOT),
        )
