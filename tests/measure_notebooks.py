"""How long every lesson runs, for the table of the README: python tests/measure_notebooks.py, from the repository's root.

nbdev_test's own figures, two notebooks at a time. Experiments are passed over: they say their time themselves."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hsr_nb.metrics.report import write_result


def main():
    command = shutil.which("nbdev_test", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run([command, "--n_workers", "2", "--timing"], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"})
    if done.returncode: sys.exit(done.stdout + done.stderr)
    files = {}
    for p in Path("nbs").rglob("*.ipynb"): files.setdefault(p.name, []).append(p.relative_to("nbs").as_posix())
    found = re.findall(r"(?m)^(\S+\.ipynb): (\d+) secs", done.stdout + done.stderr)
    rows = [{"notebook": files[name][0], "seconds": int(s)} for name, s in found if len(files[name]) == 1 and "skip_exec: true" not in (Path("nbs") / files[name][0]).read_text()]
    print(write_result("data/results", "notebook-times", {"how": "nbdev_test --timing, two notebooks at a time, one thread each; whole seconds"}, sorted(rows, key=lambda r: r["notebook"])))


if __name__ == "__main__": main()
