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
