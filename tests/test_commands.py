"""Commands answer from any folder, at once, and refuse what they cannot do in one sentence."""

import json
from pathlib import Path

import nbformat
import pytest
import torch

from hsr_nb.base.whole import sha256
from hsr_nb.explore import Explorer
from hsr_nb.judges.attributes import load_bank, load_classifier
from hsr_nb.studies import EvalConfig, evaluate_run

ROOT = Path(__file__).resolve().parents[1]


class Program(torch.nn.Module):
    "A judge that writes a file of its choice."

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = torch.from_file("OWNED", True, 6, dtype=torch.uint8)
        written.fill_(79)
        return x.flatten(1)[:, :2].contiguous() + written.float().mean() * 0.0001


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_judge_that_is_code_is_run_only_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bank"
    folder.mkdir()
    file = folder / "judge.pt"
    torch.jit.script(Program()).save(str(file))
    ask = EvalConfig("synthfaces-baseline", "r.json", n=8, reals=8, paths=2, device="cpu", scores=("is",))
    wrong = ("0" * 64,)
    for allow in ((), wrong):
        how = dict(allow_code=allow)
        for load in (
            lambda: load_classifier(file, 32, **how),
            lambda: load_bank(file, **how),
            lambda: load_bank(folder, **how),
            lambda: Explorer("synthfaces-baseline", judge=str(file), samples=500, components=2, **how),
            lambda: evaluate_run(EvalConfig(**vars(ask) | how | {"classifier": str(file)})),
            lambda: evaluate_run(EvalConfig(**vars(ask) | how | {"scores": ("als",), "bank": str(folder)})),
        ):
            with pytest.raises(
                ValueError, match=f"judge.pt is TorchScript, which is code.*--allow-code {sha256(file)}"
            ):
                load()
    assert not Path("OWNED").exists()
    assert not Path("r.json").exists()
    bank = load_bank(folder, size=(8, 8), allow_code=[sha256(file).upper()])
    with pytest.raises(ValueError, match="names 1 attributes"):
        bank(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))  # it was run, and answers two numbers
    assert Path("OWNED").exists()


EXPERIMENTS = sorted((ROOT / "nbs/experiments").glob("*.ipynb"))


def parameters_of(notebook, **handed_over):
    "The parameters of an experiment as its page sees them, after papermill has put its cell where it puts it."
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    place = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
    assert place == next(i for i, c in enumerate(cells) if "Parameters(globals())" in c.source) + 1
    names: dict = {}
    for cell in cells[: place + 1]:
        exec(cell.source, names)
    defaults = {name: names[name] for name in names["__annotations__"]}
    names |= handed_over
    exec(cells[place + 1].source, names)
    return defaults, {name: names[name] for name in defaults}


@pytest.mark.parametrize("notebook", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_checks_the_names_and_types_of_its_parameters(notebook):
    defaults, unchanged = parameters_of(notebook)
    assert defaults == unchanged
    assert [type(v) for v in defaults.values()] == [type(v) for v in unchanged.values()]
    name = next(iter(defaults))
    with pytest.raises(ValueError, match=f"no parameter {name}x on this page: did you mean {name}"):
        parameters_of(notebook, **{f"{name}x": 1})
    for name, value in defaults.items():
        if isinstance(value, bool):
            assert parameters_of(notebook, **{name: "False "})[1][name] is False
            assert parameters_of(notebook, **{name: "0"})[1][name] is False
            wrong = "maybe"
        elif isinstance(value, (int, float)):
            same = parameters_of(notebook, **{name: str(value)})[1][name]
            assert same == value and type(same) is type(value)
            wrong = "many"
        elif isinstance(value, (list, dict)):
            assert parameters_of(notebook, **{name: json.dumps(value)})[1][name] == value
            wrong = True
        else:
            continue
        with pytest.raises(ValueError, match=f"the parameter {name} is .*{wrong}") as e:
            parameters_of(notebook, **{name: wrong})
        assert len(str(e.value)) <= 700


def test_without_hsr_in_any_spelling():
    train = ROOT / "nbs/experiments/train.ipynb"
    for word in (False, "false", "No", "0", 0, "off"):
        assert parameters_of(train, hsr=word)[1]["hsr"] is False
    for name, word in (("hsr", "none"), ("kimg", "None"), ("hsr", None)):
        assert parameters_of(train, **{name: word})[1][name] is None
    for name, word in (("kimg", "10**400"), ("kimg", "1e400"), ("kimg", float("nan")), ("batch", 1.5), ("seed", True)):
        with pytest.raises(ValueError, match=f"the parameter {name} is a"):
            parameters_of(train, **{name: word})
    assert parameters_of(train, run_dir=7)[1]["run_dir"] == "7"
