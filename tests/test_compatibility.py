"""What earlier code wrote loads as it did: runs go on to the same bits, reports compare, recipes draw the same picture.

The files were made by the code of the commit in `about.json`; `make.py` beside them says how."""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hsr_nb.base.provenance import provenance, results_markdown
from hsr_nb.editing import SeFa, load_directions
from hsr_nb.explore import Explorer
from hsr_nb.interop import load_generator
from hsr_nb.nets.seeds import generator_hash
from hsr_nb.studies import EvalConfig, compare_reports, evaluate_run, read_report
from hsr_nb.studies.stored_logits import load_logits
from hsr_nb.training import override, preset, train

FILES = Path(__file__).parent / "files/before_floors"
ABOUT = json.loads((FILES / "about.json").read_text())
SMALL, RUN, ARM, SCORES = (ABOUT["settings"][k] for k in ("small", "run", "arm", "scores"))
SMALL |= {"opt.beta2": 0.99, "opt.ema_rampup": 0.05}  # of the preset in those days
EXPECTED = load_file(FILES / "continued.safetensors")


def drawn():
    "Two pictures of the earlier run."
    G = load_generator(FILES / "run")
    z = torch.randn(2, SMALL["net.z_dim"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return G.synthesis(G.mapping(z, None), noise_mode="const")


@functools.cache
def same_machine():
    """Whether this machine rounds like the one that made the files.

    The same PyTorch and instructions do not decide it, for there are processors of many kinds that have them: two
    pictures have to come out to the bit."""
    torch_then = ABOUT["made_by"]["versions"]["torch"]
    here = (provenance()["versions"]["torch"], torch.backends.cpu.get_cpu_capability())
    return here == (torch_then, ABOUT["cpu"]) and torch.equal(drawn(), EXPECTED["pictures"])


def deviation(before, after, expected):
    """How far a run went astray, as a share of the way that it should have gone.

    On another kind of processor .05 of it is rounding, which Adam enlarges where a gradient vanishes; with the images
    of another step it is .25, without Adam's second moments 1.04."""
    astray = sum(((after[k] - expected[k]) ** 2).sum() for k in expected)
    way = sum(((expected[k] - before[k]) ** 2).sum() for k in expected)
    return float(astray / way) ** 0.5


@pytest.fixture
def old(tmp_path, monkeypatch):
    "The working directory of the earlier commit, as it was left; runs know each other by relative paths."
    shutil.copytree(FILES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def test_a_generator_draws_what_it_drew(old):
    G = load_generator("run")
    assert generator_hash(G) == ABOUT["generator"]
    assert torch.allclose(drawn(), EXPECTED["pictures"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, settings, kimg", [("run", RUN, 0.32), ("arm", ARM, 0.288)])
def test_a_run_goes_on_as_it_would_have(old, name, settings, kimg):
    "Both Adams, the averages, the path-length mean, the heads and the sampler: all of them shape the next steps."
    begun = Path(name, "metrics.jsonl").read_text()
    before = load_generator(name).state_dict()
    train(override(preset("tiny32"), kimg=kimg, **SMALL, **settings), progress=False)
    after = load_generator(name).state_dict()
    expected = {k: EXPECTED[f"{name}.{k}"] for k in after}
    if same_machine():
        assert not [k for k, v in after.items() if not torch.equal(v, expected[k])]
    assert deviation(before, after, expected) < 0.12
    assert Path(name, "metrics.jsonl").read_text().startswith(begun)
    sessions = json.loads(Path(name, "provenance.json").read_text())["earlier"]
    assert [s["git"] for s in sessions] == [ABOUT["made_by"]["git"]]


def test_a_report_is_read_and_compared_with_one_of_today(old):
    before = read_report("run")
    assert before["git"] == ABOUT["made_by"]["git"]
    judge = "judges/synthfaces-attributes.safetensors"  # the network of that commit; the package has another one now
    ask = dict(detector=judge, bank=judge, cache="cache", against="run/report.json")
    after, _ = evaluate_run(EvalConfig("run", "again.json", **ask, **SCORES))
    of_earlier = [path for path in Path("cache").iterdir() if "+" not in path.name]  # the yardstick has maps of its own
    assert len(of_earlier) == 1  # the features of the earlier commit were taken
    new = {name for name in after["scores"] if name.startswith("yardstick")}  # a score that did not exist then
    assert set(after["scores"]) - new == set(before["scores"]) and len(new) == 2
    table = compare_reports(before, after)
    assert len(table) == 6
    for score, row in table.items():
        assert row["two"] == pytest.approx(row["one"], rel=1e-6 if same_machine() else 1e-2), score


def test_a_recipe_leads_to_the_same_picture(old):
    ex = Explorer("run", judge=None, device="cpu", components=2, samples=200).load("recipe.json")
    assert (ex.recipe.seed, len(ex.recipe.bred)) == (7, 1)
    own_beginning = 1  # what was on the screen before the file stays: a load can be undone
    assert ex.history.at == 3 + own_beginning
    assert list(ex.history.named) == ["seven"]
    picture = ex.picture("A", 32)
    assert picture.size == (32, 32)
    if same_machine():
        assert hashlib.sha256(picture.tobytes()).hexdigest() == ABOUT["picture"]


def test_directions_belong_to_their_generator(old):
    G = load_generator("run")
    found = load_directions("directions.safetensors", G)
    again = SeFa(components=3).fit(G).found
    assert found.names == ["sefa 1", "sefa 2", "sefa 3"]
    assert torch.allclose(found.vectors, again.vectors, atol=1e-4)
    assert torch.allclose(found.sigma, again.sigma, rtol=1e-4)
    with pytest.raises(ValueError, match="belong to the generator"):
        load_directions("directions.safetensors", load_generator("arm"))


def test_logits_and_result_files_are_read(old):
    logits, about = load_logits("logits.npz")
    assert logits.shape == (3, 5, 1)
    assert about["generator"] == ABOUT["generator"]
    (result,) = Path().glob("demo-*.json")
    assert "| one | 1.5 |" in results_markdown(result, {"what": "", "ms": "ms"})
