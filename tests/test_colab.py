"""Notebooks where there is no checkout, as in Colab: a wheel in an environment of its own, a page alone in a folder.

All badge pages together would take half an hour, so a fixed number of them is tried, another number every day.
"""

import datetime
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from repository import LESSONS, NBS, ROOT, at

pytestmark = [pytest.mark.slow]
EVERY_TIME = ("nets/seeds", "editing/sefa", "base/whole")
MORE = 2  # lessons of the day
NEEDS_THE_CHECKOUT = (
    "data/results",
    "../../",
    "find_root",
    "default_exp studies.figures",
)  # words of pages that say so


def candidates():
    "Lessons that nbdev_test runs quickly, and that ask for nothing of the repository."
    found = []
    for path, nb in LESSONS.items():
        text = "".join("".join(c["source"]) for c in nb["cells"])
        if not any(word in text for word in NEEDS_THE_CHECKOUT) and "#| slow" not in text and "kernels" not in at(path):
            found.append(path.relative_to(NBS).with_suffix("").as_posix())
    return found


def of_today():
    pages = [page for page in candidates() if page not in EVERY_TIME]
    first = datetime.date.today().toordinal() * MORE
    return [*EVERY_TIME, *(pages[(first + k) % len(pages)] for k in range(MORE))]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    "The Python of an environment that has the package's wheel, and sees the other packages of this one."
    pytest.importorskip("setuptools")
    root = tmp_path_factory.mktemp("colab")
    source = root / "source"
    keep = [p for p in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")]
    for name in keep:
        if name.startswith(("hsr_nb/", "setup.py", "settings.ini", "README.md")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(root / "dist")]
    made = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    (wheel,) = (root / "dist").glob("*.whl")
    venv.create(root / "env", with_pip=False)
    (place,) = (root / "env/lib").glob("python*/site-packages")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(place)], check=True)
    others = [p for p in sys.path if p.endswith("site-packages")]
    (place / "others.pth").write_text("\n".join(others) + "\n")
    return root / "env/bin/python"


RUN = """
import json, sys
import nbformat
from nbclient import NotebookClient
from jupyter_client.kernelspec import KernelSpecManager
nb = nbformat.read(sys.argv[1], 4)
client = NotebookClient(nb, timeout=120, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}})
client.create_kernel_manager()
client.km.kernel_spec.argv[0] = sys.executable
client.execute()
"""


def test_lessons_run_from_a_wheel_alone(elsewhere, tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MPLBACKEND")}
    where = [str(elsewhere), "-c", "import hsr_nb; print(hsr_nb.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert str(elsewhere.parents[1]) in found.stdout, found
    for page in of_today():
        alone = tmp_path / f"{Path(page).name}.ipynb"
        nb = json.loads((NBS / f"{page}.ipynb").read_text(encoding="utf-8"))
        assert any(c.get("id") == "install" for c in nb["cells"]), page
        alone.write_text(json.dumps(nb))
        ran = subprocess.run(
            [str(elsewhere), "-c", RUN, str(alone), str(tmp_path)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, (page, ran.stderr[-2000:])
