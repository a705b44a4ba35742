#!/usr/bin/env python3
"""hsr_nb, each command from nothing:

  python3 run.py demo         train a small StyleGAN2 + HSR on SynthFaces and show the faces (7 to 13 minutes)
  python3 run.py test         are notebooks and package in step, does every notebook run, do the tests pass
                              (--all adds the long suites)
  python3 run.py lab          open JupyterLab on the explorer's notebook, all others beside it
  python3 run.py app          the explorer alone, as a page in the browser
  python3 run.py docs         build the documentation site into _docs, where Quarto is installed
  python3 run.py export       write hsr_nb from the notebooks, formatted, and clean the notebooks
  python3 run.py readme       write README.md from nbs/index.ipynb
  python3 run.py bench        measure the training step against its convolutions
  python3 run.py gpu          on a GPU: kernels, benchmark and a 64 px training, twelve minutes

--pinned installs the versions behind the committed results (constraints.txt).
--here uses the Python at hand instead of making .venv (for a machine without a package registry).
"""

import configparser
import hashlib
import json
import os
import posixpath
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PY = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = ENV / "stamp"
RUNS = ROOT / "runs"
FLAGS = ("--all", "--here", "--pinned")
WORKERS = 2  # notebooks or tests at a time; each may hold a gigabyte


def sh(*cmd, **kw):
    "Run a command in the repository's root and show it; CalledProcessError when it fails."
    print("+", *map(str, cmd), flush=True)
    words = [str(c) for c in cmd]
    with subprocess.Popen(words, **{"cwd": ROOT, **kw}) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # what ends this ends what it started
        try:
            status = child.wait()
        except KeyboardInterrupt:  # Ctrl-C reached the child, too
            status = child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if status:
        raise subprocess.CalledProcessError(status, words)


def call(code):
    "Exit status of a piece of Python in the environment, quietly."
    return subprocess.run([str(PY), "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL).returncode


def command(name):
    "A program of the environment, else of the PATH."
    return shutil.which(name, path=f"{PY.parent}{os.pathsep}{os.environ['PATH']}") or name


# ---- the environment


def setup():
    "Make .venv and fill it; a second call with unchanged settings returns at once."
    if "--here" in sys.argv:
        use_this_python()
        return
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    settings = ["settings.ini", "setup.py"]
    packages = ["-e", ".[dev]"]
    if "--pinned" in sys.argv:
        settings.append("constraints.txt")
        packages += ["-c", "constraints.txt"]
    want = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in settings)).hexdigest()
    if STAMP.exists() and STAMP.read_text() == want:
        return
    if not PY.exists():
        venv.create(ENV, with_pip=True)
    pip = [PY, "-m", "pip", "install", "-q"]
    try:  # uv installs torch in 30 s where pip takes minutes
        sh(*pip, "uv")
        sh(PY, "-m", "uv", "pip", "install", "-q", "--compile-bytecode", "--python", PY, *packages)
    except subprocess.CalledProcessError:  # a registry that only pip's own settings reach
        sh(*pip, *packages)
    alone = configparser.ConfigParser()
    alone.read(ROOT / "settings.ini")
    sh(*pip, "--no-deps", *alone["DEFAULT"]["without_dependencies"].split())  # what pins an old torch
    STAMP.write_text(want)


def use_this_python():
    "Everything runs with the Python at hand, and the package is that of this folder."
    global PY
    PY = Path(sys.executable)
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


# ---- tests


def test():
    "Three stages; all run even if one fails. Nothing is exported first: a package out of step is a failure."
    for name, value in {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
    stages = {
        "in step and clean": [pytest("tests/test_repository.py")],
        "notebooks": [notebooks()],
        "tests": [pytest(*others("alone")), pytest(*others("not alone"), *beside_each_other())],
    }
    summary = []
    failed = False
    for name, commands in stages.items():
        start = time.monotonic()
        passed = all([succeeds(c) for c in commands])  # a list: every command runs, also after one that failed
        failed |= not passed
        summary.append(f"{name} {'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    print(f"\n{'FAILED' if failed else 'passed'}: {', '.join(summary)}", flush=True)
    return int(failed)


def pytest(*args):
    return [PY, "-m", "pytest", "-q", "-rs", "--durations=10", *args]


def notebooks():
    "The command that runs every lesson."
    slow = ["--flags", "slow"] if "--all" in sys.argv else []
    return [command("nbdev_test"), "--n_workers", WORKERS, "--timing", *slow]


def others(marked):
    "Arguments for the tests that the first stage has not run, of which those marked as said."
    which = marked if "--all" in sys.argv else f"{marked} and not slow"
    return ["tests", "--ignore", "tests/test_repository.py", "-m", which]


def beside_each_other():
    "Arguments for several tests at a time, where pytest-xdist is installed."
    if call("import xdist"):
        return []
    return ["-n", WORKERS, "--dist", "worksteal"]  # neighbours stay together, so fixtures of a file are made once


def succeeds(cmd):
    try:
        sh(*cmd)
        return True
    except (subprocess.CalledProcessError, OSError) as e:
        print(e, file=sys.stderr)
        return False


# ---- notebooks that are run


def notebook(name, out, **parameters):
    "Run nbs/experiments/<name>.ipynb through papermill."
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = []
    for key, value in parameters.items():
        flags += ["-p", key, value]
    if sys.stderr.isatty() and os.name == "posix":
        flags += ["--no-progress-bar", "--stderr-file", "/dev/stderr"]  # the notebook's own bar, live
    sh(PY, "-m", "papermill", "-k", "python3", "--cwd", ROOT, f"nbs/experiments/{name}.ipynb", out, *flags)


def demo():
    out = RUNS / "demo"
    notebook("train", out / "notebook.ipynb", run_dir=out, metrics='["yardstick"]')
    print(f"\nsample grid   {out / 'samples' / 'grid.png'}")
    print(f"film          {out / 'samples' / 'film.gif'}")
    print(f"loss curves   {out / 'curves.png'}")
    print(f"notebook      {out / 'notebook.ipynb'}")
    print("\nnext          python3 run.py app: faces of the shipped networks under sliders; run.py lab: every page")


def bench():
    notebook("benchmark", RUNS / "benchmark.ipynb", run=True)


def gpu():
    "Kernels, benchmark and a training in twelve minutes; each writes its results as soon as it has them."
    if call("import torch; assert torch.cuda.is_available()"):
        sys.exit("run.py gpu: PyTorch finds no GPU on this machine")
    session = "from hsr_nb.studies.gpu_session import gpu_session; left = gpu_session(); "
    sh(PY, "-c", session + "raise SystemExit('not done: ' + ', '.join(left) if left else 0)")


def lab():
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    allowed = ["--allow-root"] if is_root else []  # in a container, say; without it Jupyter would not start
    sh(PY, "-m", "jupyter", "lab", *allowed, "--notebook-dir", "nbs", "nbs/experiments/explore.ipynb")


def app():
    "The explorer as an app, for whoever has the token that is printed."
    opening = "from hsr_nb.explore import LatentExplorer; from hsr_nb.studies.teacher_view import heads_of; "
    opening += "LatentExplorer(heads=heads_of)"
    sh(PY, "-c", f"from hsr_nb.explore.app import serve; serve(opening={opening!r})")


# ---- what is made from notebooks: the package, the README, the site


def export():
    "Notebooks into the package: nbdev writes the modules, ruff sorts their imports and breaks their lines."
    for module in (ROOT / "hsr_nb").rglob("*.py"):
        source = ROOT / "nbs" / module.relative_to(ROOT / "hsr_nb").with_suffix(".ipynb")
        by_hand = module.name in ("__init__.py", "_modidx.py")
        if not by_hand and not source.exists():
            module.unlink()
    sh(PY, "site_pages.py", "tidy")  # the cell by which a notebook runs in Colab; no dead progress bars
    sh(command("nbdev_export"))
    sh(command("ruff"), "check", "--quiet", "--select", "I", "--fix", "hsr_nb")
    sh(command("ruff"), "format", "--quiet", "hsr_nb")
    sh(command("nbdev_clean"))


def readme():
    (ROOT / "README.md").write_text(readme_text(), encoding="utf-8")


def readme_text():
    "nbs/index.ipynb as Markdown: prose, code, what the code said as text; relative links start at the root."
    parts = ["<!-- made from nbs/index.ipynb by `python3 run.py readme` -->"]
    for cell in json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        hidden = re.search(r"(?m)^#\|\s*hide\s*$", text)
        if cell["cell_type"] == "markdown":
            parts.append(links_from_root(text))
        elif cell["cell_type"] == "code" and not hidden:
            parts += [shown_code(text), *shown_outputs(cell["outputs"])]
    return "\n\n".join(p.strip() for p in parts if p.strip()) + "\n"


def links_from_root(text):
    "Markdown of nbs/index.ipynb with its relative links and pictures as seen from the repository's root."

    def from_root(m):
        elsewhere = re.match(r"[a-z]+:|[#/]", m[2])
        return m[1] + (m[2] if elsewhere else posixpath.normpath(f"nbs/{m[2]}"))

    return re.sub(r"(\]\(|src=\"|href=\")([^)\s\"]+)", from_root, text)


def shown_code(text):
    "A cell's code as a Markdown block; empty where the page does not show it."
    code = re.sub(r"(?m)^#\|.*\n?", "", text).strip()
    silent = re.search(r"(?m)^#\|\s*echo:\s*false", text)
    return f"```python\n{code}\n```" if code and not silent else ""


def shown_outputs(outputs):
    "A cell's outputs as Markdown: what was made as Markdown, then what was printed, in one block."
    parts = []
    said = []
    for out in outputs:
        data = out.get("data", {})
        if "text/markdown" in data:
            parts.append(links_from_root("".join(data["text/markdown"])))
        elif any(kind.startswith("image/") for kind in data):
            sys.exit("nbs/index.ipynb: a README cannot hold the picture of an output; save it and link to it")
        else:
            said.append("".join(out.get("text") or data.get("text/plain", "")).strip("\n"))
    if any(said):
        parts.append("```text\n" + "\n".join(said) + "\n```")
    return parts


def docs():
    "The site by nbdev and Quarto, from a copy, so that nothing in the checkout changes. Quarto must be there."
    if not shutil.which("quarto"):
        where = "https://quarto.org/docs/get-started"
        sys.exit(f"run.py docs: Quarto is not on the PATH; install it from {where} and run this again")
    setup()
    generated = (".*", "_proc", "_docs", "runs", "build", "dist", "__pycache__", "*.egg-info")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "site"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*generated))
        sh(PY, copy / "site_pages.py", copy)
        (copy / "README.md").touch()  # newer than the index, so nbdev does not write another one
        sh(command("nbdev_docs"), cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)})
        shutil.rmtree(ROOT / "_docs", ignore_errors=True)
        shutil.move(copy / "_docs", ROOT / "_docs")
    print(f"\nsite   {ROOT / '_docs' / 'index.html'}")


COMMANDS = (demo, test, lab, app, docs, export, readme, bench, gpu)


def main():
    words = [a for a in sys.argv[1:] if a not in FLAGS]
    commands = {c.__name__: c for c in COMMANDS}
    if len(words) != 1 or words[0] not in commands:
        sys.exit(__doc__)
    if "--here" in sys.argv and "--pinned" in sys.argv:
        sys.exit("run.py: --here uses the packages at hand, --pinned installs others: choose one")
    if words[0] not in ("docs", "readme"):  # one looks for Quarto first, the other needs nothing
        setup()
    sys.exit(commands[words[0]]())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode if e.returncode > 0 else 128 - e.returncode)
