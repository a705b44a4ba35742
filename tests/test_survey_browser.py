"""The survey in a real browser, on a desk and on a telephone: by mouse, by keyboard, with a server that is killed."""

import os
import re
import shutil
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.survey import Rules, Server, item_order, served, session_names, small_survey

from hsr_nb.survey.folder import answers_file

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
for package in ("playwright", "starlette", "uvicorn", "tyro"):
    pytest.importorskip(package, reason=f"the survey's browser tests need {package}")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="the browser tests need chromium: apt-get install chromium, or set CHROMIUM"
    ),
]
DESK, PHONE = (1280, 800), (390, 844)
SHOTS = os.environ.get("SURVEY_SHOTS")  # a folder for screenshots, to look at


@contextmanager
def browser(size, **options):
    "A page in a fresh context; a request to another address, an error in its log, a breach of its policy: a failure."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        phone = dict(has_touch=True, is_mobile=True, device_scale_factor=2) if size == PHONE else {}
        context = chromium.new_context(viewport=dict(width=size[0], height=size[1]), **phone, **options)
        page = context.new_page()
        page.set_default_timeout(30_000)
        wrong, hosts = [], set()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "503" not in m.text else None)
        page.on("request", lambda r: hosts.add(re.match(r"\w+://([^/:]*)", r.url)[1]))
        yield page
        chromium.close()
    assert hosts <= {"127.0.0.1"}, hosts
    assert not [w for w in wrong if "ERR_CONNECTION" not in w], wrong[:3]


def shot(page, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def fits(page):
    "Nothing sticks out to the side, and what one has to press is large enough for a finger and on the screen."
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{wide} pixels too wide at {page.url}"
    for button in page.locator(".answers button, .scale button").all():
        box = button.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44
        assert box["y"] + box["height"] <= page.viewport_size["height"], "the buttons are below the edge of the screen"


def names_are_told(page):
    "Everything that can be pressed, filled in or seen has a name for a screen reader; one h1, one main, a language."
    tree = page.locator("body").aria_snapshot()
    assert not re.search(r"(?m)^\s*- (button|link|checkbox|combobox|img)( \[[^\]]*\])*:?$", tree), tree
    assert page.locator("h1").count() == page.locator("main").count() == 1
    assert page.locator("html").get_attribute("lang") == "en" and page.title()
    for image in page.locator("img").all():
        assert image.get_attribute("alt")


def stored(folder):
    with sqlite3.connect(answers_file(folder)) as db:
        return db.execute("SELECT item, pos, answer, rt_ms, conf FROM answers ORDER BY session, pos").fetchall()


def begin(page, address):
    page.goto(address)
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_url("**/survey")


def wait_for(page, pos, count):
    page.get_by_text(f"Picture {pos + 1} of {count}", exact=True).wait_for()
    page.locator(".answers button:enabled").first.wait_for()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_whole_session_by_mouse_or_finger(tmp_path, size):
    survey = small_survey(tmp_path / "faces", questions=8, size=64)
    with served(survey.folder, tmp_path) as server, browser(size) as page:
        press = (lambda where: where.tap()) if size == PHONE else (lambda where: where.click())
        page.goto(server.address)
        fits(page), names_are_told(page), shot(page, f"intro-{size[0]}")
        press(page.get_by_role("button", name="Begin"))  # the browser itself points at the box
        assert page.url.rstrip("/") == server.address
        press(page.get_by_role("checkbox"))
        press(page.get_by_role("button", name="Begin"))
        page.get_by_text("One picture to practise").wait_for()
        fits(page), names_are_told(page), shot(page, f"practice-{size[0]}")
        press(page.get_by_role("button", name="Real"))
        page.get_by_role("link", name="Start with picture 1").wait_for()
        fits(page), names_are_told(page), shot(page, f"feedback-{size[0]}")
        press(page.get_by_role("link", name="Start with picture 1"))
        for pos in range(10):
            wait_for(page, pos, 10)
            natural = page.evaluate("[document.querySelector('.picture img').naturalWidth, document.cookie]")
            assert natural == [64, ""]  # the picture is there; no script can read the cookie
            if pos == 3:
                fits(page), names_are_told(page), shot(page, f"question-{size[0]}")
                page.reload()
                wait_for(page, pos, 10)
                press(page.get_by_role("link", name="Stop"))
                page.get_by_role("heading", name="Stop here?").wait_for()
                fits(page), names_are_told(page), shot(page, f"stop-{size[0]}")
                press(page.get_by_role("link", name="Go on with the pictures"))
                wait_for(page, pos, 10)
            if pos == 5:
                page.go_back()  # to an earlier page: the browser may show it, the answers stay
                page.goto(f"{server.address}/survey")
                wait_for(page, pos, 10)
            press(page.get_by_role("button", name=("Real", "Made by a computer")[pos % 2]))
        page.get_by_text("Thank you").wait_for()
        fits(page), names_are_told(page), shot(page, f"end-{size[0]}")
        score = int(re.search(r"right (\d+) times of 8", page.content())[1])
        press(page.get_by_role("link", name="Where the pictures are from"))
        page.get_by_text("SynthFaces").wait_for()
        fits(page), names_are_told(page), shot(page, f"credits-{size[0]}")
        press(page.get_by_role("link", name="Back"))
        page.get_by_role("heading", name="Thank you").wait_for()
        press(page.get_by_role("link", name="Show me where I was wrong"))
        page.get_by_role("heading", name="Where you were wrong").wait_for()
        assert page.locator(".gallery img").count() == 8 - score
        fits(page), names_are_told(page), shot(page, f"review-{size[0]}")
        rows = stored(survey.folder)
        (name,) = session_names(survey.folder)
        assert [r[0] for r in rows] == item_order(survey.key, name) and [r[1] for r in rows] == list(range(10))
        assert [r[2] for r in rows] == ["real", "fake"] * 5 and all(0 < r[3] < 60_000 for r in rows)
        right = [
            r for r in rows if survey.key.items[r[0]]["role"] == "scored" and r[2] == survey.key.items[r[0]]["class"]
        ]
        assert len(right) == score
        press(page.get_by_role("link", name="Back"))
        press(page.get_by_role("button", name="Somebody else on this device"))
        page.get_by_role("button", name="Begin").wait_for()
        assert page.context.cookies() == []


def test_a_whole_session_by_keyboard(tmp_path):
    "With confidence and questions about oneself; no mouse at all. A key that is held down answers once."
    rules = Rules(confidence=True, demographics=True)
    survey = small_survey(tmp_path / "faces", questions=6, rules=rules, attention=0)
    with served(survey.folder, tmp_path) as server, browser(DESK) as page:
        page.goto(server.address)
        shot(page, "intro-demographics")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")  # age
        for _ in range(3):
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "adult"
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # the focus can be seen
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/survey")
        page.locator(".answers button:enabled").first.wait_for()
        page.keyboard.press("2")
        page.get_by_role("link", name="Start with picture 1").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        (name,) = session_names(survey.folder)
        flip = sqlite3.connect(answers_file(survey.folder)).execute("SELECT flip FROM sessions").fetchone()[0]
        for pos in range(6):
            wait_for(page, pos, 6)
            assert page.evaluate("document.activeElement.tagName") == "H1"  # a screen reader begins with the question
            if pos == 0:
                page.keyboard.press("Control+1")  # is the browser's own
                page.keyboard.press("3")
                wait_for(page, 0, 6)
            page.keyboard.down("1") if pos == 2 else page.keyboard.press("1")
            page.get_by_role("heading", name="How sure are you?").wait_for()
            if pos == 2:
                page.keyboard.down("1")  # still held: repeats
                page.keyboard.down("1")
                assert page.get_by_role("heading", name="How sure are you?").is_visible()
                page.keyboard.up("1")
                fits(page), names_are_told(page), shot(page, "sure-1280")
            page.keyboard.press(str(1 + pos % 5))
        page.get_by_text("Thank you").wait_for()
        rows = stored(survey.folder)
        assert [r[2] for r in rows] == [("real", "fake")[flip]] * 6 and [r[4] for r in rows] == [1, 2, 3, 4, 5, 1]
        assert [r[0] for r in rows] == item_order(survey.key, name)
        told = sqlite3.connect(answers_file(survey.folder)).execute("SELECT who FROM sessions").fetchone()[0]
        assert told == '{"age": "18 to 29"}'


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_session_whose_server_is_killed(tmp_path, size):
    "SIGKILL between the picture and the answer: the browser says so, and after a restart everything goes on."
    survey = small_survey(tmp_path / "faces", questions=8)
    server = Server(survey.folder, tmp_path / "log")
    try:
        with browser(size) as page:
            begin(page, server.address)
            page.get_by_role("button", name="Real").click()
            page.get_by_role("link", name="Start with picture 1").click()
            for pos in range(4):
                wait_for(page, pos, 10)
                page.get_by_role("button", name="Real").click()
            wait_for(page, 4, 10)
            shown = page.locator(".picture img").get_attribute("src")
            server.kill()
            page.get_by_role("button", name="Real").click()
            page.wait_for_timeout(300)
            assert len(stored(survey.folder)) == 4
            server = Server(survey.folder, tmp_path / "log", port=server.port)
            page.goto(server.address)  # as somebody does who comes back: the beginning leads on
            wait_for(page, 4, 10)
            assert page.locator(".picture img").get_attribute("src") == shown
            for pos in range(4, 10):
                wait_for(page, pos, 10)
                page.get_by_role("button", name="Made by a computer").click()
            page.get_by_text("Thank you").wait_for()
        rows = stored(survey.folder)
        (name,) = session_names(survey.folder)
        assert [r[0] for r in rows] == item_order(survey.key, name) and [r[2] for r in rows] == ["real"] * 4 + [
            "fake"
        ] * 6
    finally:
        if server.process.poll() is None:
            server.kill()


def test_a_picture_for_a_limited_time_and_a_darker_page(tmp_path):
    survey = small_survey(tmp_path / "faces", questions=4, size=64, attention=0, rules=Rules(exposure_ms=500))
    with served(survey.folder, tmp_path) as server, browser(PHONE, color_scheme="dark") as page:
        begin(page, server.address)
        fits(page), shot(page, "exposure-before")
        page.get_by_role("button", name="Show the picture").click()
        page.get_by_text("The picture is covered now").wait_for()
        page.get_by_role("button", name="Real").click()
        page.get_by_role("link", name="Start with picture 1").click()
        for pos in range(4):
            page.get_by_text(f"Picture {pos + 1} of 4", exact=True).wait_for()
            real = page.get_by_role("button", name="Real")
            assert real.is_disabled() and "mask.png" in page.locator(".picture img").get_attribute("src")
            page.get_by_role("button", name="Show the picture").click()
            page.locator(".picture img[src^='/picture/']").wait_for()
            shot(page, "exposure-during") if pos == 1 else None
            page.locator(".picture img[src='/mask.png']").wait_for()
            shot(page, "exposure-after") if pos == 1 else None
            if pos == 2:  # a reload gives no second look
                page.reload()
                page.get_by_text("You have seen this picture already").wait_for()
            real.click()
        page.get_by_text("Thank you").wait_for()
        shot(page, "end-dark")
        assert [r[3] is None or r[3] >= 500 for r in stored(survey.folder)] == [True, True, False, True]


def test_without_javascript(tmp_path):
    survey = small_survey(tmp_path / "faces", questions=4, attention=0)
    with served(survey.folder, tmp_path) as server, browser(DESK, java_script_enabled=False) as page:
        begin(page, server.address)
        page.get_by_role("button", name="Real").click()
        page.get_by_role("link", name="Start with picture 1").click()
        for pos in range(4):
            page.get_by_text(f"Picture {pos + 1} of 4", exact=True).wait_for()
            page.get_by_role("button", name="Real").click()
        page.get_by_text("Thank you").wait_for()
        assert [r[2:4] for r in stored(survey.folder)] == [("real", None)] * 4
