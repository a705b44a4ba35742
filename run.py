#!/usr/bin/env python3
"""hsr_nb, each command from nothing:

  python3 run.py demo         train a small StyleGAN2 + HSR on SynthFaces and show the faces (about 8 minutes)
  python3 run.py test         export, run every notebook and test (--all adds the long suites)
  python3 run.py lab          open JupyterLab on the notebooks
  python3 run.py bench        measure the training step against its convolutions
  python3 run.py gpu          on a GPU: tests, benchmark and a 64 px training run

--here uses the Python at hand instead of making .venv (for a machine without a package registry).
"""
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PY = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = ENV / "stamp"
RUNS = ROOT / "runs"


def sh(*cmd, **kw):
    print("+", *map(str, cmd), flush=True)
    subprocess.run([str(c) for c in cmd], cwd=ROOT, check=True, **kw)


def setup():
    "Make .venv and fill it; a second call with unchanged settings returns at once."
    global PY
    if "--here" in sys.argv:
        PY = Path(sys.executable)
        os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    want = hashlib.sha256(b"".join((ROOT / f).read_bytes() for f in ("settings.ini", "setup.py"))).hexdigest()
    if STAMP.exists() and STAMP.read_text() == want:
        return
    if not PY.exists():
        venv.create(ENV, with_pip=True)
    pip = [PY, "-m", "pip", "install", "-q"]
    try:  # uv installs torch in 30 s where pip takes minutes
        sh(*pip, "uv")
        sh(PY, "-m", "uv", "pip", "install", "-q", "--python", PY, "-e", ".[dev]")
    except subprocess.CalledProcessError:  # a registry that only pip's own settings reach
        sh(*pip, "-e", ".[dev]")
    STAMP.write_text(want)


def notebook(name, out, *params):
    "Run nbs/experiments/<name>.ipynb through papermill; `params` are name, value pairs."
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = [x for k, v in params for x in ("-p", k, v)]
    sh(PY, "-m", "papermill", "-k", "python3", "--cwd", ROOT, f"nbs/experiments/{name}.ipynb", out, *flags)


def demo():
    out = RUNS / "demo"
    notebook("train", out / "notebook.ipynb", ("run_dir", out))
    print(f"\nsample grid   {out / 'samples' / 'grid.png'}\nloss curves   {out / 'curves.png'}\nnotebook      {out / 'notebook.ipynb'}")


def test():
    sh(PY, "-m", "pytest", "-q", "tests", *([] if "--all" in sys.argv else ["-m", "not slow"]))


def lab():
    sh(PY, "-m", "jupyter", "lab", "--notebook-dir", "nbs")


COMMANDS = {"demo": demo, "test": test, "lab": lab}


def main():
    args = [a for a in sys.argv[1:] if a not in ("--here", "--all")]
    if len(args) != 1 or args[0] not in COMMANDS:
        sys.exit(__doc__)
    setup()
    COMMANDS[args[0]]()


try:
    main()
except subprocess.CalledProcessError as e:
    sys.exit(e.returncode)
