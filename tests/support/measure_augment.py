"""What augmentation adds to a training step, as ratios within one process.

    python tests/support/measure_augment.py [--preset tiny32] [--rounds 49] [--threads 1] [--arms "ada p=1"]

The arms take turns step by step, so whatever else the machine does falls on all of them alike. A round is one step of
each arm; 16 rounds hold every phase as often as a run does, and one more warms up. `reference` resamples by the
definition."""

import argparse
import json
import statistics
import time
from functools import partial

import torch

from hsr_nb.base.provenance import provenance
from hsr_nb.base.streams import stream
from hsr_nb.training import override, preset
from hsr_nb.training.augment import AugmentPipe
from hsr_nb.training.loop import Step, train_step
from hsr_nb.training.parallel import Processes, Stats, keep_freed_memory
from hsr_nb.training.state import build_state

ARMS = {
    "none": {},
    "ada p=0": {"augment.kind": "ada", "augment.p": 0.0},
    "ada p=0.3": {"augment.kind": "ada", "augment.p": 0.3},
    "ada p=0.6": {"augment.kind": "ada", "augment.p": 0.6},
    "ada p=1": {"augment.kind": "ada", "augment.p": 1.0},
    "ada p=1, reference": {"augment.kind": "ada", "augment.p": 1.0},
    "diffaugment": {"augment.kind": "diffaugment"},
}


def prepared(name, changes, asked):
    "A configuration and its state."
    cfg = override(preset(asked.preset), **{"hsr.teacher": "none", "device": "cpu"} | asked.setting | changes)
    s = build_state(cfg, (3, cfg.data.resolution, cfg.data.resolution), 0, torch.device("cpu"))
    if name.endswith("reference"):
        assert isinstance(s.augment, AugmentPipe)
        s.augment.apply_parameters = partial(s.augment.apply_parameters, impl="reference")
    return cfg, s


def one_step(cfg, s) -> float:
    "Seconds of a step on made-up reals."
    r = cfg.data.resolution
    real = torch.rand(cfg.batch, 3, r, r, generator=stream(0, "real", s.count["step"])) * 2 - 1
    empty = torch.zeros(cfg.batch, 0)
    step = Step(cfg, s, Processes(), lambda i: torch.zeros(len(i), 0), 100, real, empty, Stats())
    began = time.perf_counter()
    train_step(step, cfg.opt.ema_rampup)
    return time.perf_counter() - began


def setting(text):
    name, _, value = text.partition("=")
    return {name: json.loads(value)}


def main():
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--preset", default="tiny32")
    asked.add_argument("--rounds", type=int, default=49)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--arms", nargs="*", default=list(ARMS))
    asked.add_argument("--setting", type=setting, default={})
    asked = asked.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    arms = {name: prepared(name, ARMS[name], asked) for name in dict.fromkeys(["none", *asked.arms])}
    times = {name: [] for name in arms}
    for i in range(asked.rounds):
        for name, (cfg, s) in arms.items():
            seconds = one_step(cfg, s)
            if i:  # the first one warms up
                times[name].append(seconds)
    added = {}
    for name in arms:
        ratios = [a / b for a, b in zip(times[name], times["none"])]
        whole = sum(times[name]) / sum(times["none"])
        added[name] = {"median of rounds": round(statistics.median(ratios), 3), "of all": round(whole, 3)}
    about = {"preset": asked.preset, "rounds": asked.rounds, "threads": asked.threads, **asked.setting}
    print(json.dumps({"asked": about, "machine": provenance("cpu"), "step beside none": added}, indent=1))


if __name__ == "__main__":
    main()
