"""Experiments through papermill: the embedded networks train on a tiny budget, and what is shipped keeps its word."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from hsr_nb.base.errors import WeightsNotFound

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "hsr_nb" / "weights"
SMOKE = {
    "attributes": ("synthfaces-attributes", dict(faces=64, steps=2, batch=8, heldout=64)),
    "teacher": ("synthfaces-shape", dict(faces=64, steps=2, batch=8, probe=64, heldout=64)),
    "identity": ("synthfaces-identity", dict(people=64, views=2, steps=2, batch=16, heldout=64)),
}
SECOND = {notebook: (f"{name}-b", params | {"dense": True, "seed": 1}) for notebook, (name, params) in SMOKE.items()}
del SECOND["teacher"]  # of which there is one
RUNS = [(notebook, *row) for rows in (SMOKE, SECOND) for notebook, row in rows.items()]


def shipped():
    return {p.name: p.read_bytes() for p in WEIGHTS.iterdir() if p.is_file()}


@pytest.mark.parametrize("notebook, name, params", RUNS, ids=[name for _, name, _ in RUNS])
def test_notebook_runs_and_leaves_the_shipped_weights_alone(notebook, name, params, tmp_path):
    papermill = pytest.importorskip("papermill")
    before = shipped()
    papermill.execute_notebook(
        ROOT / f"nbs/experiments/{notebook}.ipynb",
        tmp_path / "out.ipynb",
        {**params, "name": name, "out_dir": str(tmp_path)},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    assert shipped() == before
    card = json.loads((tmp_path / f"{name}.json").read_text())
    assert card["sha256"] == hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest()
    assert {"device", "git", "versions"} <= card["provenance"].keys() and card["training"]["seconds"] > 0


def pretend_celeba(folder, n, attributes=True):
    "Drawn faces as 178 x 218 JPEG files in CelebA's layout; without attributes, in FFHQ's."
    from hsr_nb.data import SynthFaces

    pictures, faces = folder / "img_align_celeba", SynthFaces(178, n, seed=9)
    pictures.mkdir(parents=True)
    lines = [str(n), "Smiling Male Eyeglasses"]
    for i, x in enumerate(faces.images(range(n))):
        canvas = Image.new("RGB", (178, 218), "grey")
        canvas.paste(Image.fromarray(x.permute(1, 2, 0).numpy()), (0, 20))
        canvas.save(pictures / f"{i + 1:06}.jpg")
        lines.append(
            f"{i + 1:06}.jpg "
            + " ".join(f"{1 if v > 0.5 else -1:2}" for v in faces.factors([i])[0, [1, 0, 6]].tolist())
        )
    if attributes:
        (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return pictures


@pytest.mark.parametrize("notebook,attributes", [("attributes", True), ("teacher", True), ("teacher", False)])
def test_notebooks_train_on_a_folder_of_photographs(notebook, attributes, tmp_path):
    papermill = pytest.importorskip("papermill")
    images, before = pretend_celeba(tmp_path / "celeba", 64, attributes), shipped()
    params = {k: v for k, v in SMOKE[notebook][1].items()} | {
        "images": str(images),
        "name": "photos",
        "out_dir": str(tmp_path),
    }
    papermill.execute_notebook(
        ROOT / f"nbs/experiments/{notebook}.ipynb",
        tmp_path / "out.ipynb",
        params,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    card = json.loads((tmp_path / "photos.json").read_text())
    assert shipped() == before and card["data"]["train"][0]["images"] == 64 and card["name"] == "photos"
    if attributes:
        assert set(card["scores"]["r2"]["64" if notebook == "attributes" else "teacher"]) == {
            "Smiling",
            "Male",
            "Eyeglasses",
            "mean",
        }
    if notebook == "attributes":
        from hsr_nb.metrics import load_detector

        assert (
            load_detector("photos", folder=tmp_path).attributes(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
            == (2, 3)
            and 0 <= card["scores"]["auc"]["Smiling"] <= 1
        )
    else:
        from hsr_nb.hsr import load_teacher

        assert load_teacher(str(tmp_path / "photos.safetensors"))(torch.zeros(1, 3, 64, 64))[8].shape[1] == 224
        with pytest.raises(WeightsNotFound, match="other.json beside it"):
            load_teacher(str(tmp_path / "other.safetensors"))


def test_a_supervised_teacher_is_called_one(tmp_path):
    papermill = pytest.importorskip("papermill")
    papermill.execute_notebook(
        ROOT / "nbs/experiments/teacher.ipynb",
        tmp_path / "out.ipynb",
        SMOKE["teacher"][1] | {"supervised": True, "name": "labelled", "out_dir": str(tmp_path)},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    card = json.loads((tmp_path / "labelled.json").read_text())
    assert card["what"].startswith("small residual network, supervised on SynthFaces")
    assert "unfair" in card["training"]["kind"]


def test_photographs_never_replace_a_shipped_network(tmp_path):
    papermill = pytest.importorskip("papermill")
    with pytest.raises(papermill.PapermillExecutionError, match="out_dir"):
        papermill.execute_notebook(
            ROOT / "nbs/experiments/attributes.ipynb",
            tmp_path / "out.ipynb",
            {"images": str(tmp_path)},
            kernel_name="python3",
            progress_bar=False,
            cwd=str(ROOT),
        )


def test_sizing_agrees_with_the_networks(tmp_path):
    "The page asserts parameters, arithmetic and memory itself."
    pytest.importorskip("papermill").execute_notebook(
        ROOT / "nbs/experiments/sizing.ipynb",
        tmp_path / "out.ipynb",
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )


@pytest.mark.parametrize("name", [*(n for n, _ in SMOKE.values()), "synthfaces-tiny"])
def test_shipped_file_fits_its_card(name):
    path, card = WEIGHTS / f"{name}.safetensors", json.loads((WEIGHTS / f"{name}.json").read_text())
    assert (
        card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and card["bytes"] == path.stat().st_size < 2e6
    )


@pytest.mark.parametrize("name, least", [("synthfaces-tiny", 0), ("synthfaces-shape", 0.05)])
def test_teacher_card_beats_its_untrained_twin_and_pixels(name, least):
    card = json.loads((WEIGHTS / f"{name}.json").read_text())
    scores = card["scores"]["r2"]
    for rival in ("untrained", "pixels16"):
        assert scores["teacher"]["mean"] > scores[rival]["mean"] + least
        worse = sorted(k for k in scores["teacher"] if scores["teacher"][k] < scores[rival][k])
        assert worse == sorted(card["scores"]["not_better"][rival])  # named, not hidden


def test_embedded_teacher_serves_both_sizes_and_is_light():
    from hsr_nb.hsr import HSR, load_teacher

    teacher = load_teacher("synthfaces-tiny")
    assert sorted(teacher.channels) == [8, 16, 32, 64] and len(set(teacher.grids.values())) == 4
    for side, taps in ((32, (8, 16, 32)), (64, (8, 16, 32, 64))):
        hsr = HSR({t: 16 for t in taps}, teacher, head_hidden=16)
        loss, per_tap = hsr(
            {t: torch.randn(2, 16, t, t, requires_grad=True) for t in taps}, torch.randn(2, 3, side, side)
        )
        assert hsr.taps == taps and torch.isfinite(loss) and set(per_tap) == set(taps)
    twin = load_teacher("synthfaces-tiny", weights="random", seed=1)
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    assert not torch.allclose(teacher(img)[8], twin(img)[8])


def test_judge_and_teacher_do_not_swap_places():
    from hsr_nb.hsr import load_teacher
    from hsr_nb.judges import require_independent
    from hsr_nb.metrics import load_detector

    with pytest.raises(ValueError, match="judge"):
        load_teacher("synthfaces-attributes")
    with pytest.raises(ValueError, match="teaches"):
        require_independent(load_detector("synthfaces-tiny"), load_teacher("synthfaces-tiny").identity())
    one, two = (json.loads((WEIGHTS / f"{n}.json").read_text()) for n in ("synthfaces-tiny", "synthfaces-attributes"))

    def seeds(card):
        return {d["seed"] for d in card["data"]["train"]}

    assert seeds(one).isdisjoint(seeds(two)) and 0 not in seeds(one) | seeds(two)  # 0 is the generators' default


def test_judge_reads_faces_and_sees_blur():
    from hsr_nb.data import SynthFaces
    from hsr_nb.metrics import feature_stats, fid, load_detector

    judge, ds = load_detector(), SynthFaces(32, 2000, seed=11)
    assert judge.name == "synthfaces-attributes" and judge.num_features <= 128
    x = ds.images(range(1000))
    reals, more = feature_stats(x[:500].split(250), judge), feature_stats(x[500:].split(250), judge)
    blurred = (
        torch.nn.functional.avg_pool2d(x[500:].float(), 2)
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
        .round()
        .byte()
    )
    near, far = (
        fid(reals, s, judge)["fid[synthfaces-attributes]"] for s in (more, feature_stats(blurred.split(250), judge))
    )
    assert far > 3 * near
    grey = judge(x[:2].float().mean(1, keepdim=True).byte())
    assert grey.shape == (2, judge.num_features) and grey.dtype == torch.float32
