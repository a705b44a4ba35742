"""How long a moved slider waits for its picture in the browser, beside the generator's own time.

`python tests/support/measure_explorer.py` opens networks of 32, 64 and 256 pixels in the app, in chromium, and writes
the figures to data/results. `--short` moves less often and writes nothing: does it work?"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from browser import Hand, drag, voila

from hsr_nb.base.provenance import write_result
from hsr_nb.explore.session import Session
from hsr_nb.interop import save_safetensors
from hsr_nb.nets import Generator

ROOT = Path(__file__).resolve().parents[2]
SIDES = (32, 64, 256)
STATUS = ".hsr-status"

# From a key on the slider until its picture is painted, as the page's own clock says, and what the kernel says that the
# drawing took. Long pauses let the hand rest.
MOVES = """async ([moves, pause]) => {
  const handle = document.querySelector(".hsr-row .widget-slider .noUi-handle");
  const stage = document.querySelector(".hsr-stage .hsr-tiles");
  const took = [], drawn = [];
  for (let i = 0; i < moves; i++) {
    const key = i % 10 < 5 ? "ArrowRight" : "ArrowLeft";
    const begun = performance.now();
    const painted = new Promise(done => {
      const seen = new MutationObserver(() => { seen.disconnect(); done(performance.now()); });
      seen.observe(stage, { attributes: true, attributeFilter: ["data-drawn"] });
    });
    handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    took.push(await painted - begun);
    await new Promise(done => setTimeout(done, pause));
    drawn.push(parseFloat(document.querySelector(".hsr-status").textContent));
  }
  return [took, drawn];
}"""


def network_file(folder: Path, side: int) -> Path:
    "A generator of the published width, with random weights: speed does not depend on what it was taught."
    torch.manual_seed(0)
    G = Generator(img_resolution=side, synthesis_kwargs={"channel_base": 16384}).eval()
    G.mapping.w_avg.zero_()
    tensors = {f"G_ema.{name}": value for name, value in G.state_dict().items()}
    return Path(save_safetensors(folder / f"random-{side}.safetensors", tensors, {"G": G.init_kwargs}))


def opened(page, hand: Hand, file: Path, side: int) -> float:
    "Open a file by hand; seconds until its first picture."
    hand.tab("networks")
    for field, text in zip((0, 1), (str(file), "")):
        page.locator(".hsr-network input").nth(field).fill(text)
        page.locator(".hsr-network input").nth(field).press("Tab")
    begun = time.monotonic()
    page.locator(".hsr-explorer button", has_text="open").last.click()
    stage = page.locator(".hsr-stage figure span", has_text=file.name)
    stage.first.wait_for()
    took = time.monotonic() - begun
    assert f"{side} × {side} px" in page.locator(STATUS).inner_text()
    hand.tab("sliders")
    hand.still()
    return took


def own_time(file: str, level: int | None, repeats: int) -> float:
    "Median milliseconds of the generator alone, at the level of the preview."
    s = Session(file, components=1, samples=200, judge=None)
    ws = torch.zeros(1, s.nets["A"].num_ws, s.nets["A"].w_dim)
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        s.draw(ws, level=level, draft=level is not None)
        took.append(1000 * (time.perf_counter() - begun))
    return float(np.median(took))


def alone(file: Path, level: int | None, repeats: int) -> float:
    "The same in a process of its own, which the system treats as it treats the explorer's kernel."
    cmd = [sys.executable, __file__, "--alone", str(file), str(level or 0), str(repeats)]
    told = subprocess.run(cmd, check=True, capture_output=True, text=True, start_new_session=True)
    return float(told.stdout.split()[-1])


def moved(page, hand: Hand, short: bool) -> tuple[dict, int | None]:
    "What the hand waits for with the networks that are open; and the level of the preview."
    moving, drawn = page.evaluate(MOVES, [10 if short else 80, 60])
    shown = page.locator(STATUS).inner_text()
    hand.still()
    resting, _ = page.evaluate(MOVES, [3 if short else 20, 1500])
    hand.still()
    dragged = drag(hand, 2 if short else 10)
    hand.still()  # the kernel is at rest while the generator is timed alone
    level = int(shown.split(" × ")[0].split()[-1]) if "preview" in shown else None
    median = float(np.median(moving))
    return {
        "drawn_ms": float(np.median(drawn)),
        "slider_to_picture_ms": round(median, 1),
        "p95_ms": round(float(np.percentile(moving, 95)), 1),
        "overhead_ms": round(median - float(np.median(drawn)), 1),
        "first_move_after_rest_ms": round(float(np.median(resting)), 1),
        "drag_moves": dragged["moves"],
        "drag_pictures": dragged["frames"],
        "last_picture_after_drag_s": round(dragged["seconds_after"], 2),
    }, level


def measured(page, hand: Hand, file: Path, side: int, short: bool) -> dict:
    "A row of one network."
    first = opened(page, hand, file, side)
    row, level = moved(page, hand, short)
    own = round(alone(file, level, 10 if short else 100), 1)
    return {"pixels": side, "preview": level or side, "first_picture_s": round(first, 1), "generator_ms": own} | row


def main(short: bool):
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {side: network_file(folder, side) for side in SIDES}
        with voila(folder, OMP_NUM_THREADS=str(torch.get_num_threads())) as page:
            hand = Hand(page)
            hand.still()
            row, level = moved(page, hand, short)
            rows.append({"pixels": 64, "preview": level or 64, "networks": "the shipped pair, A | B"} | row)
            print(rows[-1], flush=True)
            for side, file in files.items():
                rows.append(measured(page, hand, file, side, short))
                print(rows[-1], flush=True)
    config = {
        "channel_base": 16384,
        "weights": "random",
        "browser": "chromium without a screen, 1280 × 1040",
        "threads": torch.get_num_threads(),
        "slider_to_picture": "median of 80 keys on the slider, 60 ms after each other's picture, until it is painted",
        "generator": "the same picture over and over in a process of its own, while the explorer rests",
        "drawn": "what drawing it took in the kernel, between two moves: its threads have slept since the last one",
        "overhead": "slider to picture without the drawing",
    }
    if not short:
        print(write_result(ROOT / "data/results", "explorer-times", config, rows).name)


if __name__ == "__main__":
    if "--alone" in sys.argv:
        file, level, repeats = sys.argv[2:]
        print(own_time(file, int(level) or None, int(repeats)))
    else:
        main("--short" in sys.argv)
