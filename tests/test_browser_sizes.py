"""The app on five screens, by day and by night, by keyboard alone; and what is left when its pages go."""

import io
import json
import os
import sys

import pytest
from PIL import Image
from support.browser import MARKS, STAGE, Hand, browser, environment, free_port, server, voila

for package in ("playwright", "ipywidgets", "anywidget", "voila"):
    pytest.importorskip(package, reason=f"the browser tests need {package}")
pytestmark = MARKS

SIZES = {
    (1920, 1080): 8,
    (1280, 1024): 6,
    (1280, 800): 6,
    (768, 1024): 6,
    (390, 844): 3,
}  # and sliders beside the faces
SEEN = """sel => {
  const inside = [...document.querySelectorAll(sel)].filter(e => {
    const r = e.getBoundingClientRect();
    if (r.width < 2 || r.top < -1 || r.left < -1) return false;
    if (r.bottom > innerHeight + 1 || r.right > innerWidth + 1) return false;
    const top = document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2);
    return top && (e.contains(top) || top.contains(e));
  });
  return inside.map(e => e.getBoundingClientRect().width);
}"""
STRENGTH = ".hsr-row-right > .widget-hslider:nth-child(2) .noUi-handle"


def seen(page, selector):
    "Widths of the elements that can be seen whole."
    return page.evaluate(SEEN, selector)


def grey(colour):
    "How bright a colour of the page is, 0 to 255."
    parts = colour[colour.index("(") + 1 : -1].split(",")
    return sum(float(part) for part in parts[:3]) / 3


def test_the_app_on_five_screens(tmp_path):
    shots = os.environ.get("SHOTS")
    with voila(tmp_path) as page:
        hand = Hand(page)
        hand.still()
        assert "Run All" not in page.inner_text("body") and page.locator(".jp-RenderedMarkdown").count() == 0
        for view, count in (("A | B", 2), ("|A−B|", 3)):
            hand.button(view).click()
            hand.until(lambda count=count: len(hand.pictures()) == count, f"{count} pictures")
            for (width, height), sliders in SIZES.items():
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    page.set_viewport_size(dict(width=width, height=height))
                    page.wait_for_timeout(300)
                    if shots:
                        page.screenshot(path=f"{shots}/app-{width}x{height}-{count}-{scheme}.png")
                    faces = seen(page, STAGE)
                    assert len(faces) == count, (width, view, faces)
                    assert min(faces) >= (512 if width == 1920 else 100), (width, faces)
                    assert len(seen(page, STRENGTH)) >= sliders, (width, view)
                    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                    back = page.evaluate("getComputedStyle(document.querySelector('.hsr-frame')).backgroundColor")
                    ink = page.evaluate("getComputedStyle(document.querySelector('.hsr-title')).color")
                    assert (grey(back) < 80) == (grey(ink) > 150) == (scheme == "dark")
                page.locator(".hsr-tools").evaluate("e => e.scrollTo(0, e.scrollHeight)")
                assert len(seen(page, STAGE)) == count, "faces stay while sliders scroll"
                page.locator(".hsr-tools").evaluate("e => e.scrollTo(0, 0)")
        by_keyboard(page, hand)


def by_keyboard(page, hand):
    "Everything has a name, in the order in which it stands, and a slider moves."
    page.set_viewport_size(dict(width=1280, height=800))
    nameless = page.evaluate(
        """[...document.querySelectorAll('.hsr-frame button, .hsr-frame input, .hsr-frame select, .noUi-handle')]
        .filter(e => e.offsetParent && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length
        || e.title || e.querySelector('canvas[aria-label]'))).map(e => e.outerHTML.slice(0, 200))"""
    )
    assert not nameless, nameless[:3]
    page.locator(".hsr-top button").nth(2).focus()
    order = []
    for _ in range(60):
        page.keyboard.press("Tab")
        label = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
        order.append(page.evaluate(label))
        if order[-1] == "gender strength":
            break
    assert order[-1] == "gender strength", order
    before = hand.pictures()
    page.keyboard.press("ArrowRight")
    hand.until(lambda: hand.pictures() != before, "the picture follows the keyboard")


def test_ten_reloads_leave_one_kernel(tmp_path):
    "With a page of one small widget, for kernels are counted here and not faces."
    cell = {"cell_type": "code", "id": "a", "execution_count": None, "metadata": {}, "outputs": []}
    cell["source"] = "import ipywidgets\nipywidgets.IntSlider()"
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    content = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "page.ipynb").write_text(json.dumps(content))
    port, log = free_port(), tmp_path / "log"
    asked = f"{str(tmp_path / 'page.ipynb')!r}, '--no-browser', '--port={port}'"
    cmd = [sys.executable, "-c", f"from hsr_nb.explore.app import serve; serve({asked})"]
    env = environment(tmp_path / "home") | {"JUPYTER_TOKEN": "visitor"}
    base = f"http://127.0.0.1:{port}"
    with server(cmd, log, f"{base}/voila/static/none", env), browser() as page:
        page.goto(f"{base}/?token=visitor")
        for _ in range(10):
            page.locator(".noUi-handle").wait_for()
            page.reload()
        page.locator(".noUi-handle").wait_for()
        for _ in range(100):
            told = log.read_text()
            if told.count("Kernel started") - told.count("Kernel shutdown") == 1:
                break
            page.wait_for_timeout(100)
        assert (told.count("Kernel started"), told.count("Kernel shutdown")) == (11, 10)


def test_a_tour(tmp_path):
    "The explorer at work, as a film of less than two megabytes; kept where TOUR says."
    frames = []
    with voila(tmp_path) as page:
        page.set_viewport_size(dict(width=1180, height=740))
        hand = Hand(page)
        hand.still()

        def look(count=1):
            for _ in range(count):
                shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                frames.append(shot.resize((shot.width * 2 // 3, shot.height * 2 // 3), Image.Resampling.LANCZOS))

        def turn(attribute, steps):
            page.locator(f'.noUi-handle[aria-label="{attribute} strength"]').focus()
            for _ in range(steps):
                for _ in range(3):
                    page.keyboard.press("ArrowRight")
                page.wait_for_timeout(250)
                look()

        def visit(name, pause=700, count=4):
            hand.tab(name)
            page.wait_for_timeout(pause)
            hand.still()
            look(count)

        look(3)
        turn("smile", 5)
        turn("age", 4)
        hand.still()
        look(2)
        visit("gallery", 2500)
        page.locator(".hsr-tools button.hsr-tile:visible").nth(16).click()
        hand.still()
        look(3)
        visit("inside", count=2)
        hand.button("teacher").click()
        hand.until(lambda: page.locator(".hsr-tools figure", has_text="head").count() == 1, "what the head predicts")
        hand.still()
        look(4)
        psi = page.locator('.noUi-handle[aria-label="psi"]')
        psi.focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
            page.wait_for_timeout(400)
            look()
        visit("breed", 1500)
        visit("mix")
        page.locator(".hsr-layer").nth(1).click()
        page.wait_for_timeout(700)
        look(3)
        for _ in range(2):
            hand.button("undo").click()
            page.wait_for_timeout(500)
            look(2)
    some = Image.new("RGB", (frames[0].width, 4 * frames[0].height))
    for i in range(4):
        some.paste(frames[i * (len(frames) - 1) // 3], (0, i * frames[0].height))
    palette = some.quantize(
        255, method=Image.Quantize.MEDIANCUT, kmeans=2
    )  # one for all: what stands still costs nothing
    film, *rest = (x.quantize(palette=palette, dither=Image.Dither.NONE) for x in frames)
    out = io.BytesIO()
    film.save(out, "GIF", save_all=True, append_images=rest, duration=220, loop=0, optimize=True)
    assert 50_000 < len(out.getvalue()) < 2_000_000 and len({x.tobytes() for x in frames}) > 12
    if os.environ.get("TOUR"):
        with open(os.environ["TOUR"], "wb") as file:
            file.write(out.getvalue())
