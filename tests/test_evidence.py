"The pre-registered runs: what is in the list, what decides, and a search that goes on where it was."

import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hsr_nb.base.pictures import to_uint8
from hsr_nb.base.whole import lock_if_free
from hsr_nb.data import SynthFaces
from hsr_nb.data.registry import open_dataset
from hsr_nb.interop.checkpoint import load_checkpoint
from hsr_nb.studies import evidence, evidence_rules, sessions
from hsr_nb.studies.evidence import Cell, EvidenceConfig, go_on, missing, plan, publish
from hsr_nb.studies.evidence_rules import BY_KEY, HYPOTHESES, LABELLED, as_said, at_the_same_recall, verdicts
from hsr_nb.studies.evidence_scores import Bench, Counts
from hsr_nb.training import override, preset
from hsr_nb.training.config import TrainConfig

TINY = {"net.channel_max": 8, "net.z_dim": 8, "net.w_dim": 8, "batch": 16, "device": "cpu"}
FEW = Counts(pictures=40, cloud=40, pairs=4, paths=2, renderings=60, others=40, latents=4)


def test_every_arm_is_a_training_that_can_begin(tmp_path, monkeypatch):
    "Names and values of settings, of all hypotheses whose pictures are at hand."
    monkeypatch.chdir(tmp_path)
    cfg = EvidenceConfig(few=20)
    names = []
    for cell in plan(cfg):
        if missing(cell) is None:
            assert isinstance(cell.training, TrainConfig)
            names.append(cell.name)
    assert len(names) == len(set(names))
    assert "H2-supervised-seed0" not in names
    assert "H3-trunk-seed4" in names
    Path(LABELLED).parent.mkdir(parents=True)
    Path(LABELLED).touch()
    assert "H2-supervised-seed0" in [cell.name for cell in plan(cfg) if missing(cell) is None]


def test_what_is_missing_is_named():
    busts = Cell(EvidenceConfig(), "H1r", "ADA", 0)
    assert missing(busts).startswith("the busts are not at hand")
    few = Cell(EvidenceConfig(out="nowhere"), "H1", "none", 0)
    assert missing(few).startswith("how many pictures are few")
    with pytest.raises(ValueError, match="no hypothesis 'H9'"):
        list(plan(EvidenceConfig(only=("H9",))))


def row(key, arm, seed, **scores):
    return {"hypothesis": key, "arm": arm, "seed": seed} | scores


def test_the_same_recall_is_the_lower_one():
    wide = {"recall": 0.4, "ppl by recall": [[0.4, 10.0], [0.2, 6.0]]}
    narrow = {"recall": 0.3, "ppl by recall": [[0.3, 7.0], [0.1, 5.0]]}
    assert at_the_same_recall(wide, narrow, "ppl") == pytest.approx((8.0, 7.0))
    assert at_the_same_recall(narrow, wide, "ppl") == pytest.approx((7.0, 8.0))
    assert at_the_same_recall({"recall": 0.05, "ppl by recall": [[0.05, 3.0]]}, narrow, "ppl") == (None, None)


def test_arms_of_different_machines_are_not_compared():
    rows = []
    for seed in range(5):
        for arm, value, machine in (("none", 1.0, "a"), ("HSR", 0.9, "b" if seed == 3 else "a")):
            rows.append(row("H1", arm, seed, machine=machine, yardstick=value + 0.01 * seed))
    (judged,) = [v for v in verdicts(rows) if (v["hypothesis"], v["arm"]) == ("H1", "HSR")]
    assert judged["holds"] is None and judged["why"] == "on some seed the arms were trained on different machines"


def test_a_claim_that_misses_a_seed_is_not_judged_and_makes_no_other_easier():
    luck = (0.0, 0.03, -0.02, 0.01, -0.01)
    rows = []
    for seed in range(5):
        for arm, value, share in (("none", 1, 1), ("HSR", 0.9, 0.5)):
            rows.append(row("H1", arm, seed, yardstick=value + luck[seed] * share))
    by_key = {(v["hypothesis"], v["arm"], v["score"]): v for v in verdicts(rows)}
    found = by_key["H1", "HSR", "yardstick"]
    assert found["holds"] and found["corrected"] == pytest.approx(found["p"] * len(verdicts(rows)))
    assert "held" in as_said(found)
    fewer = {(v["hypothesis"], v["arm"]): v for v in verdicts([r for r in rows if r["seed"]])}
    assert fewer["H1", "HSR"]["holds"] is None and "not been measured" in as_said(fewer["H1", "HSR"])
    worse = [r | {"yardstick": 2 - r["yardstick"]} for r in rows]
    first = next(v for v in verdicts(worse) if v["hypothesis"] == "H1")
    assert first["holds"] is False  # sure, but the other way
    assert all(v["holds"] is None for v in verdicts(rows, fresh=True))


@pytest.fixture
def small(monkeypatch):
    "H3 with a trunk and two arms, one seed, very small networks and counts."
    h3 = dataclasses.replace(BY_KEY["H3"], kimg=0.064, trunk=0.032, seeds=(0,), fresh=(1,))
    h3 = dataclasses.replace(h3, arms={k: h3.arms[k] for k in ("neither", "PLR")}, compared=(("PLR", "neither"),))
    chosen = (h3, *(h for h in HYPOTHESES if h.key not in ("H0", "H3")))
    for module in (evidence, evidence_rules):
        monkeypatch.setattr(module, "HYPOTHESES", chosen)
        monkeypatch.setattr(module, "BY_KEY", {h.key: h for h in chosen})
    monkeypatch.setattr(evidence, "preset", lambda name: override(preset(name), **TINY))
    monkeypatch.setattr(evidence, "Bench", lambda resolution, cache: Bench(resolution, FEW, cache))
    monkeypatch.setattr(sessions, "PAUSE", 0.05)


def test_runs_are_trained_measured_and_published_once(small, tmp_path, monkeypatch):
    cfg = EvidenceConfig(folder=str(tmp_path / "runs"), out=str(tmp_path / "out"), only=("H3",), session=0.032)
    said = []
    assert not go_on(dataclasses.replace(cfg, minutes=0.0), said.append) and not said
    elsewhere = lock_if_free(tmp_path / "runs" / "H3-neither-seed0.lock")

    def say(text):
        said.append(text.split(":")[0])
        elsewhere.close()  # the other process ends without having finished its cell

    assert go_on(cfg, say)
    assert said == ["H3-PLR-seed0", "H3-neither-seed0"]
    table = json.loads(next((tmp_path / "out").glob("evidence-*.json")).read_text())
    seen = {(r["hypothesis"], r["arm"]): r for r in table["rows"]}
    assert set(seen) == {(key, arm) for key in ("H0", "H3") for arm in ("neither", "PLR")}
    measured = seen["H3", "PLR"]
    assert len(measured["ppl by recall"]) == 5
    assert measured["kimg"] == 0.064
    assert [v["holds"] for v in table["config"]["verdicts"] if v["hypothesis"] == "H3"] == [None]  # one seed has no p
    said.clear()
    assert go_on(cfg, said.append) and not said
    lost = dataclasses.replace(cfg, folder=str(tmp_path / "elsewhere"))
    again = json.loads(publish(lost).read_text())
    assert [r["arm"] for r in again["rows"]] == [r["arm"] for r in table["rows"]]
    assert go_on(lost, said.append)  # what is published is not run again, though its folder is gone
    assert not said and not list((tmp_path / "elsewhere").glob("*seed0/checkpoints"))
    longer = preset("tiny32").kimg + 1
    monkeypatch.setattr(evidence, "preset", lambda name: override(preset(name), **TINY, kimg=longer))
    assert evidence.earlier_rows(lost) == []  # rows that were made in another way stand in no table with these


def test_training_alone_measures_nothing_and_another_run_is_not_taken_for_this_one(small, tmp_path):
    cfg = EvidenceConfig(folder=str(tmp_path), out=None, only=("H3",), session=0.032, train_only=True)
    assert go_on(cfg, pytest.fail) and not (tmp_path / "scores").exists()
    _, neither, plr = plan(cfg)
    assert neither.checkpoint.is_file() and plr.checkpoint.is_file()
    plr.checkpoint.write_bytes(neither.checkpoint.read_bytes())
    with pytest.raises(ValueError, match="no run of H3-PLR-seed0: loss.pl_weight was 0.0, now 2.0"):
        evidence.measurement(plr, Bench(32, FEW))


def test_runs_on_busts_are_compared_with_busts_that_were_held_out(small, tmp_path, monkeypatch):
    h1r = dataclasses.replace(BY_KEY["H1r"], kimg=0.032, seeds=(0,), fresh=(1,))
    h1r = dataclasses.replace(h1r, arms={"ADA": h1r.arms["ADA"]}, compared=())  # the other arm needs a wheel
    for module in (evidence, evidence_rules):
        monkeypatch.setattr(module, "HYPOTHESES", (h1r,))
        monkeypatch.setattr(module, "BY_KEY", {"H1r": h1r, "H3": BY_KEY["H3"]})
    busts = tmp_path / "busts.zip"
    with zipfile.ZipFile(busts, "w") as out:
        for i, pixels in enumerate(to_uint8(SynthFaces(32, 600).images(range(600)))):
            png = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(png, "png")
            out.writestr(f"{i:04d}.png", png.getvalue())
        names = [f"PERSON {i // 6}" for i in range(600)]
        out.writestr("dataset.json", json.dumps({"labels": None, "hsr_nb": {"names": names}}))
    folder, out = str(tmp_path / "runs"), str(tmp_path / "out")
    cfg = EvidenceConfig(folder=folder, out=out, only=("H1r",), session=0.032, busts=str(busts))
    compared = []
    scores = evidence.scores_on_busts
    monkeypatch.setattr(evidence, "scores_on_busts", lambda G, *sets: compared.append(sets) or scores(G, *sets))
    said: list[str] = []
    assert go_on(cfg, said.append)
    (row,) = evidence.rows_of(cfg)
    assert {"kid", "novelty", "precision", "recall"} <= row.keys() and "ppl" not in row
    parts = evidence.parts_of_busts(folder)
    trained, held_out = (open_dataset(str(part)) for part in parts)
    assert (len(trained), len(held_out)) == (396, 204)
    assert [[ds.identity for ds in sets] for sets in compared] == [[trained.identity, held_out.identity]]
    seen, unseen = (set(json.loads(zipfile.ZipFile(part).read("dataset.json"))["hsr_nb"]["names"]) for part in parts)
    assert not seen & unseen
    (cell,) = plan(cfg)
    _, meta = load_checkpoint(cell.checkpoint)
    assert meta["data"] == trained.identity
    shutil.copy(parts[1], parts[0])
    with pytest.raises(ValueError, match="was parted from other busts"):
        go_on(cfg, said.append)
    with pytest.raises(ValueError, match="the data set's identity was"):
        evidence.measurement(cell, Bench(32, FEW))
    large = tmp_path / "large.zip"
    with zipfile.ZipFile(large, "w") as zipped:
        png = io.BytesIO()
        Image.new("RGB", (64, 64)).save(png, "png")
        zipped.writestr("a.png", png.getvalue())
    with pytest.raises(ValueError, match=r"the busts \(--busts\) are not as expected: .*hsr_data --source emoji"):
        go_on(dataclasses.replace(cfg, busts=str(large)), said.append)
