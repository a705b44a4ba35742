"""Commands answer from any folder, at once, and refuse what they cannot do in one sentence."""

from pathlib import Path

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
