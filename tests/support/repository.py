"""The files of the repository as the tests of its rules see them."""

import ast
import json
import subprocess
from configparser import ConfigParser
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NBS = ROOT / "nbs"
LIB = ROOT / "hsr_nb"


def visible(folder, pattern):
    "Files under a folder, without hidden, generated and cache folders."

    def seen(path):
        parts = path.relative_to(folder).parts
        return not any(p == "__pycache__" or (p[0] in "._" and p[:2] != "__") for p in parts)

    return sorted(p for p in folder.rglob(pattern) if p.is_file() and seen(p))


def tracked():
    "The files git knows, or where there is no git everything that is neither hidden nor generated."
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
        names = listing.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        found = [p.relative_to(ROOT) for p in visible(ROOT, "*")]
        names = [str(p) for p in found if p.parts[0] not in ("runs", "build", "dist")]
    return [ROOT / n for n in names if n and (ROOT / n).is_file()]


def settings():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def at(path):
    "A path as a message names it."
    return path.relative_to(ROOT).as_posix()


def source(cell):
    return "".join(cell["source"])


def report(faults):
    "Fail with all faults, one a line."
    assert not faults, "\n" + "\n".join(faults)


MODULES = [p for p in sorted(LIB.rglob("*.py")) if p.name != "_modidx.py"]
FACES = [p for p in MODULES if p.name == "__init__.py"]  # written by hand
NOTEBOOKS = {p: json.loads(p.read_text(encoding="utf-8")) for p in visible(NBS, "*.ipynb")}


def _is_lesson(path):
    return path.parent.name not in ("experiments", "guides") and path.name != "index.ipynb"


LESSONS = {p: nb for p, nb in NOTEBOOKS.items() if _is_lesson(p)}  # one module each
