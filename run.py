#!/usr/bin/env python3
"""hsr_nb, each command from nothing:

  python3 run.py demo         train a small StyleGAN2 + HSR on SynthFaces and show the faces (about 8 minutes)
  python3 run.py test         are notebooks and package in step, does every notebook run, do the tests pass (--all adds the long suites)
  python3 run.py lab          open JupyterLab on the explorer's notebook, all others beside it
  python3 run.py app          the explorer alone, as a page in the browser
  python3 run.py docs         build the documentation site into _docs, where Quarto is installed
  python3 run.py export       write hsr_nb from the notebooks, formatted, and clean the notebooks
  python3 run.py readme       write README.md from nbs/index.ipynb
  python3 run.py bench        measure the training step against its convolutions
  python3 run.py gpu          on a GPU: tests, benchmark and a 64 px training run

--here uses the Python at hand instead of making .venv (for a machine without a package registry).
"""

import ast
import hashlib
import json
import os
import posixpath
import re
import shutil
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


def sh(*cmd, **kw):
    print("+", *map(str, cmd), flush=True)
    subprocess.run([str(c) for c in cmd], check=True, **{"cwd": ROOT, **kw})


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
        sh(PY, "-m", "uv", "pip", "install", "-q", "--compile-bytecode", "--python", PY, "-e", ".[dev]")
    except subprocess.CalledProcessError:  # a registry that only pip's own settings reach
        sh(*pip, "-e", ".[dev]")
    STAMP.write_text(want)


def notebook(name, out, *params):
    "Run nbs/experiments/<name>.ipynb through papermill; `params` are name, value pairs."
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = [x for k, v in params for x in ("-p", k, v)]
    if sys.stderr.isatty() and os.name == "posix":
        flags += ["--no-progress-bar", "--stderr-file", "/dev/stderr"]  # the notebook's own bar, live
    sh(PY, "-m", "papermill", "-k", "python3", "--cwd", ROOT, f"nbs/experiments/{name}.ipynb", out, *flags)


def demo():
    out = RUNS / "demo"
    notebook("train", out / "notebook.ipynb", ("run_dir", out))
    print(
        f"\nsample grid   {out / 'samples' / 'grid.png'}\nloss curves   {out / 'curves.png'}\nnotebook      {out / 'notebook.ipynb'}"
    )


def test():
    "Three stages; all of them run even if one fails. Nothing is exported first: a package out of step is a failure, not repaired."
    for k, v in {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(k, v)  # two processes on two cores
    full, pytest = "--all" in sys.argv, [PY, "-m", "pytest", "-q", "-rs", "--durations=10"]
    stages = {
        "in step and clean": [*pytest, "tests/test_repository.py"],
        "notebooks": [command("nbdev_test"), "--n_workers", 2, "--timing", *(["--flags", "slow"] if full else [])],
        "tests": [*pytest, "tests", "--ignore", "tests/test_repository.py", *([] if full else ["-m", "not slow"])],
    }
    summary, failed = [], False
    for name, cmd in stages.items():
        start = time.monotonic()
        try:
            sh(*cmd)
            ok = True
        except (subprocess.CalledProcessError, OSError) as e:
            ok = False
            print(e, file=sys.stderr)
        failed |= not ok
        summary.append(f"{name} {'passed' if ok else 'FAILED'} in {time.monotonic() - start:.0f} s")
    print(f"\n{'FAILED' if failed else 'passed'}: {', '.join(summary)}", flush=True)
    return int(failed)


def bench():
    notebook("benchmark", RUNS / "benchmark.ipynb")


def gpu():
    "Tests on the GPU, two benchmarks, some minutes of training; without papermill the same functions are called directly."
    if call("import torch; assert torch.cuda.is_available()"):
        sys.exit("run.py gpu: PyTorch finds no GPU on this machine")
    sh(PY, "-m", "pytest", "-q", "-rs", "-m", "gpu", "tests")
    papermill = not call("import papermill, matplotlib, seaborn")
    for name in ("small64", "auto"):
        if papermill:
            notebook(
                "benchmark",
                RUNS / f"benchmark-{name}.ipynb",
                ("preset", name),
                ("head_widths", "[256]"),
                ("reference", name == "small64"),
            )
        else:
            sh(
                PY,
                "-c",
                f"from hsr_nb.studies.benchmark import benchmark; print(*benchmark({name!r}, head_widths=(256,), reference={name == 'small64'}, out='data/results'), sep='\\n')",
            )
    out = RUNS / "gpu64"
    if papermill:
        notebook("train", out / "notebook.ipynb", ("run_dir", out), ("preset", "small64"), ("kimg", 200))
    else:
        sh(
            PY,
            "-c",
            f"from hsr_nb.training import preset, train; print(train(preset('small64', kimg=200, run_dir={str(out)!r})))",
        )


def command(name):
    "A program of the environment, else of the PATH."
    return shutil.which(name, path=f"{PY.parent}{os.pathsep}{os.environ['PATH']}") or name


def call(code):
    "Exit status of a piece of Python in the environment, quietly."
    return subprocess.run([str(PY), "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL).returncode


def lab():
    root = (
        ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    )  # in a container, say; without it Jupyter would not start
    sh(PY, "-m", "jupyter", "lab", *root, "--notebook-dir", "nbs", "nbs/experiments/explore.ipynb")


def app():
    "The explorer's notebook through Voilà, without the raw cell of settings at its top."
    sh(
        PY,
        "-m",
        "voila",
        "nbs/experiments/explore.ipynb",
        "--strip_sources=True",
        "--show_tracebacks=True",
        "--VoilaExporter.raw_mimetypes=text/html",
    )


def readme_text():
    "nbs/index.ipynb as Markdown: prose, code, what the code said as text; relative links start at the root."

    def to_root(m):
        return m[1] + (m[2] if re.match(r"[a-z]+:|[#/]", m[2]) else posixpath.normpath(f"nbs/{m[2]}"))

    def rooted(text):
        return re.sub(r"(\]\(|src=\"|href=\")([^)\s\"]+)", to_root, text)

    parts = []
    for cell in json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]:
        text, said = "".join(cell["source"]), []
        if cell["cell_type"] == "markdown":
            parts.append(rooted(text))
        if cell["cell_type"] != "code" or re.search(r"(?m)^#\|\s*hide\s*$", text):
            continue
        code = re.sub(r"(?m)^#\|.*\n?", "", text).strip()
        if code and not re.search(r"(?m)^#\|\s*echo:\s*false", text):
            parts.append(f"```python\n{code}\n```")
        for out in cell["outputs"]:
            data = out.get("data", {})
            if "text/markdown" in data:
                parts.append(rooted("".join(data["text/markdown"])))
            elif any(k.startswith("image/") for k in data):
                sys.exit("nbs/index.ipynb: a README cannot hold the picture of an output; save it and link to it")
            else:
                said.append("".join(out.get("text") or data.get("text/plain", "")).strip("\n"))
        if any(said):
            parts.append("```text\n" + "\n".join(said) + "\n```")
    return (
        "<!-- made from nbs/index.ipynb by `python3 run.py readme` -->\n\n"
        + "\n\n".join(p.strip() for p in parts if p.strip())
        + "\n"
    )


def export():
    "Notebooks into the package: nbdev writes the modules, ruff sorts their imports and breaks their lines."
    for module in (ROOT / "hsr_nb").rglob("*.py"):
        if module.name not in ("__init__.py", "_modidx.py"):
            notebook = ROOT / "nbs" / module.relative_to(ROOT / "hsr_nb").with_suffix(".ipynb")
            if not notebook.exists():
                module.unlink()
    sh(command("nbdev_export"))
    sh(command("ruff"), "check", "--quiet", "--select", "I", "--fix", "hsr_nb")
    sh(command("ruff"), "format", "--quiet", "hsr_nb")
    sh(command("nbdev_clean"))


def readme():
    (ROOT / "README.md").write_text(readme_text(), encoding="utf-8")


def for_the_site(nb, module):
    "nbdev runs every cell that imports something to show signatures: it gets all names at once, and leaves cells of the lesson alone."
    for c in (c for c in nb["cells"] if c["cell_type"] == "code"):
        text = "".join(c["source"])
        if re.search(r"(?m)^#\|\s*(default_exp|export|exporti|exports)\b", text):
            continue
        try:
            nodes = [
                n
                for n in ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", text)))
                if isinstance(n, (ast.Import, ast.ImportFrom))
            ]
        except SyntaxError:
            continue
        if nodes:
            c["source"] = f"#| eval: false\n{text}"
    first = next(i for i, c in enumerate(nb["cells"]) if "default_exp" in "".join(c["source"]))
    nb["cells"].insert(
        first + 1,
        {
            "cell_type": "code",
            "id": "names",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": f"#| hide\nfrom {module} import *",
        },
    )


def docs():
    "The site by nbdev and Quarto, from a copy, so that nothing in the checkout changes; only nbdev comes with the environment."
    if not shutil.which("quarto"):
        sys.exit(
            "run.py docs: Quarto is not on the PATH; install it from https://quarto.org/docs/get-started and run this again"
        )
    setup()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "site"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".*", "_proc", "_docs", "runs", "build", "dist", "__pycache__", "*.egg-info"),
        )
        for file in (copy / "nbs").rglob("*.ipynb"):
            nb = json.loads(file.read_text(encoding="utf-8"))
            exp = next(
                (m[1] for c in nb["cells"] if (m := re.match(r"#\| default_exp (\S+)", "".join(c["source"])))), None
            )
            if exp:
                for_the_site(nb, f"hsr_nb.{exp}")
                file.write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding="utf-8")
        (copy / "README.md").touch()  # newer than the index, so nbdev does not write another one
        sh(command("nbdev_docs"), cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)})
        shutil.rmtree(ROOT / "_docs", ignore_errors=True)
        shutil.move(copy / "_docs", ROOT / "_docs")
    print(f"\nsite   {ROOT / '_docs' / 'index.html'}")


COMMANDS = {
    "demo": demo,
    "test": test,
    "lab": lab,
    "app": app,
    "bench": bench,
    "gpu": gpu,
    "docs": docs,
    "export": export,
    "readme": readme,
}


def main():
    args = [a for a in sys.argv[1:] if a not in ("--here", "--all")]
    if len(args) != 1 or args[0] not in COMMANDS:
        sys.exit(__doc__)
    if args[0] not in ("docs", "readme"):
        setup()
    sys.exit(COMMANDS[args[0]]())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode)
