"""A hand that does anything at random in the explorer, for as long as it is asked to, and what that does to memory.

`python tests/support/random_hand.py 500` writes how much memory 500 actions take to data/results;
`python tests/support/random_hand.py 3600 s` goes on for an hour."""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def wander(live, seed: int = 0):
    "Do one thing after another, without an end; yields after each."
    random = np.random.default_rng(seed)
    film, inside, gallery = (live.panels.tabbed[name] for name in ("film", "inside", "gallery"))
    names = list(live.session.steps)

    def slide():
        live.panels.directions.shown()[random.integers(2)].slider.value = float(random.uniform(-3, 3))

    def roam():
        live.panels.hands.grab()
        live.screen.shown.roam = [float(v) for v in random.uniform(-1, 1, 2)]

    def key_frame():
        film.add()
        if len(film.keys.items) > 6:
            film.keys.drop(int(random.integers(6)))

    actions = [
        slide,
        roam,
        key_frame,
        lambda: live.move(names[random.integers(len(names))], float(random.uniform(-3, 3))),
        lambda: live.set(seed=int(random.integers(1000)), latent=None),
        lambda: live.breed(int(random.integers(8))),
        lambda: live.keep(f"kept {random.integers(20)}"),
        lambda: live.dropped("no.png", bytes(random.bytes(2000))),
        lambda: setattr(live.panels.tabs, "selected_index", int(random.integers(len(live.panels.tabbed)))),
        lambda: setattr(inside.how, "value", inside.how.options[random.integers(len(inside.how.options))]),
        lambda: gallery.click(int(random.integers(24))),
        lambda: setattr(live.panels.hands.wipe, "value", bool(random.integers(2))),
        live.undo,
        live.redo,
    ]
    while True:
        live.act(actions[random.integers(len(actions))])
        yield


def measure(actions: float, seconds: float, seen: int = 20) -> list[dict]:
    "Rows of memory on the way, until so many actions or seconds are over."
    import psutil

    from hsr_nb.explore import LatentExplorer
    from hsr_nb.studies.teacher_view import heads_of

    process = psutil.Process()
    live = LatentExplorer(heads=heads_of)
    begun, rows = time.monotonic(), []
    for done, _ in enumerate(wander(live), 1):
        took = time.monotonic() - begun
        over = done >= actions or took >= seconds
        if over or max(done / actions, took / seconds) * seen >= len(rows) + 1:
            rows.append({"actions": done, "seconds": round(took), "MB": round(process.memory_info().rss / 1e6)})
            print(rows[-1], flush=True)
        if over:
            return rows


if __name__ == "__main__":
    from hsr_nb.base.provenance import write_result

    count = float(sys.argv[1]) if len(sys.argv) > 1 else 500.0
    timed = sys.argv[2:] == ["s"]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = os.environ["XDG_DATA_HOME"] = cache
        rows = measure(*((float("inf"), count) if timed else (count, float("inf"))))
    config = {"networks": "the embedded pair, with judge, heads and teacher", "seed": 0, "MB": "resident memory"}
    name = "explorer-memory-hour" if timed and count >= 3600 else "explorer-memory"
    print(write_result(ROOT / "data/results", name, config, rows).name)
