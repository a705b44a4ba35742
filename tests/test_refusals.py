"What cannot be done is refused by every command in one or two sentences that say what, where and what would do."

import gzip
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr_nb.commands import front
from hsr_nb.interop import load_generator, save_safetensors

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456789\n"


def pictures(folder: Path, n=8, size=32):
    folder.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 255, (size, size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder of what people have lying about."
    here = tmp_path_factory.mktemp("here")
    pictures(here / "photos")
    (here / "empty").mkdir()
    (here / "note.txt").write_text("a note\n")
    cut = pictures(here / "damaged") / "3.png"
    cut.write_bytes(cut.read_bytes()[:200])
    phone = pictures(here / "phone", 3)
    for i in range(9):
        (phone / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    (pictures(here / "badjson") / "dataset.json").write_text('{"labels": [')
    strangers = {"labels": [[f"x{i}.png", 1] for i in range(8)]}
    (pictures(here / "strangers") / "dataset.json").write_text(json.dumps(strangers))
    Image.new("RGB", (48, 48)).save(pictures(here / "mixed", 4) / "odd.png")
    pictures(here / "large", size=48)
    part = {"labels": [[f"{i}.png", 1] for i in range(5)]}
    (pictures(here / "part") / "dataset.json").write_text(json.dumps(part))
    both = pictures(here / "both")
    (both / "3.png").write_bytes((both / "3.png").read_bytes()[:200])
    for i in range(3):
        (both / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    (here / "cut.zip").write_bytes(b"PK\3\4" + bytes(100))
    with zipfile.ZipFile(here / "there.zip", "w") as z:
        z.writestr("x", "y")
    (here / "lfs.pkl").write_text(POINTER)
    (here / "page.pkl").write_text("<!DOCTYPE html><html><head><title>warning</title></head><body></body></html>")
    (here / "packed.pkl").write_bytes(gzip.compress(b"a network" * 9))
    (here / "settings.pkl").write_text('{"z_dim": 512}')
    torch.save({"model": {"encoder.weight": torch.zeros(2)}, "epoch": 3}, here / "other.pt")
    two = {name: {"synthesis.b4.const": torch.zeros(4, 4, 4)} for name in ("netG_A", "netG_B")}
    torch.save(two, here / "two.pt")
    G = load_generator("synthfaces-baseline")
    tensors = {f"G_ema.{name}": v for name, v in G.state_dict().items()}
    good = save_safetensors(here / "good.safetensors", tensors, {"G": G.init_kwargs})
    (here / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    return here


# command: {its words: what the refusal must name: what was found, and the option, what is expected or what would do}
ROWS = {
    "hsr_data": {
        "": ("SOURCE|--source", "--help"),
        "--source nope --dest x.zip": ("source nope", "does not exist"),
        "--source empty --dest x.zip": ("empty", "holds no images"),
        "--source note.txt --dest x.zip": ("note.txt", "folder", ".zip"),
        "--source photos --dest there.zip": ("destination there.zip", "exists"),
        "--source photos --dest x.tar": ("destination x.tar", ".zip"),
        "--source photos --dest x.zip --transform centre": ("--transform", "centre", "center-crop"),
        "--source photos --dest x.zip --width 0 --height 0": ("width", "0", "at least 1"),
        "--source photos --dest x.zip --width many": ("--width", "many"),
        "--source photos --dest x.zip --width 24 --height 24": ("24x24", "16 and 32", "--base-size 6 6"),
        "--source photos --dest x.zip --resize-filter cubic": ("--resize-filter", "cubic", "lanczos"),
        "--source photos --dest x.zip --max-images 0": ("max_images", "0", "at least 1"),
        "--source photos --dest x.zip --max-pixels 0": ("max_pixels", "0", "at least 1"),
        "--source photos --dest x.zip --base-size 6": ("--base-size",),
        "--source photos --dest x.zip --labels colour": ("--labels", "colour", "folders"),
        "--source photos --dest x.zip --mode cmyk": ("--mode", "cmyk", "rgb"),
        "--source photos --destt x.zip": ("--dest",),
        "--source damaged --dest x.zip": ("damaged", "1 of 8", "3.png", "--skip-bad"),
        "--source phone --dest x.zip": ("phone", "IMG_", "HEIC", "PNG or JPEG", "--allow-partial"),
        "--source badjson --dest x.zip": ("badjson/dataset.json", "no. valid JSON|not valid JSON", "line 1"),
        "--source strangers --dest x.zip": ("strangers", "8 of 8", "x0.png", "--labels none"),
        "--source cut.zip --dest x.zip": ("cut.zip", "zip"),
        "--source mixed --dest x.zip": ("mixed", "odd.png", "48x48", "--width"),
        "--source part --dest x.zip": ("part", "3 of 8 pictures have no label", "first 5.png", "--labels none"),
        "--source both --dest x.zip": (
            "both",
            "3 left out: IMG_",
            "hsr_data --allow-partial",
            "1 of 8",
            "3.png",
            "--skip-bad",
        ),
        "--source photos --dest new/deep/x.zip --width 24": ("24x24", "--base-size 6 6"),
        "--source damaged --dest new/deep/x.zip": ("damaged", "3.png"),
        "--source photos --dest x.zip --max-pixels 1e8": ("--max-pixels", "a whole number, found '1e8'"),
        "--source photos --dest x.zip --skip-bad yes": ("--skip-bad takes no value, found yes", "--no-skip-bad"),
    },
    "hsr_train": {
        "": ("preset", "tiny32, small64, tiny32v1, auto"),
        "huge": ("huge", "tiny32, small64, tiny32v1, auto"),
        "tiny33": ("tiny33", "did you mean tiny32\\?", "small64"),
        "papper256 --help": ("papper256", "did you mean paper256\\?"),
        "tiny32 --data.labels True": ("--data.labels takes no value, found True", "--data.no-labels off"),
        "tiny32 --data.labels=False": ("--data.labels takes no value, found False", "--data.no-labels off"),
        "tiny32 --hsr.wieght 3": ("--hsr.wieght", "--hsr.weight"),
        "tiny32 --net.z-dim 12.5": ("--net.z-dim", "a whole number, found '12.5'", "latent"),
        "tiny32 --data.resolution big": ("--data.resolution", "INT, found 'big'", "pixels of a side"),
        "tiny32 --data.pth x": ("--data.pth", "--data.path"),
        "tiny32 --kimg many": ("--kimg", "many", "thousands of real images"),
        "tiny32 --kimg": ("--kimg", "1 value"),
        "tiny32 --kimg 0": ("kimg", "0", "greater than 0"),
        "tiny32 --kimg nan": ("kimg", "nan", "greater than 0"),
        "tiny32 --batch 0": ("batch", "0", "greater than 0"),
        "tiny32 --batch-gpu 3": ("batch_gpu 3", "divide", "16"),
        "tiny32 --batch-gpu 0": ("batch_gpu", "0", "at least 1"),
        "tiny32 --seed -1": ("seed", "-1", "0 or more"),
        "tiny32 --data.workers -1": ("data.workers", "-1", "0 or more"),
        "tiny32 --data.max-size 0": ("data.max_size", "0", "at least 1"),
        "tiny32 --loss.style-mixing 2": ("loss.style_mixing", "2", "from 0 to 1"),
        "tiny32 --loss.r1-gamma -3": ("loss.r1_gamma", "-3", "0 or more"),
        "tiny32 --opt.g-lr -1": ("opt.g_lr", "-1", "greater than 0"),
        "tiny32 --net.mbstd-group 5": ("net.mbstd_group", "5", "16"),
        "tiny32 --net.low-precision float8": ("net.low_precision", "float8", "bfloat16"),
        "tiny32 --net.g-architecture round": ("architecture", "round", "skip"),
        "tiny32 --net.base-size 3 5": ("32x32", "base_size 3x5"),
        "tiny32 --device gpu": ("device", "gpu", "cpu"),
        "tiny32 --compile maybe": ("compile", "maybe", "auto, on or off"),
        "tiny32 --run-dir note.txt": ("run folder note.txt", "File exists"),
        "tiny32 --data.path nope": ("nope", "synthfaces, digits", "folder or .zip"),
        "tiny32 --data.path empty": ("empty", "holds no images"),
        "tiny32 --data.path photos": ("photos", "8 images", "batch of 16"),
        "tiny32 --data.path photos --data.resolution 24 --batch 4": ("photos", "32x32", "24x24"),
        "tiny32 --data.path photos --data.labels --batch 4": ("photos", "dataset.json", "no labels"),
        "tiny32 --data.path damaged --batch 4": ("damaged", "3.png", "truncated"),
        "tiny32 --data.path phone --batch 4": ("phone", "HEIC", "hsr_train --data.allow-partial"),
        "tiny32 --data.path both --batch 4": ("both", "IMG_", "hsr_train --data.allow-partial", "3.png"),
        "tiny32 --data.path large --batch 4": (
            "large",
            "0.png is 48x48",
            "32x32",
            "--data.resolution None",
            "--width 32",
        ),
        "tiny32 --data.path mixed --batch 4": ("mixed", "odd.png is 48x48", "32x32", "hsr_data --width 32 --height 32"),
        "tiny32 --data.path part --data.labels --batch 4": ("part", "5.png has no label"),
        "tiny32 --hsr.teacher synthfaces-tinny": ("synthfaces-tinny", "synthfaces-tiny"),
        "tiny32 --hsr.teacher resnet18 --hsr.weights nope.pth": ("weights", "nope.pth", "not found"),
        "tiny32 --hsr.teacher dino_vitb16": ("weights", "https://", "--hsr.weights"),
        "tiny32 --hsr.linearity 1 --hsr.teacher none": ("hsr.linearity", "hsr.teacher"),
        "tiny32 --hsr.linearity 1 --hsr.teacher None": ("hsr.linearity", "hsr.teacher"),
        "tiny32 --hsr.loss l7": ("loss", "l7", "mse, cosine"),
        "tiny32 --hsr.pairing across": ("pairing", "across", "deep_to_coarse"),
        "tiny32 --metrics fid50k_full": ("metrics", "fid50k_full", "fid, kid"),
        "tiny32 --metrics kid --metric-detector nope": ("metric_detector", "nope"),
        "tiny32 --init-from nope": ("nope", "checkpoint or run folder", "synthfaces-baseline"),
        "tiny32 --init-from note.txt": ("note.txt", "safetensors, torch"),
        "tiny32 --init-from note.txt --run-dir new/deep/run": ("note.txt", "safetensors, torch"),
        "tiny32 --init-from two.pt": ("two.pt", "netG_A, netG_B", "save the one that is meant"),
        "tiny32 --init-mode half --init-from good.safetensors": ("init_mode", "half", "transfer, shared or branch"),
    },
    "hsr_generate": {
        "": ("RUN", "--help"),
        "nope": ("nope", "checkpoint or run folder", "synthfaces-baseline"),
        "synthfaces-basline": ("synthfaces-basline", "did you mean synthfaces-baseline\\?"),
        "packed.pkl": ("packed.pkl", "packed with gzip", "gunzip"),
        "settings.pkl": ("settings.pkl", "JSON text"),
        "other.pt": ("other.pt", "'model' .*'encoder.weight'.*'epoch'", "synthesis.b4.const"),
        "two.pt": ("two.pt", "netG_A, netG_B", "save the one that is meant"),
        "empty": ("empty", "checkpoints/"),
        "note.txt": ("note.txt", "safetensors, torch"),
        "lfs.pkl": ("lfs.pkl", "Git LFS pointer", "git lfs pull"),
        "cut.safetensors": ("cut.safetensors", "complete"),
        "synthfaces-baseline --seeds a-b": ("seeds", "a-b", "0-15,20"),
        "synthfaces-baseline --inversion nope": ("nope", "no file"),
        "synthfaces-baseline --inversion x --psi 0.7": ("psi", "--inversion"),
        "synthfaces-baseline --seeds 5-1": ("seeds", "5-1", "backwards"),
        "synthfaces-baseline --psi nan": ("psi", "nan", "finite"),
        "synthfaces-baseline --cutoff 99": ("cutoff", "99", "0 to 8"),
        "synthfaces-baseline --class-index 3": ("class.index", "3", "unconditional"),
        "synthfaces-baseline --label 1,x": ("--label", "'x'", "0.2,1,-0.5"),
        "synthfaces-baseline --batch 0": ("batch", "0", "at least 1"),
        "synthfaces-baseline --cols 3": ("cols", "files", "sheet or both"),
        "synthfaces-baseline --mix-rows 1-2": ("mix_rows", "mix_cols"),
        "synthfaces-baseline --mix-rows 1 --mix-cols 2 --mix-layers 99": ("layer 99", "0 to 7"),
        "synthfaces-baseline --out note.txt": ("note.txt", "File exists"),
        "synthfaces-baseline --device cuda:99": ("device", "cuda:99"),
        "synthfaces-baseline --noise-mode loud": ("--noise-mode", "loud", "const"),
    },
    "hsr_eval": {
        "": ("RUN", "--help"),
        "nope": ("nope", "checkpoint or run folder"),
        "synthfaces-baseline --scores fit": ("--scores", "fit", "fid"),
        "synthfaces-baseline --n 1": ("n", "1", "at least 2|needs"),
        "synthfaces-baseline --paths 0": ("paths", "0", "at least"),
        "synthfaces-baseline --frames 2": ("frames", "2", "3"),
        "synthfaces-baseline --batch 0": ("batch", "0", "at least"),
        "synthfaces-baseline --detector nope": ("nope",),
        "synthfaces-baseline --detector inception": ("inception", "--weights|HSR_NB_INCEPTION"),
        "synthfaces-baseline --data nope": ("nope", "synthfaces, digits"),
        "synthfaces-baseline --data large --n 4": (
            "large",
            "48x48",
            "expected 32x32",
            "hsr_data --width 32 --height 32",
        ),
        "synthfaces-basline": ("synthfaces-basline", "did you mean synthfaces-baseline\\?"),
        "synthfaces-baseline --scores is": ("inception score", "classifier"),
        "synthfaces-baseline --against nope.json": ("nope.json",),
        "synthfaces-baseline --out note.txt/x/r.json": ("note.txt/x",),
    },
    "hsr_convert": {
        "": ("SOURCE", "DEST"),
        "nope x.safetensors": ("nope", "checkpoint or run folder"),
        "good.safetensors x.xyz": ("x.xyz", "--to", ".onnx"),
        "good.safetensors x": ("x: a name without a suffix", "--to", ".safetensors, .onnx"),
        "--source good.safetensors --dest x.onnx": ("SOURCE is given without --source", "hsr_convert SOURCE DEST"),
        "good.safetensors there.zip": ("there.zip", "exists"),
        "good.safetensors no/such/x.onnx": ("no/such", "no folder"),
        "good.safetensors x.onnx --to pt2": ("x.onnx", "--to pt2"),
        "good.safetensors x.pt --to exe": ("--to", "exe", "onnx"),
        "page.pkl x.safetensors": ("page.pkl", "web page"),
        "note.txt x.safetensors": ("note.txt", "safetensors, torch"),
        "cut.safetensors x.safetensors": ("cut.safetensors", "complete"),
    },
    "hsr_invert": {
        "": ("RUN", "--help"),
        "nope note.txt": ("nope", "checkpoint or run folder", "synthfaces-baseline"),
        "synthfaces-hsr nope.png": ("nope.png", "no picture or folder"),
        "synthfaces-hsr empty": ("empty", "no pictures", ".png"),
        "synthfaces-hsr note.txt": ("note.txt", "not an image"),
        "synthfaces-hsr note.txt --space z": ("--space", "w+"),
        "synthfaces-hsr note.txt --steps 0": ("steps", "0", "at least 1"),
        "synthfaces-hsr note.txt --vgg x": ("--vgg", "--linear"),
        "synthfaces-hsr note.txt --face 2": ("--face", "--align"),
        "synthfaces-hsr note.txt --class-index 1": ("class.index", "1", "unconditional"),
        "synthfaces-hsr note.txt --enough -1": ("enough", "-1", "0 or more"),
        "synthfaces-hsr note.txt --batch 0": ("batch", "0", "at least 1"),
        "synthfaces-hsr note.txt --locality 0.1": ("--locality", "--space pti"),
        "synthfaces-hsr note.txt --space pti --locality nan": ("locality", "nan", "finite"),
        "synthfaces-hsr note.txt --space pti --tuning-steps -1": ("--tuning-steps", "-1", "0 steps or more"),
        "synthfaces-hsr note.txt --space encoder --enough 0.1": ("encoder", "enough", "hybrid"),
    },
    "hsr_edit": {
        "": ("RUN", "--help"),
        "nope --attribute age": ("nope", "checkpoint or run folder", "synthfaces-baseline"),
        "note.txt --attribute age": ("note.txt", "safetensors, torch"),
        "synthfaces-hsr": ("not been told which attribute", "glasses", "--attribute"),
        "synthfaces-hsr --attribute moustache": ("moustache", "glasses", "--attribute"),
        "synthfaces-hsr --method magic --attribute age": ("--method", "magic", "interfacegan"),
        "synthfaces-hsr --attribute age --strengths -2:2": ("strengths", "-2:2", "-2:2:9"),
        "synthfaces-hsr --attribute age --strengths 1,nan": ("strengths", "1,nan", "finite"),
        "synthfaces-hsr --attribute age --native": ("native", "--strengths"),
        "synthfaces-hsr --attribute age --seeds 5-1": ("seeds", "5-1", "backwards"),
        "synthfaces-hsr --attribute age --psi nan": ("psi", "nan", "finite"),
        "synthfaces-hsr --attribute age --batch 0": ("batch", "0", "at least 1"),
        "synthfaces-hsr --attribute age --latents 9": ("latents", "9", "at least 100"),
        "synthfaces-hsr --attribute age --class-index 3": ("class.index", "3", "unconditional"),
        "synthfaces-hsr --attribute age --inversion nope": ("nope", "no file"),
        "synthfaces-hsr --attribute age --inversion note.txt": ("note.txt",),
        "synthfaces-hsr --attribute age --inversion x --seeds 0": ("--inversion", "--seeds"),
        "synthfaces-hsr --attribute age --judge nope": ("nope",),
        "synthfaces-hsr --attribute age --out note.txt": ("note.txt", "File exists"),
        "synthfaces-hsr --attribute age --device cuda:99": ("device", "cuda:99"),
    },
    "hsr_sweep": {
        "--axis colour": ("axis", "colour", "plr_hsr"),
        "--axis tecaher": ("axis", "tecaher", "did you mean teacher\\?"),
        "--seeds": ("seeds", "at least one"),
        "--seeds 1 1": ("seeds", "1, 1", "once each"),
        "--workers 0": ("workers", "0", "at least 1"),
        "--kimg 1 --baseline-kimg 5": ("kimg 1", "baseline_kimg 5", "longer"),
        "--notebook nope.ipynb": ("nope.ipynb", "--notebook"),
        "--preset huge": ("huge", "tiny32"),
        "--settings net.depth 3": ("net.depth", "net.z_dim"),
    },
    "hsr_survey": {
        "": ("build, serve, analyse",),
        "buil": ("buil", "build, serve, analyse"),
        "build": ("OUT", "REAL", "hsr_survey build --help"),
        "build --out s photos a=synthfaces-hsr": ("OUT is given without --out", "build OUT REAL LABEL=SOURCE"),
        "build s photos": ("fakes are missing", "LABEL=SOURCE", "hsr=synthfaces64-hsr"),
        "build s photos synthfaces-hsr": ("fakes", "LABEL=SOURCE", "synthfaces-hsr"),
        "build s nope a=synthfaces-hsr": ("nope",),
        "serve nope": ("nope", "survey.json", "hsr_survey build"),
        "analyse nope": ("nope", "survey.json", "hsr_survey build"),
        "status nope": ("nope", "survey.json", "hsr_survey build"),
        "withdraw nope 5": ("nope", "survey.json", "hsr_survey build"),
        "export nope x.jsonl": ("nope", "survey.json", "hsr_survey build"),
    },
}
MAINS = {name: getattr(front, name) for name in ROWS}


def test_the_table_covers_every_command():
    assert ROWS.keys() == front.HOMES.keys()
    assert sum(map(len, ROWS.values())) >= 140


def said_by(command: str, err: str) -> str:
    "What a command says on stderr, without bars and notes; it begins with the command's name."
    drawn = [line.rpartition("\r")[2] for line in err.rstrip().split("\n")]
    starts = [i for i, line in enumerate(drawn) if line.startswith(f"{command}: ") and "note: " not in line]
    assert len(starts) == 1, err
    assert all(line.startswith("  ") for line in drawn[starts[0] + 1 :]), err  # a list of what is bad may follow
    return "\n".join(drawn[starts[0] :]).removeprefix(f"{command}: ")


@pytest.mark.parametrize("command", ROWS)
def test_a_refusal_has_a_form(command, here, capfd, monkeypatch):
    monkeypatch.chdir(here)
    before = sorted(here.iterdir())
    faults = []
    for words, names in ROWS[command].items():
        code = MAINS[command](words.split())
        out, err = capfd.readouterr()
        said = said_by(command, err)
        ends = re.findall(r"[.?!] +(?=[A-Z`])", said.partition("\n")[0])
        if not (code in (1, 2) and out == "" and 20 < len(said) <= 700 and len(ends) <= 1 and "Traceback" not in err):
            faults.append((words, code, out, said))
        faults += [(words, "does not say", name, said) for name in names if not re.search(name, said)]
    assert not faults, "\n".join(map(str, faults))
    assert [path.name for path in here.iterdir() if path not in before] == []
