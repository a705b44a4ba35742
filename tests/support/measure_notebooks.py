"""How long every notebook runs, for the table of the README: python tests/support/measure_notebooks.py, from the root.

Lessons by nbdev_test's own figures, two notebooks at a time. With `experiments` after the command: the pages of
experiments by papermill, one after the other (a quarter of an hour), and the trainings of the shipped networks from
their cards."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hsr_nb.base.provenance import write_result

WEIGHTS = Path("hsr_nb/weights")
PAGES = {  # parameters that differ from the page's own
    "ablation": {},
    "als": {"baseline": "synthfaces-baseline", "hsr": "synthfaces-hsr"},
    "evaluate": {"run_dir": "synthfaces-hsr"},
    "explore": {},
    "sizing": {},
    "metrics_timing": {},
    "benchmark": {},
    "train": {"kimg": 40},
}
TRAININGS = {"teacher": "tiny", "attributes": "attributes", "identity": "identity"}  # page -> shipped network


def tool(name):
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def put(name: str, how: str, rows: list):
    "Write rows in the order of their pages."
    rows = sorted(rows, key=lambda row: row["notebook"])
    print(write_result("data/results", name, {"how": how}, rows))


def lessons():
    "Folder by folder, for nbdev_test tells pages by their file names alone."
    rows = []
    for folder in sorted(p for p in Path("nbs").iterdir() if p.is_dir()):
        rows += lessons_of(folder)
    put("notebook-times", "nbdev_test --timing, two notebooks at a time, one thread each; whole seconds", rows)


def lessons_of(folder: Path) -> list:
    files = {p.name: p for p in folder.rglob("*.ipynb") if "skip_exec: true" not in p.read_text()}
    if not files:
        return []
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    command = [tool("nbdev_test"), "--path", str(folder), "--n_workers", "2", "--timing"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet)
    said = done.stdout + done.stderr
    if done.returncode:
        sys.exit(said)
    times = re.findall(r"(?m)^(\S+\.ipynb): (\d+) secs", said)
    pages = {name: files[name].relative_to("nbs").as_posix() for name, _ in times if name in files}
    return [{"notebook": pages[name], "seconds": int(s)} for name, s in times if name in pages]


def experiments():
    with tempfile.TemporaryDirectory() as folder:
        rows = [experiment(page, parameters, folder) for page, parameters in PAGES.items()]
    for page, name in TRAININGS.items():
        training = json.loads((WEIGHTS / f"synthfaces-{name}.json").read_text())["training"]
        rows.append(
            {
                "notebook": f"experiments/{page}.ipynb",
                "seconds": round(training.get("cpu_seconds", training["seconds"])),
                "parameters": {},
                "how": "processor time of the training, from the card of the shipped network",
            }
        )
    put("experiment-times", "one page after the other, all cores", rows)


def experiment(page: str, parameters: dict, folder: str) -> dict:
    "Run a page of an experiment; what it writes goes into `folder`."
    places = {
        "train": {"run_dir": f"{folder}/run"},
        "als": {"out": folder},
        "evaluate": {"out": folder, "report": f"{folder}/report.json"},
    }
    command = [tool("papermill"), "-k", "python3", "--no-progress-bar"]
    command += [f"nbs/experiments/{page}.ipynb", f"{folder}/{page}.ipynb"]
    for name, value in (parameters | places.get(page, {})).items():
        command += ["-p", name, str(value)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = round(time.perf_counter() - began)
    if done.returncode:
        sys.exit(f"{page}: {done.stderr[-2000:]}")
    row = {"notebook": f"experiments/{page}.ipynb", "seconds": seconds, "parameters": parameters, "how": "papermill"}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    experiments() if sys.argv[1:] == ["experiments"] else lessons()
