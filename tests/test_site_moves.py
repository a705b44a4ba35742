"The sliders and the quiz of the site in a real browser: keyboard, a phone's width, no request that leaves the site."

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parents[1] / "nbs"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytest.importorskip("playwright", reason="the browser tests need playwright")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need chromium: apt-get install chromium"),
]
PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="styles.css"><body style="margin: 8px">{}</body>"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A page with nothing but the sliders."
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(NBS / "strips", folder / "strips")
    shutil.copy(NBS / "styles.css", folder)
    html = (NBS / "strips/sliders.html").read_text(encoding="utf-8").replace("STRIPS/", "strips/")
    (folder / "page.html").write_text(PAGE.format(html), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


PIXELS = "() => [...document.querySelectorAll('canvas[data-network]')].map(c => c.toDataURL())"


def opened(browser, site, width):
    "The page, and what it asked for and complained of."
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site}page.html", wait_until="load")
    page.wait_for_function(f"({PIXELS})().every(u => u.length > 3000)")
    return page, asked, errors


def test_six_sliders_move_both_faces_by_keyboard(browser, site):
    page, asked, errors = opened(browser, site, 1400)
    sliders = page.locator(".strips-sliders input")
    assert sliders.count() == 6
    for i in range(6):
        before = page.evaluate(PIXELS)
        sliders.nth(i).focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        after = page.evaluate(PIXELS)
        assert all(a != b for a, b in zip(before, after, strict=True)), i
        assert "σ" in page.locator("[data-reading=hsr]").inner_text()
    before = page.evaluate(PIXELS)
    page.get_by_role("button", name="next face").click()
    assert page.evaluate(PIXELS) != before and "face 2 of" in page.locator("[data-face]").inner_text()
    assert not errors and all(url.startswith((site, "data:")) for url in asked)


def test_the_quiz_keeps_its_answers_until_asked(browser, site):
    page, _, errors = opened(browser, site, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("summary").click()
    words = page.locator(".strips-six")
    assert "real" not in words.inner_text()
    page.locator(".strips-six button").first.click()
    page.get_by_role("button", name="show the answers").click()
    assert words.inner_text().count("generated") == 3 and "of 6 right" in page.locator("[data-score]").inner_text()
    assert not errors
