"""How long every notebook runs, one after the other, for the table of the README: python tests/measure_notebooks.py, from the repository's root.

Experiments run with their default parameters; those that train for long say their time themselves and are left out."""
import os
import re
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

from hsr_nb.metrics.report import write_result  # noqa: E402

LONG = {"index", "train", "teacher", "attributes", "identity", "benchmark", "metrics_timing"}


def main():
    rows = []
    for file in sorted(Path("nbs").rglob("*.ipynb")):
        if file.stem in LONG or ".ipynb_checkpoints" in file.parts: continue
        nb = nbformat.read(file, 4)
        nb.cells = [c for c in nb.cells if not re.search(r"(?m)^#\|\s*(eval:\s*false|gpu)", c.source)]
        began = time.perf_counter()
        NotebookClient(nb, timeout=None, kernel_name="python3", resources={"metadata": {"path": "." if file.parent.name == "experiments" else str(file.parent)}}).execute()
        rows.append({"notebook": str(file.relative_to("nbs")), "seconds": round(time.perf_counter() - began, 1)})
        print(rows[-1], file=sys.stderr, flush=True)
    print(write_result("data/results", "notebook-times", {"threads": 1, "what": "one after the other; start of the kernel, imports and plots included"}, rows))


if __name__ == "__main__": main()
