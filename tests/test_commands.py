"""Commands answer from any folder, at once, and refuse what they cannot do in one sentence."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch

import hsr_nb
from hsr_nb.base.pictures import image_grid
from hsr_nb.base.shell import options
from hsr_nb.base.whole import sha256
from hsr_nb.commands import front
from hsr_nb.commands.front import HOMES, help_file, parsed_help, topics
from hsr_nb.editing.directions import load_directions
from hsr_nb.explore import Explorer
from hsr_nb.explore.recipe_file import parse_history
from hsr_nb.interop import load_generator, save_safetensors
from hsr_nb.judges.attributes import load_bank, load_classifier
from hsr_nb.judges.cards import read_card
from hsr_nb.nets import Generator
from hsr_nb.nets.seeds import generator_hash, images_for_seeds, z_from_seed
from hsr_nb.studies import EvalConfig, evaluate_run, read_report
from hsr_nb.studies.paired_seeds import paired_difference
from hsr_nb.studies.subject import Subject
from hsr_nb.studies.sweep_jobs import SweepConfig
from hsr_nb.studies.sweep_tables import text_table
from hsr_nb.training import override, preset

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "net.channel_max": "8",
    "net.z_dim": "8",
    "net.w_dim": "8",
    "batch": "8",
    "net.mbstd_group": "4",
    "data.max_size": "64",
    "tick_kimg": "0.016",
    "hsr.head_hidden": "8",
}


class Program(torch.nn.Module):
    "A judge that writes a file of its choice."

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = torch.from_file("OWNED", True, 6, dtype=torch.uint8)
        written.fill_(79)
        return x.flatten(1)[:, :2].contiguous() + written.float().mean() * 0.0001


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_judge_that_is_code_is_run_only_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bank"
    folder.mkdir()
    file = folder / "judge.pt"
    torch.jit.script(Program()).save(str(file))
    ask = EvalConfig("synthfaces-baseline", "r.json", n=8, reals=8, paths=2, device="cpu", scores=("is",))
    wrong = ("0" * 64,)
    for allow in ((), wrong):
        how = dict(allow_code=allow)
        for load in (
            lambda: load_classifier(file, 32, **how),
            lambda: load_bank(file, **how),
            lambda: load_bank(folder, **how),
            lambda: Explorer("synthfaces-baseline", judge=str(file), samples=500, components=2, **how),
            lambda: evaluate_run(EvalConfig(**vars(ask) | how | {"classifier": str(file)})),
            lambda: evaluate_run(EvalConfig(**vars(ask) | how | {"scores": ("als",), "bank": str(folder)})),
        ):
            with pytest.raises(
                ValueError, match=f"judge.pt is TorchScript, which is code.*--allow-code {sha256(file)}"
            ):
                load()
    assert not Path("OWNED").exists()
    assert not Path("r.json").exists()
    bank = load_bank(folder, size=(8, 8), allow_code=[sha256(file).upper()])
    with pytest.raises(ValueError, match="names 1 attributes"):
        bank(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))  # it was run, and answers two numbers
    assert Path("OWNED").exists()


EXPERIMENTS = sorted((ROOT / "nbs/experiments").glob("*.ipynb"))


def parameters_of(notebook, **handed_over):
    "The parameters of an experiment as its page sees them, after papermill has put its cell where it puts it."
    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    place = next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
    assert place == next(i for i, c in enumerate(cells) if "Parameters(globals())" in c.source) + 1
    names: dict = {}
    for cell in cells[: place + 1]:
        exec(cell.source, names)
    defaults = {name: names[name] for name in names["__annotations__"]}
    names |= handed_over
    exec(cells[place + 1].source, names)
    return defaults, {name: names[name] for name in defaults}


@pytest.mark.parametrize("notebook", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_checks_the_names_and_types_of_its_parameters(notebook):
    defaults, unchanged = parameters_of(notebook)
    assert defaults == unchanged
    assert [type(v) for v in defaults.values()] == [type(v) for v in unchanged.values()]
    name = next(iter(defaults))
    with pytest.raises(ValueError, match=f"no parameter {name}x on this page: did you mean {name}"):
        parameters_of(notebook, **{f"{name}x": 1})
    for name, value in defaults.items():
        if isinstance(value, bool):
            assert parameters_of(notebook, **{name: "False "})[1][name] is False
            assert parameters_of(notebook, **{name: "0"})[1][name] is False
            wrong = "maybe"
        elif isinstance(value, (int, float)):
            same = parameters_of(notebook, **{name: str(value)})[1][name]
            assert same == value and type(same) is type(value)
            wrong = "many"
        elif isinstance(value, (list, dict)):
            assert parameters_of(notebook, **{name: json.dumps(value)})[1][name] == value
            wrong = True
        else:
            continue
        with pytest.raises(ValueError, match=f"the parameter {name} is .*{wrong}") as e:
            parameters_of(notebook, **{name: wrong})
        assert len(str(e.value)) <= 700


def test_without_hsr_in_any_spelling():
    train = ROOT / "nbs/experiments/train.ipynb"
    for word in (False, "false", "No", "0", 0, "off"):
        assert parameters_of(train, hsr=word)[1]["hsr"] is False
    for name, word in (("hsr", "none"), ("kimg", "None"), ("hsr", None)):
        assert parameters_of(train, **{name: word})[1][name] is None
    for name, word in (("kimg", "10**400"), ("kimg", "1e400"), ("kimg", float("nan")), ("batch", 1.5), ("seed", True)):
        with pytest.raises(ValueError, match=f"the parameter {name} is a"):
            parameters_of(train, **{name: word})
    assert parameters_of(train, run_dir=7)[1]["run_dir"] == "7"


PLAIN = {
    "seed": 1,
    "psi": 0.7,
    "cutoff": None,
    "class_index": None,
    "bred": [],
    "mix_seed": None,
    "mix_layers": [],
    "edits": [],
}


def edited(**changes):
    return [PLAIN | {"edits": [{"direction": "pca 1", "strength": 1, "layers": [0, 1]} | changes]}]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"steps": [PLAIN | {"bred": [[1, 0.1]] * 200_000}]}, "bred has 200000 entries"),
        ({"named": {f"n{i}": PLAIN for i in range(2000)}}, "2000 named pictures"),
        ({"named": {f"n{i}": PLAIN | {"bred": [[1, 0.1]] * 500} for i in range(100)}}, "50000 crosses"),
        ({"steps": [PLAIN | {"psi": 10**400}]}, "an integer of 401 digits"),
        ({"steps": [PLAIN | {"psi": 10**19}]}, "psi is a number from -10 to 10"),
        ({"steps": [PLAIN | {"psi": float("nan")}]}, "not finite"),
        ({"steps": [PLAIN | {"mix_layers": list(range(10_000))}]}, "mix_layers has 10000 entries"),
        ({"steps": edited(strength=10**400)}, "an integer of 401 digits"),
        ({"steps": edited(direction="x" * 100_000)}, "at most 100 letters"),
        ({"steps": edited(layers=[0] * 100_000)}, "a first and a last one"),
        ({"steps": edited(layers="\x1b[2J" * 99)}, "a first and a last one"),
        ({"network": "\x1b[2J", "generator": "other"}, "another generator"),
        ({"at": "9" * 5000}, "position"),
    ],
)
def test_recipes_have_bounds(changes, says):
    content = {"format": "hsr_nb recipe 1", "network": "x", "generator": "g", "at": 0, "steps": [PLAIN], "named": {}}
    text = json.dumps(content | changes)
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match=says) as e:
            parse_history(given, "g")
        assert len(str(e.value)) <= 700 and str(e.value).isprintable()


def test_json_from_outside_has_bounds(tmp_path):
    explorer = Explorer("synthfaces-baseline", judge=None, samples=200, components=1)
    for content in (b"[" * 100_000, b"9" * 5000, b" " * 10_000_001, b"\xff", b"{", b"1e999"):
        file = tmp_path / "\x1b[2Jx.json"
        file.write_bytes(content)
        for read in (lambda: read_report(file), lambda: explorer.load(file), lambda: explorer.load(content)):
            with pytest.raises(ValueError, match="too large|not read|no JSON") as e:
                read()
            assert len(str(e.value)) <= 700 and str(e.value).isprintable()


def test_directions_that_are_none(tmp_path):
    G = load_generator("synthfaces-baseline")
    good = {"method": "pca", "layers": [0, 1], "generator": generator_hash(G)}
    vectors, sigma = torch.eye(G.w_dim)[:2], torch.ones(2)

    def saved(about, **tensors):
        tensors = {"vectors": vectors, "sigma": sigma} | tensors
        return save_safetensors(tmp_path / "d.safetensors", tensors, {"directions": about})

    assert load_directions(saved(good), G).names == ["pca 1", "pca 2"]
    other = (None, True, 5, 1.5, "x" * 999, "\x1b[2J", [], ["x"], [0, 1e9], [0, True], [1, 2, 3], {}, {"x": [1]})
    entries = [good | {key: value} for key in good for value in other]
    for wrong in (*other, *entries):
        with pytest.raises(ValueError, match="d.safetensors holds no directions") as e:
            load_directions(saved(wrong), G)
        assert len(str(e.value)) <= 700 and str(e.value).isprintable()
    for tensors in (
        {"vectors": vectors[0]},
        {"vectors": vectors.int()},
        {"vectors": vectors[:0], "sigma": sigma[:0]},
        {"sigma": sigma[:1]},
        {"sigma": sigma * torch.nan},
    ):
        with pytest.raises(ValueError, match="d.safetensors holds no directions"):
            load_directions(saved(good, **tensors), G)
    with pytest.raises(ValueError, match="d.safetensors: the pca directions belong to the generator 000000000000"):
        load_directions(saved(good | {"generator": "0" * 64}), G)


PAGES = [(command, *topic) for command in HOMES for topic in [(), *([word] for word in topics(command))]]


@pytest.mark.parametrize("command", HOMES)
def test_help_is_that_of_the_parser(command):
    words = getattr(importlib.import_module(HOMES[command]), "TOPICS", ())
    assert sorted(words) == topics(command)
    for topic in [(), *([word] for word in words)]:
        if topic == ["auto"] and torch.cuda.is_available():
            continue  # its batch is another one there
        # other versions of the parser break lines elsewhere, so words are compared
        assert help_file(command, *topic).read_text(encoding="utf-8").split() == parsed_help(command, *topic).split(), (
            "python -c 'from hsr_nb.commands import front; front.write_help()'"
        )


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_describes_every_option(page):
    text = help_file(*page).read_text(encoding="utf-8")
    assert text.isascii() and text.startswith(f"usage: {page[0]}")
    entries = re.split(r"\n  (?=-(?!---)|[A-Z=]+ )", text)[1:]
    assert len(entries) >= 3 or page in (("hsr_train",), ("hsr_survey",))
    for entry in entries:
        entry = entry.partition("\n\n")[0]
        option, *_ = entry.split()
        said = re.sub(
            r"\(default: [^)]*\)|\(required\)|\{[^}]*\}|\[[^]]*\]|\b[A-Z]{3,}\b|--[\w.-]+,?|-h,|[|=]", " ", entry
        )
        assert len(said.split()) >= 2, f"{option} is not described"


def test_help_and_version_come_before_torch(tmp_path):
    code = (
        "import sys; from hsr_nb.commands import {0} as go; status = go(); sys.exit('torch' in sys.modules or status)"
    )
    asked = {(command, "--version"): f"{command} {hsr_nb.__version__}" for command in HOMES}
    asked |= {(*page, "--help"): f"usage: {' '.join(page)}" for page in PAGES}
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for (command, *rest), says in asked.items():
        words = [sys.executable, "-c", code.format(command), *rest]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(says)


def test_help_is_asked_for_anywhere(capsys):
    for words in (["small64", "--kimg", "4", "-h"], ["small64", "--help", "--kimg", "4"]):
        assert front.hsr_train(words) == 0
        assert capsys.readouterr().out == help_file("hsr_train", "small64").read_text(encoding="utf-8")
    assert front.hsr_generate(["runs/faces", "--help"]) == 0
    assert capsys.readouterr().out == help_file("hsr_generate").read_text(encoding="utf-8")


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch, capsys):
    "Also after the = of an option, of LABEL=SOURCE, in settings, and in what papermill hands over."
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert front.hsr_convert(["synthfaces-baseline", "~/g.safetensors"]) == 0
    for out in (["--out=~/g"], ["--out", "~/g2"]):
        assert front.hsr_generate(["~/g.safetensors", "--seeds", "0-7", "--device", "cpu", *out]) == 0
    assert front.hsr_data(["--source=~/g", "--dest=~/sets/g.zip"]) == 0
    settings = [x for name, value in TINY.items() for x in (f"--{name.replace('_', '-')}", value)]
    how = ["--hsr.teacher", "None", "--data.path=~/sets/g.zip", "--kimg", "0.016", *settings]
    assert front.hsr_train(["tiny32", "--run-dir=~/runs/r", *how]) == 0
    assert front.hsr_train(["tiny32", "--run-dir=~/runs/s", "--init-from=~/runs/r", *how]) == 0
    assert json.loads((home / "runs/s/config.json").read_text())["hsr"]["teacher"] == "none"
    score = ["--scores", "kid", "--n", "8", "--device", "cpu"]
    assert front.hsr_eval(["~/runs/r", *score, "--data=~/g", "--cache=~/cache", "--out=~/reports/r.json"]) == 0
    plan = ["--questions", "4", "--size", "32", "--attention", "0"]
    assert front.hsr_survey(["build", "~/survey", "~/g", "g=~/g.safetensors", *plan]) == 0
    assert front.hsr_survey(["status", "~/nothing"]) == 2
    assert f"{home}/nothing is no survey" in capsys.readouterr().err
    asked = options(SweepConfig, "hsr_sweep")(
        ["--folder=~/s", "--notebook", "~/n.ipynb", "--settings", "data.path", "~/d"]
    )
    assert (asked.folder, asked.notebook) == (f"{home}/s", f"{home}/n.ipynb")
    assert override(preset("tiny32"), **{"data.path": "~/d", "hsr.weights": "~/w"}).data.path == f"{home}/d"
    made = {"g.safetensors", "g", "g2", "sets", "runs", "cache", "reports", "survey", "survey.key.json"}
    assert {path.name for path in home.iterdir()} == made and list(here.iterdir()) == []


def test_a_command_that_works_goes_to_its_module(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert front.hsr_generate(["synthfaces-baseline", "--seeds", "3", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "out: 1 picture (seed0003.png)\n"
    assert front.hsr_generate(["synthfaces-baseline", "--label", "0.2,1"]) == 2
    assert "wants no label, for it is unconditional" in capsys.readouterr().err
    assert front.hsr_generate(["synthfaces-baseline", "--label", "0.2,one"]) == 2
    assert "cannot read 'one' (--label)" in capsys.readouterr().err


def test_a_label_of_numbers():
    G = Generator(z_dim=8, c_dim=3, w_dim=8, img_resolution=8, synthesis_kwargs=dict(channel_base=64, channel_max=8))
    G.eval().requires_grad_(False)
    z = z_from_seed(1, 8)
    numbers = (0.2, 1.0, -0.5)
    wanted = G(z, torch.tensor([numbers]), noise_mode="const")
    torch.testing.assert_close(images_for_seeds(G, [1], class_index=numbers), wanted, atol=1e-5, rtol=1e-4)
    one_hot = images_for_seeds(G, [1], class_index=(0, 1, 0))
    torch.testing.assert_close(one_hot, images_for_seeds(G, [1], class_index=1))
    for wrong in ((0.2, 1.0), (0.2, 1.0, float("inf"))):
        with pytest.raises(ValueError, match="label"):
            images_for_seeds(G, [1], class_index=wrong)


def foreign(tmp_path, **meta):
    "A checkpoint in a run folder, with metadata of somebody else."
    G = load_generator("synthfaces-baseline")
    architecture = {
        "z_dim": G.z_dim,
        "c_dim": 0,
        "w_dim": G.w_dim,
        "img_resolution": 32,
        "img_channels": 3,
    }
    known = read_card("synthfaces-baseline")["architecture"]["kwargs"]
    tensors = {f"G_ema.{name}": v for name, v in G.state_dict().items()}
    file = tmp_path / "runs/r/checkpoints/000000001.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    return save_safetensors(file, tensors, {"G": architecture | known} | meta)


def test_a_checkpoint_s_path_is_followed_only_near_it(tmp_path, monkeypatch):
    pictures = tmp_path / "runs/imgs"
    elsewhere = tmp_path / "elsewhere/imgs"
    for folder in (pictures, elsewhere):
        folder.mkdir(parents=True)
        for i in range(4):
            image_grid(torch.full((1, 3, 32, 32), 9 * i, dtype=torch.uint8)).save(folder / f"{i}.png")
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)

    def asked(path, **more):
        foreign(tmp_path, config={"data": {"path": path, "resolution": 32}})
        return Subject(EvalConfig(str(tmp_path / "runs/r"), n=4, reals=4, device="cpu", scores=("kid",), **more))

    assert len(asked("imgs").ds) == 4  # beside the run
    assert len(asked(str(pictures)).ds) == 4
    with pytest.raises(ValueError, match=f"does not lie beside the run.*--data {elsewhere}"):
        asked(str(elsewhere))
    with pytest.raises(ValueError, match="--data /usr/share"):
        asked("/usr/share")
    with pytest.raises(ValueError, match=r"trained on gone, which is neither in this folder.*--data PATH"):
        asked("gone")
    assert len(asked(str(elsewhere), data=str(elsewhere)).ds) == 4
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asked("imgs").ds.name == "imgs"  # still the one beside the run
    for path in (".", "imgs/..", str(elsewhere)):  # the folder where the command is given is nobody's data set
        with pytest.raises(ValueError, match="does not lie beside the run.*--data"):
            asked(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"config": []},
        {"config": {"data": "x"}},
        {"config": {"data": {"path": 5}}},
        {"config": {"data": {"path": "synthfaces", "resolution": "x" * 9999}}},
        {"count": 7},
        {"count": {"nimg": "many"}},
        {"teacher": "dino"},
        {"teacher": {"name": ["dino"]}},
        {"data": "synthfaces"},
        {"data": {"sha256": 5}},
    ],
)
def test_metadata_of_another_type_is_one_sentence(tmp_path, meta, capsys):
    foreign(tmp_path, **{"config": {"data": {"path": "synthfaces", "resolution": 32}}} | meta)
    assert front.hsr_eval([str(tmp_path / "runs/r"), "--n", "8", "--scores", "kid", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) <= 700
    assert re.search(r"000000001\.safetensors: its metadata: expected .*, found", said), said


def test_a_full_disk_under_the_cache_is_one_sentence(tmp_path, monkeypatch, capsys):
    from safetensors import SafetensorError, torch

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(torch, "save_file", full)
    where = ["--cache", str(tmp_path / "c"), "--out", str(tmp_path)]
    assert front.hsr_eval(["synthfaces-hsr", "--n", "8", "--scores", "kid", "--device", "cpu", *where]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cannot write the cache" in said and "No space left" in said
    assert not list((tmp_path / "c").iterdir())


def test_a_reference_of_zero_has_no_percent():
    difference = paired_difference({0: 0.1, 1: 0.2}, {0: 0.0, 1: 0.0})
    text = text_table([{"arm": "x", "seeds": [0, 1], "recall[j]": {"mean": 0.1, "sd": None, "difference": difference}}])
    assert "+0.15 [" in text and "%" not in text


@pytest.mark.slow
def test_the_wheel_works_from_any_folder(tmp_path):
    "Built, installed beside the packages of this environment, and every command called where there is no checkout."
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    clone = tmp_path / "source"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "nbs", "tests", "runs"))
    how = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([sys.executable, "setup.py", "-q", "bdist_wheel"], cwd=clone, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    wheel = next((clone / "dist").glob("*.whl"))
    weights = [str(p.relative_to(ROOT)) for p in (ROOT / "hsr_nb/weights").rglob("*.safetensors")]
    assert set(weights) <= set(zipfile.ZipFile(wheel).namelist())
    subprocess.run([*pip, "--python", str(tmp_path / "venv/bin/python"), "install", *how, str(wheel)], check=True)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    away = tmp_path / "away"
    away.mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def call(command, *args):
        words = [tmp_path / "venv/bin" / command, *args]
        done = subprocess.run(words, cwd=away, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, done.stderr

    for command in HOMES:
        assert call(command, "--help")[0].startswith("usage: ")
        assert call(command, "--version")[0] == f"{command} {hsr_nb.__version__}\n"
    call("hsr_generate", "synthfaces-hsr", "--seeds", "0-39", "--out", "faces", "--device", "cpu")
    call("hsr_data", "--source", "faces", "--dest", "faces.zip")
    small = ["--net.channel-max", "8", "--net.z-dim", "8", "--net.w-dim", "8", "--batch", "8", "--net.mbstd-group", "4"]
    call("hsr_train", "tiny32", "--data.path", "faces.zip", "--kimg", "0.032", "--run-dir", "runs/r", *small)
    call("hsr_convert", "runs/r", "r.safetensors")
    said, _ = call("hsr_eval", "runs/r", "--n", "20", "--scores", "kid", "pr", "--device", "cpu")
    assert "recall[synthfaces-attributes-b]" in said
    settings = [x for pair in TINY.items() for x in pair]
    sizes = [
        "--baseline-kimg",
        "0.032",
        "--kimg",
        "0.064",
        "--n",
        "120",
        "--pairs",
        "8",
        "--paths",
        "4",
        "--seeds",
        "0",
    ]
    said, noted = call("hsr_sweep", "--axis", "teacher", *sizes, "--settings", *settings)
    assert "no notebook is at hand" in noted and "Traceback" not in noted
    rows = json.loads(next((away / "data/results").glob("ablation-teacher-*.json")).read_text())["rows"]
    assert [row["teacher"] for row in rows] == ["none", "synthfaces-tiny"]
    assert said.count("seed 0, teacher") == 2
