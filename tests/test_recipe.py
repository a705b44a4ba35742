"The search for a recipe: it goes on where it was stopped, halves by its rule, and trains what it says."

import dataclasses
import json
import time

import pytest
import torch

from hsr_nb.base.whole import lock_if_free
from hsr_nb.interop import load_checkpoint
from hsr_nb.studies import recipe, recipe_cells, recipe_rules
from hsr_nb.studies.recipe import RecipeConfig, go_on
from hsr_nb.studies.recipe_cells import Cell, train_cell
from hsr_nb.studies.recipe_rules import BEFORE, CANDIDATES, TODAY, Candidate
from hsr_nb.training import override, preset, train

TINY = {"net.channel_max": 8, "net.z_dim": 8, "net.w_dim": 8}


@pytest.fixture
def small(monkeypatch):
    "Three candidates, two stretches, very small networks."
    chosen = {
        key: dataclasses.replace(CANDIDATES[key], changes=CANDIDATES[key].changes | TINY)
        for key in (TODAY, "b16", "short8")
    }
    stretches = {0.064: 1, 0.128: 1}
    for module in (recipe, recipe_cells, recipe_rules):
        monkeypatch.setattr(module, "CANDIDATES", chosen)
    monkeypatch.setattr(recipe, "STRETCHES", stretches)
    monkeypatch.setattr(recipe, "SMALL64_KIMG", 0.032)
    monkeypatch.setattr(recipe_cells, "CHUNK", 32)
    costs = {TODAY: 10.0, "b16": 12.0, "short8": 16.0}
    monkeypatch.setattr(recipe, "measure_costs", lambda name, keys: {key: costs[key] for key in keys})


def asked(tmp_path, **changes):
    where = dict(folder=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    return RecipeConfig(**where, seeds=(0,), report_seeds=(3,), n=200, reals=200, pairs=8, **changes)


def invented(cell, cfg, better):
    "A report beside a checkpoint, as if it had been measured."
    request = recipe.request(cell, cfg)
    scores = {"yardstick[judge]": 1.0 if cell.setting == better else 2.0, "recall[judge]": 0.1}
    return {
        "format": "hsr_nb report 1",
        "data": {"name": "d"},
        "detector": {"name": "judge"},
        "psi": 1.0,
        "n": request.n,
        "reals": request.reals,
        "pairs": request.pairs,
        "asked": list(request.scores),
        "network": {"file": cell.checkpoint.name},
        "scores": scores,
    }, request.out


def test_a_search_goes_on_halves_and_reports(small, tmp_path, monkeypatch):
    said = []
    cfg = asked(tmp_path)

    def measure(request):
        cell = next(c for c in known if str(c.checkpoint) == request.network)
        report, out = invented(cell, cfg, better="short8")
        with open(out, "w") as f:
            json.dump(report, f)

    known = []
    kept = recipe.stretch

    def noting(*args):
        found = kept(*args)
        known.extend(found)
        return found

    monkeypatch.setattr(recipe, "stretch", noting)
    monkeypatch.setattr(recipe, "evaluate_run", measure)
    assert not go_on(dataclasses.replace(cfg, minutes=0.0), said.append) and not said
    assert go_on(dataclasses.replace(cfg, train_only=True), said.append)
    assert [line.split(":")[0].split()[-1] for line in said] == [TODAY, "b16", "short8"]
    said.clear()
    assert go_on(cfg, said.append)
    table = json.loads(next((tmp_path / "out").glob("recipe-*.json")).read_text())
    seen = [(row["preset"], row["kimg_of_today"], row["seed"], row["setting"]) for row in table["rows"]]
    assert seen[:3] == [("tiny32", 0.064, 0, key) for key in (TODAY, "b16", "short8")]
    assert {row[3] for row in seen if row[1] == 0.128} == {TODAY, "short8"}  # b16 was the worse one
    assert ("tiny32", 0.128, 3, "short8") in seen and ("small64", 0.032, 0, "short8") in seen
    images = {row["setting"]: row["kimg"] for row in table["rows"] if row["kimg_of_today"] == 0.064}
    assert images == {TODAY: 0.064, "b16": 0.048, "short8": 0.04}  # the same time each
    assert all(row["cpu_sec_per_kimg"] > 0 and row["threads"] == [1] for row in table["rows"])
    said.clear()
    assert go_on(cfg, said.append) and not said  # nothing twice


def test_a_cell_in_pieces_equals_one_that_ran_through(small, tmp_path):
    whole = Cell("tiny32", "short8", 0, 0.064, 96, str(tmp_path / "whole"))
    train(override(whole.config, kimg=0.096), progress=False)
    pieces = Cell("tiny32", "short8", 0, 0.064, 96, str(tmp_path / "pieces"))
    assert not train_cell(pieces, [64, 96], until=0.0)
    assert train_cell(pieces, [64, 96], until=time.monotonic() + 600)
    a, b = (load_checkpoint(cell.checkpoint)[0] for cell in (whole, pieces))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    kept = sorted(int(file.stem) for file in (pieces.run_dir / "checkpoints").glob("*.safetensors"))
    assert kept == [64, 96]  # the end of a stretch stays, what lies between does not
    notes = [json.loads(line) for line in (pieces.run_dir / "cost.jsonl").read_text().splitlines()]
    assert [note["new"] for note in notes] == [32, 32, 32]


def test_two_processes_share_a_search(small, tmp_path):
    cfg = asked(tmp_path, train_only=True)
    elsewhere = lock_if_free(tmp_path / "runs" / "tiny32" / "seed0" / "b16" / ".cell.lock")
    said = []

    def say(text):
        said.append(text.split(":")[0].split()[-1])
        if len(said) == 2:
            elsewhere.close()  # the other process ends without having finished the cell

    assert go_on(cfg, say)
    assert said == [TODAY, "short8", "b16"]


def test_a_cell_that_another_process_has_is_left_when_the_time_is_up(small, tmp_path):
    cfg = asked(tmp_path, train_only=True, minutes=0.0)
    said = []
    with lock_if_free(tmp_path / "runs" / "tiny32" / "seed0" / TODAY / ".cell.lock"):
        assert not go_on(cfg, said.append)
    assert not said


def test_candidates_are_relative_to_their_preset():
    half = Candidate("half of everything", batch=1 / 2, width=1 / 2)
    for name in ("tiny32", "small64"):
        before, after = BEFORE[name], override(preset(name), **half.settings(name))
        assert (after.batch, after.net.channel_base) == (before["batch"] // 2, before["net.channel_base"] // 2)


def test_a_score_in_the_table_outlives_a_folder_that_lost_it(monkeypatch, tmp_path):
    "A run that goes on elsewhere keeps its checkpoints, not every report of its earlier stretches."
    search = recipe.Search(RecipeConfig(folder=str(tmp_path), out=None))
    cell = Cell("tiny32", recipe_rules.TODAY, 0, 20.0, 20000, str(tmp_path))
    place = dict(zip(recipe.KEY, ("tiny32", recipe_rules.TODAY, 0, 20.0)))
    trained = place | {"kimg": 20.0}
    scored = trained | {"yardstick[a+b]": 0.5}
    search.old = {"config": {}, "rows": [scored]}
    monkeypatch.setattr(recipe, "row_of", lambda *asked: trained)
    assert search.row(cell) == scored
    search.old = {"config": {}, "rows": []}
    assert search.row(cell) == trained
