"""A browser in front of the explorer: servers, pages, and what a hand does there."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPENING = """from hsr_nb.explore import LatentExplorer
from hsr_nb.studies.teacher_view import heads_of
LatentExplorer(heads=heads_of)"""
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MARKS = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(
        CHROMIUM is None, reason="the browser tests need chromium: apt-get install chromium, or set CHROMIUM"
    ),
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def server(cmd, log, ready, env, cwd=ROOT):
    "A server process that is up; what it said is shown when it never comes up."
    with open(log, "w") as out:
        process = subprocess.Popen(cmd, env=env, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(480):
            if process.poll() is not None:
                break
            try:
                urllib.request.urlopen(ready, timeout=2)
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail(f"no server after two minutes:\n{Path(log).read_text()[-2000:]}")
        assert process.poll() is None, Path(log).read_text()[-2000:]
        yield
    finally:

        def end(how):
            return process.poll() is None and os.killpg(process.pid, how)  # run.py and the server that it started

        end(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            end(signal.SIGKILL)


def environment(home):
    """Jupyter's own folders, so that nothing of this machine's user is read or changed; no announcements, which steal
    the focus."""
    (home / "cfg/labconfig").mkdir(parents=True)
    (home / "cfg/labconfig/page_config.json").write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    )
    return os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "cfg"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "ws"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "set"),
        "JUPYTER_RUNTIME_DIR": str(home / "rt"),
        "IPYTHONDIR": str(home / "ipy"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def browser(size=(1280, 1040)):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = chromium.new_page(viewport=dict(width=size[0], height=size[1]), accept_downloads=True)
        page.set_default_timeout(90_000)
        errors = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        yield page
        chromium.close()
    assert not errors, errors[:3]


@contextmanager
def lab(tmp_path):
    "The notebook open in JupyterLab, all cells run."
    nbs, port = tmp_path / "nbs", free_port()
    nbs.mkdir()
    shutil.copy(ROOT / "nbs/experiments/explore.ipynb", nbs)  # Lab saves what it opens
    base = f"http://127.0.0.1:{port}"
    cmd = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--expose-app-in-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--allow-root",
        f"--ServerApp.root_dir={nbs}",
    ]
    with server(cmd, tmp_path / "lab.log", base + "/api", environment(tmp_path / "home")), browser() as page:
        page.goto(f"{base}/lab/workspaces/auto-t/tree/explore.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function("window.jupyterapp !== undefined")
        page.add_locator_handler(
            page.locator(".jp-Dialog button.jp-mod-accept", has_text="Select"), lambda b: b.click()
        )
        page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
        page.evaluate("void window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate("void window.jupyterapp.commands.execute('runmenu:run-all')")
        yield page


@contextmanager
def voila(tmp_path, **variables):
    "The explorer as an app, opened as `run.py app` does."
    port = free_port()
    asked = f"None, '--no-browser', '--port={port}', opening={OPENING!r}"
    serving = f"from hsr_nb.explore.app import serve; serve({asked})"
    cmd = [sys.executable, "-c", serving]
    env = environment(tmp_path / "home") | {"JUPYTER_TOKEN": "visitor"} | variables
    base = f"http://127.0.0.1:{port}"
    with server(cmd, tmp_path / "voila.log", f"{base}/voila/static/none", env), browser() as page:
        page.goto(f"{base}/?token=visitor")
        yield page


PIXELS = "sel => [...document.querySelectorAll(sel)].map(c => c.toDataURL())"
STAGE = ".hsr-stage .hsr-tiles figure canvas"


class Hand:
    "What a person does with the explorer, and what they see."

    def __init__(self, page):
        self.page, self.slider = page, page.locator(".hsr-row .widget-slider .noUi-handle").first
        page.locator(STAGE).first.wait_for()
        page.locator(".hsr-row button canvas").first.wait_for()  # the first thumbnails are there: the kernel is at rest

    def pictures(self):
        return [hashlib.sha1(u.encode()).hexdigest() for u in self.page.evaluate(PIXELS, STAGE)]

    def step(self):
        return self.page.locator(".hsr-note", has_text="step ").first.inner_text()

    def until(self, seen, what):
        for _ in range(300):
            if seen():
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"not seen after 30 s: {what}")

    def still(self):
        "Wait until nothing has changed for a second."
        before = None
        for _ in range(60):
            now = self.page.evaluate("[...document.querySelectorAll('.hsr-tiles')].map(e => e.dataset.drawn).join()")
            if now == before:
                return
            before = now
            self.page.wait_for_timeout(1000)

    def tab(self, name):
        self.page.locator(".hsr-explorer .lm-TabBar-tab, .hsr-explorer .p-TabBar-tab", has_text=name).first.click()

    def button(self, name):
        return self.page.locator(".hsr-explorer button", has_text=name).first


def drag(hand, seconds=10):
    "Drag a slider back and forth; returns how long the last picture came after the last move."
    page, box = hand.page, hand.slider.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        i += 1
        page.mouse.move(x + 60 * ((i * 7 % 41) / 20 - 1), y)
        page.wait_for_timeout(16)
    page.mouse.move(x + 30, y)
    stopped, drawn = time.monotonic(), None

    def count():
        return page.evaluate("document.querySelector('.hsr-stage .hsr-tiles').dataset.drawn")

    last = stopped
    while time.monotonic() - stopped < 5:
        if (now := count()) != drawn:
            drawn, last = now, time.monotonic()
        page.wait_for_timeout(20)
    page.mouse.up()
    return {"moves": i, "frames": int(drawn), "seconds_after": last - stopped}
