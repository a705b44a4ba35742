"What was made from the shipped networks names them, is listed, and is made again when they change."

from pathlib import Path

import nbformat
import pytest

from hsr_nb.studies.shipped import MADE, Made, hashes, remake, stale, unlisted

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def current():
    return hashes()


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_nothing_was_made_from_former_networks(made, current):
    advice = "papermill -k python3 nbs/experiments/ship.ipynb runs/ship.ipynb -p remake True"
    assert not stale(made, current, ROOT), advice


def test_whatever_names_a_shipped_network_is_listed(current):
    assert unlisted(current, ROOT) == []


@pytest.mark.parametrize("made", [made for made in MADE if made.notebook], ids=lambda made: made.name)
def test_calls_give_parameters_that_their_notebook_has(made):
    notebook = nbformat.read(ROOT / "nbs" / f"{made.notebook}.ipynb", 4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    for name in made.parameters:
        assert f"\n{name}: " in f"\n{cell.source}", name


def lesson(path, text):
    "A notebook that writes a file."
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = nbformat.v4.new_code_cell(f"open({str(path.parents[2] / 'made.json')!r}, 'w').write({text!r})")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def test_what_is_stale_is_made_again_in_order_and_only_once(tmp_path):
    network = {"G": "b" * 64}
    (tmp_path / "made.json").write_text("a" * 64)
    (tmp_path / "key.json").write_text("a" * 64)
    (tmp_path / "runs").mkdir()
    lesson(tmp_path / "nbs" / "experiments" / "draw.ipynb", "b" * 64)
    key = Made("key", ("key.json",), ("G",), by_hand="ask the keeper")
    drawn = Made("drawn", ("made.json",), ("G",), "experiments/draw")
    said = []
    assert remake(network, tmp_path, (key, drawn), said.append) == ["drawn"]
    assert said[0] == "key: left to you: ask the keeper" and said[1].startswith("drawn")
    assert remake(network, tmp_path, (drawn,), said.append) == []
    lesson(tmp_path / "nbs" / "experiments" / "draw.ipynb", "c" * 64)
    with pytest.raises(RuntimeError, match="made again, but made.json was not made from G"):
        remake({"G": "d" * 64}, tmp_path, (drawn,), said.append)


def test_a_pattern_that_fits_no_file_is_a_fault(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-\\*.json"):
        stale(Made("none", ("nothing-*.json",)), {}, tmp_path)


def test_a_file_that_is_in_no_list_is_found(tmp_path):
    (tmp_path / "nbs" / "strips").mkdir(parents=True)
    (tmp_path / "nbs" / "strips" / "new.json").write_text("x" + "b" * 64)
    (found,) = unlisted({"G": "b" * 64}, tmp_path, ())
    assert found.startswith("nbs/strips/new.json")
    assert unlisted({"G": "c" * 64}, tmp_path, ()) == []
