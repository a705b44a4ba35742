"Inversions, edits and drags beside what is true, and the pages that show them."

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr_nb.data.synthfaces import FACTOR_NAMES, SynthFaces
from hsr_nb.editing.latents import LatentSet
from hsr_nb.editing.protocol import EVALUATED
from hsr_nb.interop import load_generator
from hsr_nb.inversion.align import mtcnn
from hsr_nb.judges.face_finders import has_mtcnn
from hsr_nb.metrics.likeness import MOST_DB, psnr, ssim
from hsr_nb.nets.seeds import ws_for_seeds
from hsr_nb.studies.counterfactual import balanced, correlations, moved, rows_of, won
from hsr_nb.studies.drag_truth import landing, landmarks, true_wish
from hsr_nb.studies.inversions import Budget, Cell, compared, sentences
from hsr_nb.studies.observers import difference, mean_interval

ROOT = Path(__file__).resolve().parents[1]


SSIM_OF_WAVES = -0.02172105  # of skimage.metrics, with its Gaussian window and biased variances
PSNR_OF_WAVES = 8.66744023


def waves():
    "Two grey pictures of 24 px that formulas make."
    y, x = np.mgrid[:24, :24]
    one = (127.5 + 100 * np.sin(0.7 * x + 0.3 * y)).astype(np.uint8)
    two = (127.5 + 90 * np.cos(0.5 * x - 0.2 * y)).astype(np.uint8)
    return torch.from_numpy(one)[None, None], torch.from_numpy(two)[None, None]


def test_likeness_is_that_of_scikit_image():
    one, two = waves()
    assert float(ssim(one, two)) == pytest.approx(SSIM_OF_WAVES, abs=1e-5)
    assert float(psnr(one, two)) == pytest.approx(PSNR_OF_WAVES, abs=1e-4)
    assert float(ssim(one, one)) == pytest.approx(1, abs=1e-6) and float(psnr(two, two)) == MOST_DB
    floats = one.float() / 127.5 - 1
    assert float(ssim(floats, two.float() / 127.5 - 1)) == pytest.approx(SSIM_OF_WAVES, abs=1e-4)
    with pytest.raises(ValueError, match="window of 11 px"):
        ssim(one[..., :8], two[..., :8])


def test_intervals_leave_out_what_is_no_number():
    assert mean_interval([1.0, float("nan"), 3.0])["n"] == 2
    assert mean_interval([2.0]) == {"n": 1, "mean": 2.0, "low": None, "high": None}
    assert difference([1.0, 5.0], [0.0, 4.0]) == {"n": 2, "mean": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("attribute", EVALUATED)
def test_a_counterfactual_moves_one_factor_alone(attribute):
    factors = SynthFaces(16, seed=1).factors(range(50))
    other = moved(factors, attribute)
    changed = (other != factors).nonzero()[:, 1].unique().tolist()
    assert [FACTOR_NAMES[k] for k in changed] == [EVALUATED[attribute][0]]
    assert ((other - factors).abs().max(1).values - 0.5).abs().max() < 1e-6
    assert other.min() >= 0 and other.max() <= 1


def a_set(correlation: float, n: int = 6000) -> LatentSet:
    "Latents whose two scores go together as much as that, on scales of their own."
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=numbers)
    z[:, 1] = correlation * z[:, 0] + (1 - correlation**2) ** 0.5 * z[:, 1]
    scores = torch.stack([z[:, 0].exp(), 3 * z[:, 1] - 1], 1)
    return LatentSet(z, z.clone(), scores, ("a", "b"), 0, "0" * 64, "judge", "0" * 64)


def test_a_balanced_set_forgets_what_goes_together():
    S = a_set(0.8)
    assert float(correlations(S)[0, 1]) == pytest.approx(0.79, abs=0.03)
    even = balanced(S, 0.2)
    assert abs(len(even) / len(S) - 0.2) < 0.02
    assert abs(float(correlations(even)[0, 1])) < 0.45 and set(even.names) == {"a", "b"}
    rows = {tuple(row) for row in S.w.tolist()}
    assert all(tuple(row) in rows for row in even.w.tolist())
    assert abs(float(correlations(balanced(a_set(0.3), 0.2))[0, 1])) < 0.06
    alone = rows_of(S, torch.arange(10))
    assert len(alone) == 10 and torch.equal(alone.scores, S.scores[:10])
    twice = LatentSet(**(vars(S) | {"scores": S.scores[:, [0, 0]]}))
    with pytest.raises(ValueError, match="are one"):
        balanced(twice)


def test_what_is_won_lies_between_the_floors():
    class Floor:
        def __init__(self, distance):
            self.scores = {"distance": torch.tensor(distance)}

    best, nothing = Floor([1.0, 1.0]), Floor([3.0, 3.0])
    assert won(best, best, nothing)["mean"] == 1 and won(nothing, best, nothing)["mean"] == 0
    assert won(Floor([4.0, 4.0]), best, nothing)["mean"] == -0.5


def test_a_turned_head_takes_its_points_along():
    wish = true_wish("turn", 8, 64)
    assert torch.equal(wish.handles, landmarks(SynthFaces(64, seed=50_021).factors(range(8)), 64))
    way = (wish.targets - wish.handles)[..., 0]
    assert (way.sign() == way[:, :1].sign()).all() and way.abs().min() > 1
    smile = true_wish("smile", 8, 64)
    assert smile.handles.shape == (8, 2, 2) and (smile.other != smile.person).flatten(1).any(1).all()


def test_a_budget_needs_something():
    with pytest.raises(ValueError, match="at least 3 held_out"):
        Budget(held_out=2)
    with pytest.raises(ValueError, match="at least 1 steps"):
        Budget(steps=0)


def a_cell(way, count, **scores):
    "What was measured of some pictures."
    values = {name: torch.tensor(value) for name, value in scores.items()}
    return Cell(way, values, torch.zeros(0, 3, 1), torch.zeros(count, 2, 4), torch.zeros(count, 3, 2, 2).byte(), 1.0)


def test_recovery_is_compared_over_generated_pictures():
    nan = float("nan")
    a = a_cell("w", 5, distance=[1.0, 1.0, 1.0, 9.0, 9.0], recovery=[nan, nan, nan, 0.2, 0.3])
    b = a_cell("w", 5, distance=[2.0, 2.0, 2.5, 7.0, 7.0], recovery=[nan, nan, nan, 0.6, 0.8])
    rows = {row["score"]: row for row in compared(a, b, 3)}
    assert rows["distance"]["n"] == 3 and rows["distance"]["mean"] == pytest.approx(-3.5 / 3)
    assert rows["recovery"]["n"] == 2 and rows["recovery"]["mean"] == pytest.approx(-0.45)
    short = a_cell("i2s long", 2, distance=[1.5, 1.5], recovery=[nan, nan])
    rows = {row["score"]: row for row in compared(short, b, 3)}
    assert set(rows) == {"distance"} and rows["distance"]["n"] == 2 and rows["distance"]["mean"] == -0.5


def test_sentences_say_what_the_rows_say():
    one = {"score": "distance", "mean": -0.3, "low": -0.5, "high": -0.1, "n": 10}
    rows = [{"table": "scores"} | one, {"table": "orders", "network": "hsr", "claim": "w+ − w", "found": "open"} | one]
    rows += [{"table": "long minus short", "network": "hsr"} | one]
    rows += [{"table": "hsr minus baseline", "way": "w"} | one | {"score": "recovery", "low": -0.7, "high": 0.1}]
    rows += [{"table": "hsr minus baseline", "way": "w"} | one | {"score": "editable l2l", "n": 1}]
    rows += [{"table": "hsr minus baseline", "way": "w"} | one | {"score": "psnr"}]
    rows += [{"table": "hsr minus baseline", "way": "w+"} | one | {"score": "psnr"}]
    assert sentences({"config": {"steps": 1000, "long_steps": 5000}, "rows": rows}) == [
        "- w+ − w, distance: open (1 of 1 networks)",
        "- Image2StyleGAN, 5000 steps minus 1000, distance: better (1 of 1 networks)",
        "- HSR minus baseline, recovery: no difference is shown (1 of 1 ways)",
        "- HSR minus baseline, editable l2l: edits do less (1 of 1 ways)",
        "- HSR minus baseline, psnr: worse (2 of 2 ways)",
    ]


@pytest.mark.slow
def test_a_dragged_nose_lands():
    "The tracker ends the drag, so it is no witness; a face detector is, which sees a pixel or two of its own."
    G = load_generator("synthfaces64-hsr")
    ws = ws_for_seeds(G, range(20), psi=0.7)
    left = landing(G, ws, (0.5, 0.55), (10.0, 0.0), detect=mtcnn() if has_mtcnn() else None)
    assert (left["tracked"] <= 1).float().mean() >= 0.9
    if has_mtcnn():
        seen = left["landed"][left["landed"].isfinite()]
        assert len(seen) >= 10 and seen.median() <= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", ["inversion", "counterfactual", "drag"])
def test_the_pages_run_small_and_write_no_result(page, tmp_path):
    papermill = pytest.importorskip("papermill")
    done = papermill.execute_notebook(
        ROOT / f"nbs/experiments/{page}.ipynb",
        tmp_path / "out.ipynb",
        {"out": str(tmp_path / "results")},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    said = json.dumps([cell.get("outputs", []) for cell in done.cells])
    assert "a smoke run is no result: nothing was written" in said
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_the_guide_edits_the_astronaut(tmp_path):
    papermill = pytest.importorskip("papermill")
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch is not installed")
    pytest.importorskip("skimage", reason="scikit-image, which holds the photograph, is not installed")
    done = papermill.execute_notebook(
        ROOT / "nbs/guides/edit_your_picture.ipynb",
        tmp_path / "out.ipynb",
        {"space": "w", "steps": 20, "latents": 300},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    said = json.dumps([cell.get("outputs", []) for cell in done.cells])
    assert "at least 24 are needed to find a face" in said and "film.gif is animated" in said
