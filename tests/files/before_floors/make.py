"""Made these files with the code of commit f2b93e3, and makes them again:

git worktree add before f2b93e3
PYTHONPATH=before OMP_NUM_THREADS=1 python tests/files/before_floors/make.py FOLDER

The names of modules are those of that commit.
`continued.safetensors` holds what its code makes of the runs when they go on."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hsr_nb.editing import SeFa, save_directions
from hsr_nb.explore import Explorer
from hsr_nb.interop import load_generator
from hsr_nb.metrics import EvalConfig, evaluate_run
from hsr_nb.metrics.als_paths import AttributeBank, generator_hash, path_logits, save_logits
from hsr_nb.metrics.report import provenance, write_result
from hsr_nb.training import override, preset, train

SMALL = {
    "net.channel_max": 8,
    "net.channel_base": 256,
    "net.z_dim": 8,
    "net.w_dim": 8,
    "data.path": "digits",
    "hsr.head_hidden": 8,
    "batch": 8,
    "tick_kimg": 0.08,
    "device": "cpu",
}
RUN = {"run_dir": "run", "seed": 3, "hsr.teacher": "none"}
ARM = {"run_dir": "arm", "seed": 3, "hsr.start_kimg": 0, "init_from": "run", "init_mode": "branch"}
SCORES = {"n": 110, "pairs": 8, "paths": 4, "frames": 5, "resamples": 4, "device": "cpu", "batch": 64}


def go(kimg, **settings):
    "Train up to so many thousand images, without a word."
    train(override(preset("tiny32"), kimg=kimg, **SMALL, **settings), progress=False)


def brightness(x):
    "A judge as simple as can be: uint8 pictures to one logit."
    return x.float().mean((1, 2, 3))[:, None] / 32 - 4


def main(folder):
    folder.mkdir(parents=True)
    os.chdir(folder)
    go(0.16, **RUN)
    go(0.208, **ARM)
    evaluate_run(EvalConfig("run", cache="cache", **SCORES))

    G = load_generator("run")
    ws = G.mapping(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), None)
    pictures = G.synthesis(ws, noise_mode="const")
    bank = AttributeBank("brightness", "0" * 64, ["bright"], brightness)
    save_logits("logits.npz", path_logits(G, bank, 3, 5), bank, G, 0)
    save_directions("directions.safetensors", SeFa(components=3).fit(G).found)

    ex = Explorer("run", judge=None, device="cpu", components=2, samples=200)
    ex.set(seed=7).breed(2).keep("seven")
    ex.move("pca 1", 1.5).save("recipe.json")
    write_result(".", "demo", {"n": 3}, [{"what": "one", "ms": 1.5}])

    for run in ("run", "arm"):  # what is left is what a later start needs
        for gone in ("samples", "curves.png", ".lock", "notebook.ipynb"):
            path = Path(run, gone)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for old in sorted(Path(run, "checkpoints").iterdir())[:-1]:
            old.unlink()

    shutil.copytree(".", "../went_on")
    os.chdir("../went_on")
    go(0.32, **RUN)
    go(0.288, **ARM)
    after = {f"{run}.{k}": v for run in ("run", "arm") for k, v in load_generator(run).state_dict().items()}
    os.chdir(folder)
    shutil.rmtree("../went_on")
    save_file({"pictures": pictures.detach(), **{k: v.contiguous() for k, v in after.items()}}, "continued.safetensors")
    about = {
        "made_by": provenance(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "generator": generator_hash(G),
        "picture": hashlib.sha256(ex.picture("A", 32).tobytes()).hexdigest(),
        "settings": {"small": SMALL, "run": RUN, "arm": ARM, "scores": SCORES},
    }
    Path("about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
