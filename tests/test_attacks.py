"The attacks of tests/support as a person would run them: hostile files and hurt run folders, in processes apart."

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def attacked(script: str, *args: str) -> str:
    "What an attack script says. AssertionError where something got through."
    command = [sys.executable, str(ROOT / "tests/support" / script), *args]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    r = subprocess.run(command, capture_output=True, text=True, env=env)
    assert r.returncode == 0, f"{r.stdout}\n{r.stderr[-4000:]}"
    return r.stdout


def test_small_hostile_files_are_refused():
    assert attacked("attack_readers.py", "safetensors", "torchscript").count("ok ") == 5


@pytest.mark.slow
@pytest.mark.parametrize("group, files", [("pickles", 7), ("torch", 2), ("sets", 18), ("recipes", 6)])
def test_files_that_took_gigabytes_are_refused(group, files):
    assert attacked("attack_readers.py", group).count("ok ") == files


@pytest.mark.slow
def test_hurt_run_folders_are_met():
    assert attacked("attack_runs.py").count("ok ") == 29
