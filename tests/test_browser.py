"""The explorer in a real browser, in JupyterLab and in Voilà.

A slider is moved by the keyboard, undone, compared, saved, loaded, and fed bad files.
"""

import json
import os
import shutil
import sys
import time

import pytest
from support.browser import MARKS, PIXELS, ROOT, STAGE, Hand, browser, drag, environment, free_port, lab, server, voila

for package in ("playwright", "ipywidgets", "anywidget"):
    pytest.importorskip(package, reason=f"the browser tests need {package}")
pytestmark = MARKS


def exercise(page, tmp_path, shot):
    "The whole visit; a screenshot on the way."
    hand = Hand(page)
    hand.still()
    first = hand.pictures()
    assert len(first) == 2 and first[0] != first[1], "A/B shows two different pictures"

    hand.slider.focus()
    for _ in range(10):
        hand.slider.press("ArrowRight")
    hand.until(lambda: abs(float(hand.slider.get_attribute("aria-valuenow")) - 1) < 0.01, "the slider at 1")
    hand.until(lambda: hand.pictures()[0] != first[0] and hand.pictures()[1] != first[1], "both pictures changed")
    hand.still()
    moved = hand.pictures()
    if shot:
        page.screenshot(path=shot)

    undone = 0
    while hand.pictures() != first and undone < 20:  # one step, unless this machine took seconds between two keys
        undone += 1
        hand.button("undo").click()
        hand.still()
    assert hand.pictures() == first, "undo brings back the exact pictures"
    while hand.pictures() != moved and undone:  # an undo clicked before its picture came may have had nothing left
        undone -= 1
        hand.button("redo").click()
        hand.still()
    hand.until(lambda: hand.pictures() == moved, "redo brings back the exact pictures")

    hand.button("|A−B|").click()
    hand.until(lambda: len(hand.pictures()) == 3, "the difference as a third picture")
    hand.still()
    three = hand.pictures()  # the same faces on smaller canvases

    hand.tab("kept")
    with page.expect_download() as saved:
        page.locator(".hsr-link[download='recipe.json']").click()
    file = tmp_path / "recipe.json"
    saved.value.save_as(file)
    assert json.loads(file.read_text())["format"] == "hsr_nb recipe 1"
    figure = page.locator(".hsr-stage .hsr-tiles figure").first
    figure.focus()
    for _ in range(3):
        figure.press("ArrowRight")  # three seeds on
    hand.until(lambda: not set(hand.pictures()) & set(three), "other pictures")
    hand.still()

    def upload(path):
        with page.expect_file_chooser() as chooser:
            hand.button("load a recipe").click()
        chooser.value.set_files(path)

    upload(file)
    hand.until(lambda: hand.pictures() == three, "the loaded recipe gives the same pixels")

    (other := tmp_path / "other.json").write_text(json.dumps({**json.loads(file.read_text()), "generator": "0" * 64}))
    upload(other)
    alert = page.locator(".hsr-explorer [role=alert]").last  # the one above the tabs
    hand.until(lambda: "another generator" in alert.inner_text(), "the sentence about another generator")
    assert hand.pictures() == three
    hand.tab("networks")
    (bad := tmp_path / "no.safetensors").write_text("this is no checkpoint")
    page.locator(".hsr-network input").first.fill(str(bad))
    page.locator(".hsr-network input").first.press("Tab")
    page.locator(".hsr-explorer button", has_text="open").last.click()
    hand.until(lambda: "no.safetensors is no" in alert.inner_text(), "the sentence about the file")
    assert alert.bounding_box()["y"] > 0 and alert.bounding_box()["y"] + 20 < page.viewport_size["height"], (
        "seen without scrolling"
    )
    assert hand.pictures() == three
    hand.tab("sliders")
    hand.slider.focus()
    hand.slider.press("ArrowLeft")
    hand.until(
        lambda: not set(hand.pictures()) & set(three) and alert.count() == 0,
        "the kernel lives: the slider still works, the sentence is gone",
    )
    return hand


@pytest.mark.parametrize("place", [lab, voila], ids=["jupyterlab", "voila"])
def test_explorer_in_a_browser(place, tmp_path):
    shots = os.environ.get("SHOTS")  # a folder, to look at what was seen
    with place(tmp_path) as page:
        try:
            hand = exercise(page, tmp_path, shots and f"{shots}/{place.__name__}.png")
        except BaseException:
            if shots:
                page.screenshot(path=f"{shots}/{place.__name__}-failed.png")
            raise
        told = drag(hand)
        print(place.__name__, told)
        assert told["seconds_after"] < 1.5, "pictures queued up during the drag"


def test_a_newcomer_moves_a_slider_within_two_minutes(tmp_path):
    "From `run.py lab` in a copy of the checkout, by mouse and menus only."
    clone, port = tmp_path / "clone", free_port()
    shutil.copytree(ROOT / "nbs", clone / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "run.py", clone)
    env = environment(tmp_path / "home") | {"JUPYTER_PORT": str(port), "JUPYTER_TOKEN": "newcomer"}
    (tmp_path / "home/cfg/jupyter_server_config.py").write_text("c.ServerApp.open_browser = False\n")
    begun, stages = time.monotonic(), {}

    def passed(what):
        return stages.__setitem__(what, round(time.monotonic() - begun, 1))

    with (
        server(
            [sys.executable, "run.py", "lab", "--here"],
            tmp_path / "lab.log",
            f"http://127.0.0.1:{port}/api",
            env,
            clone,
        ),
        browser() as page,
    ):
        passed("server answers")
        page.goto(
            f"http://127.0.0.1:{port}/lab/tree/experiments/explore.ipynb?token=newcomer"
        )  # the address that the server opens
        page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
        passed("page open, kernel idle")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        handle, seen = page.locator(".hsr-row .widget-slider .noUi-handle").first, lambda: page.evaluate(PIXELS, STAGE)
        handle.wait_for()
        page.locator(STAGE).first.wait_for()
        passed("sliders there")
        before = seen()
        while (
            seen() == before and time.monotonic() - begun < 120
        ):  # as a person would: drag, look, and again where nothing happened
            handle.hover()
            page.mouse.down()
            box = handle.bounding_box()
            page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2, steps=5)
            page.mouse.up()
            for _ in range(100):
                if seen() != before:
                    break
                page.wait_for_timeout(50)
        passed("picture follows")
        print("newcomer, seconds from run.py lab:", stages)
        if shots := os.environ.get("SHOTS"):
            page.screenshot(path=f"{shots}/newcomer.png")
        assert seen() != before and stages["picture follows"] < 120
