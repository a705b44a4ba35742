"""The explorer as an app: a token as Jupyter has it, and nothing for pages of other sites."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("voila", reason="the app needs Voilà")
ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-token-of-this-test"
PAGE = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "one",
            "metadata": {},
            "outputs": [],
            "source": ["print('the page has run')"],
        }
    ],
    "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
BROWSER = """
import os, pathlib, sys, urllib.parse, urllib.request
file = pathlib.Path(urllib.request.url2pathname(urllib.parse.urlsplit(sys.argv[1]).path))
pathlib.Path(sys.argv[0] + ".told").write_text(f"{file.parent.stat().st_mode & 0o777:o} {file.read_text()}")
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    "A running app of one small page; what the browser was told is in `told`."
    home = tmp_path_factory.mktemp("app")
    (home / "page.ipynb").write_text(json.dumps(PAGE))
    (home / "browser.py").write_text(BROWSER)
    env = os.environ | {
        "BROWSER": f"{sys.executable} {home}/browser.py %s",
        "JUPYTER_CONFIG_DIR": str(home / "cfg"),
        "JUPYTER_RUNTIME_DIR": str(home / "rt"),
        "JUPYTER_TOKEN": TOKEN,
        "PYTHONPATH": str(ROOT),
    }
    serving = f"from hsr_nb.explore.app import serve; serve({str(home / 'page.ipynb')!r})"
    log = home / "log"
    with open(log, "w") as out:
        p = subprocess.Popen([sys.executable, "-c", serving], env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        told = home / "browser.py.told"
        ends = time.monotonic() + 120
        while not told.exists() and time.monotonic() < ends:
            assert p.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
        port = int(re.search(r"http://localhost:(\d+)/", log.read_text())[1])
        yield SimpleNamespace(port=port, log=log, told=told)
    finally:
        p.terminate()
        p.wait(30)


def ask(app, path="/", **headers):
    "(status, headers, text) of a request; the address is this machine's own unless the headers say another."
    c = http.client.HTTPConnection("127.0.0.1", app.port, timeout=120)
    try:
        c.request("GET", path, headers={"Host": f"127.0.0.1:{app.port}"} | headers)
        r = c.getresponse()
        text = "" if r.status == 101 else r.read().decode()
        return r.status, r.headers, text
    finally:
        c.close()


def kernels(app):
    return app.log.read_text().count("Kernel started")


@pytest.mark.parametrize("path", ["/", "/?token=another", "/voila/files/page.ipynb"])
def test_nothing_without_the_token(app, path):
    before = kernels(app)
    status, headers, text = ask(app, path)
    assert status in (302, 403) and "has run" not in text
    assert status == 403 or headers["Location"].startswith("/login")
    assert kernels(app) == before


FOREIGN = {
    "another name": {"Host": "evil.example"},
    "another name that begins well": {"Host": "127.0.0.1.evil.example"},
    "a page of another site": {"Origin": "http://evil.example"},
    "another server of this machine": {"Origin": "http://127.0.0.1:1"},
    "a page without an origin": {"Origin": "null"},
    "both the same": {"Host": "evil.example", "Origin": "http://evil.example"},
}


@pytest.mark.parametrize("path", ["/?token=" + TOKEN, "/voila/static/voila.js", "/login", "/api/kernels/x/channels"])
@pytest.mark.parametrize("what", FOREIGN)
def test_nothing_for_other_sites(app, what, path):
    "Not even with the token."
    before = kernels(app)
    status, _, text = ask(app, path, **FOREIGN[what])
    assert status == 403 and "has run" not in text
    assert kernels(app) == before


def test_the_owner_is_served(app):
    "By the token, then by a cookie that other sites cannot make the browser send; the websocket asks for it, too."
    status, headers, text = ask(app, "/?token=" + TOKEN)
    assert status == 200 and "the page has run" in text
    (set_cookie,) = headers.get_all("Set-Cookie")[:1]
    assert "samesite=strict" in set_cookie.lower() and "httponly" in set_cookie.lower()
    assert headers["Content-Security-Policy"].startswith("default-src 'self' data:"), "nothing is asked of other hosts"
    cookie = "; ".join(c.split(";")[0] for c in headers.get_all("Set-Cookie"))
    kernel = re.search(r"Kernel started: (\S+)", app.log.read_text())[1]
    path = f"/api/kernels/{kernel}/channels"
    socket = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    own = {"Origin": f"http://127.0.0.1:{app.port}"}
    assert ask(app, path, Cookie=cookie, **socket, **own)[0] == 101
    assert ask(app, path, **socket, **own)[0] == 403
    for headers in FOREIGN.values():
        assert ask(app, path, Cookie=cookie, **socket, **headers)[0] == 403


def test_the_browser_gets_the_token_in_a_private_file(app):
    "The arguments of a process are everybody's to read."
    mode, _, page = app.told.read_text().partition(" ")
    assert mode == "700" and f"?token={TOKEN}" in page


def posted(app, path, **headers):
    "The status of a request that a page sends as it is closed."
    c = http.client.HTTPConnection("127.0.0.1", app.port, timeout=120)
    try:
        c.request("POST", path, headers={"Host": f"127.0.0.1:{app.port}"} | headers)
        return c.getresponse().status
    finally:
        c.close()


def test_the_kernel_of_a_closed_page_ends(app):
    "The page says so without the second token, which a beacon cannot carry; nobody else can say it."
    _, headers, _ = ask(app, "/?token=" + TOKEN)
    cookie = "; ".join(c.split(";")[0] for c in headers.get_all("Set-Cookie"))
    kernel = re.findall(r"Kernel started: (\S+)", app.log.read_text())[-1]
    path, own = f"/voila/api/shutdown/{kernel}", {"Origin": f"http://127.0.0.1:{app.port}"}
    assert posted(app, path, **own) == 403
    for foreign in FOREIGN.values():
        assert posted(app, path, Cookie=cookie, **foreign) == 403
    assert f"Kernel shutdown: {kernel}" not in app.log.read_text()
    assert posted(app, path, Cookie=cookie, **own) == 204
    assert f"Kernel shutdown: {kernel}" in app.log.read_text()


@pytest.mark.slow
def test_sigterm_to_run_py_ends_all_that_it_started(tmp_path):
    psutil = pytest.importorskip("psutil")
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME")}
    env = os.environ | folders | {"JUPYTER_TOKEN": TOKEN, "BROWSER": "true %s"}
    log = tmp_path / "log"
    with open(log, "w") as out:
        p = subprocess.Popen([sys.executable, "run.py", "app", "--here"], cwd=ROOT, env=env, stdout=out, stderr=out)
    started = []
    try:
        ends = time.monotonic() + 120
        while not (told := re.search(r"http://localhost:(\d+)/", log.read_text())) and time.monotonic() < ends:
            time.sleep(0.2)
        served = SimpleNamespace(port=int(told[1]))
        assert ask(served, "/?token=" + TOKEN)[0] == 200  # which starts a kernel
        started = psutil.Process(p.pid).children(recursive=True)
        assert len(started) >= 2
        p.terminate()
        assert p.wait(60) == 128 + 15 or p.returncode == 0
        _, alive = psutil.wait_procs(started, timeout=20)
        assert not alive
    finally:
        for process in [*started, p]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
