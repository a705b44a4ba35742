"""How long every notebook runs, for the table of the README: python tests/support/measure_notebooks.py, from the repository's root.

Lessons by nbdev_test's own figures, two notebooks at a time; with `experiments` after the command the pages of experiments by papermill, one after the other
(a quarter of an hour), and the trainings of the shipped networks from their cards."""

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

CARD = "hsr_nb/weights/synthfaces-{}.json".format
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


def tool(name):
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def lessons():
    done = subprocess.run(
        [tool("nbdev_test"), "--n_workers", "2", "--timing"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"},
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    files = {}
    for p in Path("nbs").rglob("*.ipynb"):
        files.setdefault(p.name, []).append(p.relative_to("nbs").as_posix())
    found = re.findall(r"(?m)^(\S+\.ipynb): (\d+) secs", done.stdout + done.stderr)
    rows = [
        {"notebook": files[name][0], "seconds": int(s)}
        for name, s in found
        if len(files[name]) == 1 and "skip_exec: true" not in (Path("nbs") / files[name][0]).read_text()
    ]
    print(
        write_result(
            "data/results",
            "notebook-times",
            {"how": "nbdev_test --timing, two notebooks at a time, one thread each; whole seconds"},
            sorted(rows, key=lambda r: r["notebook"]),
        )
    )


def experiments():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for page, parameters in PAGES.items():
            extra = {
                "train": {"run_dir": f"{folder}/run"},
                "als": {"out": folder},
                "evaluate": {"out": folder, "report": f"{folder}/report.json"},
            }.get(page, {})
            given = [a for k, v in (parameters | extra).items() for a in ("-p", k, str(v))]
            began = time.perf_counter()
            done = subprocess.run(
                [
                    tool("papermill"),
                    "-k",
                    "python3",
                    "--no-progress-bar",
                    f"nbs/experiments/{page}.ipynb",
                    f"{folder}/{page}.ipynb",
                    *given,
                ],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{page}: {done.stderr[-2000:]}")
            rows.append(
                {
                    "notebook": f"experiments/{page}.ipynb",
                    "seconds": round(time.perf_counter() - began),
                    "parameters": parameters,
                    "how": "papermill",
                }
            )
            print(rows[-1], flush=True)
    for page, name in (("teacher", "tiny"), ("attributes", "attributes"), ("identity", "identity")):
        card = json.loads(Path(CARD(name)).read_text())
        rows.append(
            {
                "notebook": f"experiments/{page}.ipynb",
                "seconds": round(card["training"].get("cpu_seconds", card["training"]["seconds"])),
                "parameters": {},
                "how": "processor time of the training, from the card of the shipped network",
            }
        )
    print(
        write_result(
            "data/results",
            "experiment-times",
            {"how": "one page after the other, all cores"},
            sorted(rows, key=lambda r: r["notebook"]),
        )
    )


if __name__ == "__main__":
    experiments() if sys.argv[1:] == ["experiments"] else lessons()
