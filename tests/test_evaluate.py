"""A report says what it was measured with, or there is none: keys, provenance, refusals, exit codes."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hsr_nb.base.whole import sha256
from hsr_nb.data import SynthFaces
from hsr_nb.interop import CheckpointError, save_safetensors
from hsr_nb.judges import load_bank
from hsr_nb.judges.cards import read_card
from hsr_nb.judges.maps import YARDSTICK
from hsr_nb.metrics import fid, load_detector
from hsr_nb.metrics.fidelity import fid_se
from hsr_nb.nets import Generator
from hsr_nb.studies import EvalConfig, compare_reports, evaluate_run
from hsr_nb.studies import evaluate as E
from hsr_nb.studies.measurements import MEASURE
from hsr_nb.studies.subject import Subject

ROOT = Path(__file__).parents[1]
JUDGE = "synthfaces-attributes"  # it has fewer features than the reporting one, so fewer pictures do
TINY = dict(n=110, pairs=8, paths=4, frames=5, resamples=4, detector=JUDGE, device="cpu", batch=64)
BANK = "synthfaces-attributes-b"
D = f"[{JUDGE}]"


def network(seed=0, c_dim=0, resolution=32, channels=3):
    torch.manual_seed(seed)
    G = Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=resolution,
        img_channels=channels,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=128, channel_max=16),
    )
    return G.eval().requires_grad_(False)


def write_network(path, G, meta):
    "A checkpoint that holds the averaged generator alone."
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"G_ema.{k}": v for k, v in G.state_dict().items()}
    return save_safetensors(path, tensors, {"G": G.init_kwargs} | meta)


def save(path, G, identity=None, **data):
    meta = {
        "data": identity or SynthFaces(32).identity,
        "count": {"nimg": 2000},
        "teacher": None,
        "config": {
            "preset": "tiny32",
            "seed": 3,
            "data": {"path": "synthfaces", "resolution": 32, "labels": False, "max_size": None, **data},
        },
    }
    return write_network(path, G, meta)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder with two checkpoints; the later one counts."
    folder = tmp_path_factory.mktemp("runs") / "toy"
    save(folder / "checkpoints/000001000.safetensors", network(1))
    save(folder / "checkpoints/000002000.safetensors", network(0))
    return folder


@pytest.fixture(scope="module")
def report(run):
    return evaluate_run(EvalConfig(str(run), **TINY))[0]


def numbers(x):
    "Every float in nested dicts and lists."
    if isinstance(x, float):
        return [x]
    if isinstance(x, dict):
        x = list(x.values())
    if not isinstance(x, list):
        return []
    return [v for y in x for v in numbers(y)]


# ---- what is in a report


SCORES = (
    "fid",
    "fid_se",
    "kid",
    "kid_std",
    "precision",
    "precision_interval",
    "recall",
    "recall_interval",
    "als",
    "als_interval",
    "als_by_attribute",
    "als_interval_by_attribute",
    "als_sigma",
)


def test_report_holds_every_score(run, report):
    assert json.loads((run / "report.json").read_text()) == json.loads(json.dumps(report))
    assert not list(run.glob(".report*"))
    ppl = f"ppl2_wend[maps-{JUDGE}]"
    primary = {f"yardstick[{YARDSTICK}]", f"yardstick_se[{YARDSTICK}]"}
    als = {f"{k}[{BANK}]" for k in SCORES if k.startswith("als")}
    others = {f"{k}{D}" for k in SCORES if not k.startswith("als")}
    assert set(report["scores"]) == als | others | {ppl, f"{ppl}_se"} | primary
    reliable = load_bank(BANK).reliable(side=32).attribute_names
    assert set(report["scores"][f"als_by_attribute[{BANK}]"]) == set(reliable)
    assert all(math.isfinite(v) for v in numbers(report))
    low, high = report["scores"][f"als_interval[{BANK}]"]
    assert low <= high
    for k in ("precision", "recall"):
        low, high = report["scores"][f"{k}_interval{D}"]
        assert low <= report["scores"][f"{k}{D}"] <= high
    assert "recomputed" in report["notes"]["als"]
    assert report["not_measured"] == {"is": "not asked for"}


def test_report_says_where_it_comes_from(report):
    assert {"device", "git", "versions"} <= set(report)
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["data"]["resize_filter"]
    assert report["data"]["sha256"] == SynthFaces(32).identity["sha256"]
    judge = {"name": JUDGE, "sha256": load_detector().sha256}
    assert report["detector"] == judge
    unread = load_bank(BANK).reliable(side=32).left_out
    second = {"name": BANK, "sha256": load_detector(BANK).sha256, "left_out": unread}
    assert {k: v for k, v in report["bank"].items() if k != "auc"} == second
    assert set(report["bank"]["auc"]) == set(load_bank(BANK).reliable(side=32).attribute_names)
    assert report["distance"]["name"] == f"maps-{JUDGE}"
    assert [report[k] for k in ("n", "reals", "pairs", "paths", "frames", "seed", "psi")] == [110, 110, 8, 4, 5, 0, 1.0]
    assert "small" in report["budget"]
    assert report["network"] | {"trained_on": 0, "sha256": 0} == {
        "run": "toy",
        "file": "000002000.safetensors",
        "sha256": 0,
        "kimg": 2.0,
        "preset": "tiny32",
        "seed": 3,
        "teacher": None,
        "trained_on": 0,
    }
    assert report["network"]["sha256"] == E.generator_hash(network(0))


def test_same_seed_same_report_and_any_batch(run, report, tmp_path):
    few = dict(scores=("fid", "kid"), cache=str(tmp_path / "cache"), **TINY | {"batch": 17})
    again, path = evaluate_run(EvalConfig(str(run), str(tmp_path / "deep/er/again.json"), **few))
    assert path == tmp_path / "deep/er/again.json"
    assert list((tmp_path / "cache").iterdir())
    for k in (f"fid{D}", f"kid{D}"):
        # pictures agree to the rounding of a byte
        assert again["scores"][k] == pytest.approx(report["scores"][k], rel=1e-3)
    cached, _ = evaluate_run(EvalConfig(str(run), str(tmp_path), **few))
    assert cached["scores"] == again["scores"]
    assert (tmp_path / "report.json").is_file()
    assert again["not_measured"].keys() == {"yardstick", "pr", "is", "ppl", "als"}
    assert "bank" not in again
    other, _ = evaluate_run(EvalConfig(str(run), str(tmp_path), **TINY, scores=("fid",), seed=1))
    assert other["scores"][f"fid{D}"] != report["scores"][f"fid{D}"]


def test_truncation_changes_the_pictures(run, report, tmp_path):
    flat, _ = evaluate_run(EvalConfig(str(run), str(tmp_path), **TINY, scores=("fid",), psi=0.1))
    assert flat["scores"][f"fid{D}"] != report["scores"][f"fid{D}"] and flat["psi"] == 0.1


def test_inception_score_with_a_classifier(run, tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * 5

    file = tmp_path / "colours.ts"
    torch.jit.script(Net()).save(str(file))
    ask = EvalConfig(str(run), str(tmp_path), **TINY, scores=("is",), classifier=str(file), classifier_size=32)
    with pytest.raises(ValueError, match="TorchScript, which is code.*--allow-code " + sha256(file)):
        evaluate_run(ask)
    ask = replace(ask, allow_code=(sha256(file),))
    found, _ = evaluate_run(ask)
    assert set(found["scores"]) == {"is[colours]", "is_std[colours]"}
    assert found["scores"]["is[colours]"] >= 1
    assert found["classifier"]["name"] == "colours"
    first = E.lines(found)[0]
    assert "is[colours]" in first and "spread" in first


def test_another_detector_is_named_and_its_file_checked(run, tmp_path, monkeypatch):
    "A timm network from a local file: its name in every key, its hash in the report; path length by another judge."
    from safetensors.torch import save_file

    from hsr_nb.judges.backbones import build_net

    for k in ("HSR_NB_VGG16", "HSR_NB_LPIPS_VGG16", "HSR_NB_INCEPTION"):
        monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    save_file(build_net("test_resnet", seed=1).state_dict(), tmp_path / "w.safetensors")
    good, bad = tmp_path / "w.safetensors", tmp_path / "bad.safetensors"
    ask = dict(detector="test_resnet", weights=str(good))
    found, _ = evaluate_run(EvalConfig(str(run), str(tmp_path), **TINY | ask, scores=("kid", "ppl")))
    ppl = f"ppl2_wend[maps-{BANK}]"
    assert set(found["scores"]) == {"kid[test_resnet]", "kid_std[test_resnet]", ppl, f"{ppl}_se"}
    assert found["detector"] == {"name": "test_resnet", "sha256": sha256(good)}
    assert found["distance"]["sha256"] == load_detector(BANK).sha256
    bad.write_bytes(b"nonsense")
    for wrong, says in (
        (dict(detector="test_resnet"), "HSR_NB_TEST_RESNET"),
        (dict(detector="inception"), "HSR_NB_INCEPTION"),
        (dict(detector="test_resnet", weights=str(bad)), "is no safetensors file"),
        (dict(detector="inception", weights=str(good)), "does not fit"),
        (dict(scores=("is",), classifier="inception"), "HSR_NB_INCEPTION"),
    ):
        with pytest.raises((ValueError, OSError), match=says):
            evaluate_run(EvalConfig(str(run), str(tmp_path / "out.json"), **TINY | {"scores": ("kid",)} | wrong))
    assert not (tmp_path / "out.json").exists()


def test_the_teacher_of_a_network_does_not_judge_it(tmp_path):
    meta = {
        "data": SynthFaces(32).identity,
        "count": {"nimg": 0},
        "teacher": {"name": "synthfaces-tiny"},
        "config": {"data": {"path": "synthfaces", "resolution": 32}},
    }
    path = write_network(tmp_path / "g.safetensors", network(0), meta)
    with pytest.raises(ValueError, match="taught this network"):
        evaluate_run(EvalConfig(str(path), **TINY | {"detector": "synthfaces-tiny"}, scores=("kid",)))


@pytest.mark.parametrize("option, score", [("classifier", "is"), ("bank", "als")])
def test_a_classifier_that_is_none(run, tmp_path, option, score):
    card = {
        "attributes": ["a"],
        "input": {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
        "architecture": {"kwargs": {"attributes": 1}},
    }
    (tmp_path / "x.json").write_text(json.dumps(card))
    out = tmp_path / "out.json"
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense")
        ask = EvalConfig(str(run), str(out), **TINY, scores=(score,), **{option: str(tmp_path / name)})
        with pytest.raises(ValueError, match="cannot be read|is no safetensors file") as e:
            evaluate_run(ask)
        assert "\n" not in str(e.value)
        assert not out.exists()


def test_a_network_that_draws_one_picture(tmp_path):
    G = network(0)
    for name, v in G.state_dict().items():
        if "affine.weight" in name or "noise_strength" in name:
            v.zero_()
    found, path = evaluate_run(EvalConfig(str(save(tmp_path / "still.safetensors", G)), **TINY))
    assert path == tmp_path / "still.report.json"
    assert found["not_measured"]["als"].startswith("no attribute")
    assert not any(k.startswith("als") for k in found["scores"])
    assert found["scores"][f"recall{D}"] == 0 < found["scores"][f"recall_interval{D}"][1]
    assert all(math.isfinite(v) for v in numbers(found))


def test_labels_of_the_data_set_feed_a_conditional_network(tmp_path):
    ds = SynthFaces(32, labels=True)
    path = save(tmp_path / "c.safetensors", network(0, ds.label_dim), ds.identity, labels=True)
    found, _ = evaluate_run(EvalConfig(str(path), **TINY, scores=("fid", "als")))
    assert found["data"]["labels"] is True


def test_labels_are_drawn_from_the_whole_data_set(tmp_path):
    "A folder is sorted by class; a few pairs or paths still meet both classes."
    from PIL import Image

    labels = []
    for i in range(40):
        file = tmp_path / "set" / str(i // 20) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 0, 0)).save(file)
        labels.append([f"{i // 20}/{i}.png", i // 20])
    (tmp_path / "set/dataset.json").write_text(json.dumps({"labels": labels}))
    file = save(tmp_path / "c.safetensors", network(0, 2), {}, labels=True)

    def mixed(seed):
        few = TINY | {"n": 30, "reals": 30, "scores": ("kid",)}
        return Subject(EvalConfig(str(file), data=str(tmp_path / "set"), **few, seed=seed)).labels

    assert (mixed(0)[:8].sum(0) > 0).all()
    assert mixed(0).sum(0).tolist() == [20, 20]
    assert torch.equal(mixed(0), mixed(0))
    assert not torch.equal(mixed(0), mixed(1))


def test_a_generator_that_ships_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, path = evaluate_run(EvalConfig("synthfaces-hsr", **TINY, scores=("fid", "als")))
    assert path == Path("synthfaces-hsr.report.json")
    assert path.is_file()
    assert found["network"]["teacher"] == "synthfaces-tiny"
    assert found["network"]["kimg"] == read_card("synthfaces-hsr")["training"]["kimg"]
    assert found["data"]["sha256"] == SynthFaces(32).identity["sha256"]
    assert found["scores"][f"fid{D}"] < 10
    by_the_teacher = TINY | {"detector": "synthfaces-tiny", "scores": ("kid",)}
    with pytest.raises(ValueError, match="taught this network"):
        evaluate_run(EvalConfig("synthfaces-hsr", **by_the_teacher))
    untaught, _ = evaluate_run(EvalConfig("synthfaces-baseline", **by_the_teacher))
    assert untaught["scores"]["kid[synthfaces-tiny]"] < 1


def judges(folder, torchscript):
    "Classifiers in a folder; their arguments are functions of pictures in [-1, 1]."

    class Net(torch.nn.Module):
        def __init__(self, f):
            super().__init__()
            self.f = f

        def forward(self, x):
            return self.f(x)

    folder.mkdir()
    for name, f in torchscript.items():
        torch.jit.trace(Net(f), torch.rand(2, 3, 256, 256)).save(str(folder / f"{name}.pt"))
    return folder


def allowed(folder):
    "A folder of programs, and the option that lets them run."
    return [str(folder), "--allow-code", *(sha256(file) for file in folder.iterdir())]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_constant_attribute_and_one_that_is_not_finite(run, tmp_path, capsys):
    def red(x):
        return x[:, :1].mean((2, 3))

    def flat(x):
        return x.mean((2, 3))[:, :1] * 0 + 1

    def broken(x):
        return red(x) / 0 * 0

    out = tmp_path / "r.json"
    ask = [str(run), "--scores", "als", "--paths", "4", "--frames", "5", "--device", "cpu", "--out", str(out), "--bank"]
    assert E.main([*ask, *allowed(judges(tmp_path / "bank", {"red": red, "flat": flat}))]) == 0
    said = capsys.readouterr()
    spoken = [line for line in re.split(r"[\r\n]+", said.err) if line.strip() and not line.startswith("scores:")]
    assert spoken == ["hsr_eval: note: constant over all frames, without a score and left out of the mean: flat"]
    assert "als[bank]" in said.out
    scores = json.loads(out.read_text())["scores"]
    assert scores["als_by_attribute[bank]"]["flat"] is None
    assert scores["als[bank]"] == scores["als_by_attribute[bank]"]["red"] > 0
    assert "NaN" not in out.read_text()
    assert E.main([*ask, *allowed(judges(tmp_path / "still", {"flat": flat}))]) == 0
    assert "als: no attribute ever changes along a path" in capsys.readouterr().out
    out.unlink()
    assert E.main([*ask, *allowed(judges(tmp_path / "broken", {"nan": broken}))]) == 2
    assert not out.exists()
    assert capsys.readouterr().err == "hsr_eval: broken returned a value that is not finite for path 0\n"


def test_fid_is_frechet_under_its_public_name():
    x, y = (torch.randn(200, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert fid(x, x, "toy")["fid[toy]"] == pytest.approx(0, abs=1e-9)
    assert 0 < fid_se(x, y, "toy", 10)["fid_se[toy]"] < fid(x, y + 1, "toy")["fid[toy]"]
    with pytest.raises(ValueError, match="at least 2"):
        fid_se(x, y, "toy", 1)


# ---- two reports


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(data={"name": "synthfaces", "resize_filter": "box", "sha256": "9" * 64}), "data-set identity.*box"),
        (dict(n=111), "110 in one and 111"),
        (dict(reals=200), "real pictures"),
        (dict(detector={"name": "inception", "sha256": "8" * 64}), "the detector.*inception"),
        (dict(detector={"name": JUDGE, "sha256": "8" * 64}), "888888888888"),
        (dict(psi=0.7), "psi"),
        (dict(paths=9), "paths"),
        (dict(frames=11), "frames"),
        (dict(pairs=9), "pairs"),
        (dict(asked=["is"]), "no score in common"),
    ],
)
def test_reports_measured_differently_are_not_compared(report, change, says):
    with pytest.raises(ValueError, match=says) as e:
        compare_reports(report, report | change)
    assert "\n" not in str(e.value)


def test_reports_measured_alike_are_compared(run, report):
    table = compare_reports(run / "report.json", report)
    assert len(table) == 7
    assert all(r["difference"] == 0 and r["ratio"] in (1, None) for r in table.values())
    assert not any("_se" in k or "_std" in k for k in table)
    # what only one was asked for does not matter
    few = report | {"asked": ["fid"], "paths": 9, "scores": {f"fid{D}": 1.0}}
    assert list(compare_reports(report, few)) == [f"fid{D}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "hsr_nb report 1"}', "\x80"])
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "r.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="r.json"):
        E.read_report(tmp_path / "r.json")
    with pytest.raises(FileNotFoundError, match="report not found"):
        E.read_report(tmp_path / "none.json")


def test_an_incomparable_report_is_refused_before_anything_is_measured(run, report, tmp_path, monkeypatch):
    (tmp_path / "other.json").write_text(json.dumps(report | {"n": 7}))
    monkeypatch.setattr(E, "measure", lambda *a: pytest.fail("measured"))
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluate_run(EvalConfig(str(run), **TINY, against=str(tmp_path / "other.json")))


# ---- what is refused


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(n=96, scores=("fid",)), "at least 97 pictures"),
        (dict(reals=50, scores=("fid",)), "found 50"),
        (dict(reals=20001), "20000 pictures, 20001"),
        (dict(n=1), "at least 2"),
        (dict(paths=1), "at least 2"),
        (dict(frames=2), "at least 3"),
        (dict(scores=("fid", "nope")), "'nope'"),
        (dict(scores=()), "no score"),
        (dict(scores=("is",)), "classifier"),
        (dict(vgg="a"), "both files"),
        (dict(psi=float("inf")), "psi"),
        (dict(resamples=1), "at least 2"),
        (dict(device="nowhere"), "cannot be used"),
        (dict(data="digits"), "shape"),
        (dict(bank="gone.pt"), "not found"),
        (dict(against="gone.json"), "report not found"),
    ],
)
def test_settings_that_make_no_sense(run, tmp_path, change, says):
    with pytest.raises((ValueError, OSError), match=says) as e:
        evaluate_run(EvalConfig(str(run), str(tmp_path / "r.json"), **TINY | change))
    assert "\n" not in str(e.value) and not list(tmp_path.iterdir())


def test_features_that_are_not_finite(run, tmp_path, monkeypatch):
    def broken(self, x):
        return torch.full((len(x), self.num_features), float("nan"))

    monkeypatch.setattr("hsr_nb.judges.detectors.Detector.__call__", broken)
    monkeypatch.setattr("hsr_nb.judges.maps.MapsDetector.__call__", broken)
    for score in ("yardstick", "fid", "kid", "pr"):
        with pytest.raises(ValueError, match="not finite"):
            evaluate_run(EvalConfig(str(run), str(tmp_path / "r.json"), **TINY, scores=(score,)))
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_not_finite_writes_no_report(run, tmp_path, monkeypatch):
    monkeypatch.setitem(MEASURE, "kid", lambda s: {"kid[x]": float("nan")})
    with pytest.raises(ValueError, match=r"kid\[x\] is nan"):
        evaluate_run(EvalConfig(str(run), str(tmp_path / "r.json"), **TINY, scores=("kid",)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError):
        E.write_report(tmp_path / "r.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_network_that_diverged(tmp_path):
    G = network(0)
    next(iter(G.synthesis.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="diverged"):
        evaluate_run(EvalConfig(str(save(tmp_path / "nan.safetensors", G)), **TINY))


def test_other_pictures_than_those_of_the_training(tmp_path):
    path = save(tmp_path / "x.safetensors", network(0), {"name": "synthfaces", "sha256": "7" * 64})
    with pytest.raises(ValueError, match="777777777777"):
        Subject(EvalConfig(str(path), **TINY))
    said_out_loud = Subject(EvalConfig(str(path), **TINY, data="synthfaces"))
    assert said_out_loud.ds.name == "synthfaces"
    part = save(tmp_path / "y.safetensors", network(0), {"name": "synthfaces", "sha256": "7" * 64}, max_size=500)
    assert len(Subject(EvalConfig(str(part), **TINY)).ds) == 20000
    grey = save(tmp_path / "z.safetensors", network(0, channels=1))
    with pytest.raises(ValueError, match="shape"):
        Subject(EvalConfig(str(grey), **TINY))


def test_bad_paths(tmp_path, run):
    for path, says in ((tmp_path / "gone", "no checkpoint or run folder"), (tmp_path, "holds no checkpoint")):
        with pytest.raises(CheckpointError, match=says):
            evaluate_run(EvalConfig(str(path), **TINY))
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="bad.safetensors"):
        evaluate_run(EvalConfig(str(tmp_path / "bad.safetensors"), **TINY))
    with pytest.raises(ValueError, match="cannot make the folder"):
        evaluate_run(EvalConfig(str(run), str(tmp_path / "bad.safetensors/r.json"), **TINY))


# ---- from a shell


def test_exit_codes(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "r.json"
    few = ["--n", "110", "--resamples", "4", "--detector", JUDGE, "--device", "cpu"]
    quick = [str(run), "--scores", "fid", "kid", *few, "--out", str(out)]
    assert E.main(quick) == 0
    assert f"fid{D}" in capsys.readouterr().out
    assert out.is_file()
    assert E.main([*quick, "--against", str(out)]) == 0  # compared with what it is about to replace
    assert "the other report" in capsys.readouterr().out
    for wrong, says in (
        (["gone"], "gone"),
        ([str(run), "--scores", "fid", "--n", "5", "--device", "cpu"], "248"),  # the only one that was asked for
        ([*quick, "--detector", "none"], "none"),
        ([*quick, "--against", str(run / "gone.json")], "report not found"),
    ):
        assert E.main(wrong) == 2
        said = capsys.readouterr().err
        assert said.startswith("hsr_eval: ")
        assert said.count("\n") == 1
        assert says in said
    for wrong in ([], [str(run), "--scores", "nope"], [str(run), "--n", "many"], [str(run), "--nope"]):
        assert E.main(wrong) == 2
    with pytest.raises(SystemExit) as e:
        E.main(["--help"])
    assert e.value.code == 0
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert E.main(quick) == 2
    assert 'pip install "hsr_nb[cli]"' in capsys.readouterr().err


def test_the_command_is_installed_under_its_name():
    assert "hsr_eval=hsr_nb.commands.front:hsr_eval" in (ROOT / "settings.ini").read_text()


# ---- the notebooks


def execute(name, tmp_path, **params):
    papermill = pytest.importorskip("papermill")
    papermill.execute_notebook(
        ROOT / f"nbs/experiments/{name}.ipynb",
        tmp_path / "out.ipynb",
        params,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(ROOT),
    )
    return json.loads((tmp_path / "out.ipynb").read_text())


def outputs(nb, kind):
    "What the cells of a page have shown in one format."
    data = [o.get("data", {}) for c in nb["cells"] for o in c.get("outputs", [])]
    return [d[kind] for d in data if kind in d]


def markdown(nb):
    return "\n".join("".join(text) for text in outputs(nb, "text/markdown"))


def test_als_notebook_compares_the_shipped_pair(tmp_path):
    text = markdown(execute("als", tmp_path, paths=3, frames=3, resamples=20, out=str(tmp_path / "results")))
    for words in (
        "small64, seed 0, 200 kimg",
        "1.59",
        "1 pair: fewer than five, no claim",
        "5 pairs of tiny32, 24 kimg",
    ):
        assert words in text
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("pair-als-")
    assert all(
        len(run["generator"]) == 64 for pair in json.loads(file.read_text())["config"]["runs"] for run in pair.values()
    )


def test_evaluate_notebook_draws_its_page(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which keeps pictures in the page
    from hsr_nb.training import override, preset

    small = {"hsr.teacher": "none", "net.channel_base": 128, "net.channel_max": 16}
    meta = {
        "config": override(preset("tiny32"), **small).to_dict(),
        "data": SynthFaces(32).identity,
        "count": {"nimg": 1000, "seconds": 1.0},
    }
    path = write_network(tmp_path / "g.safetensors", network(0), meta)
    nb = execute(
        "evaluate", tmp_path, run_dir=str(path), n=100, pairs=4, paths=4, detector=JUDGE, out=str(tmp_path / "results")
    )
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("frechet-tiny32-")
    rows = {r["what"]: r for r in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["other real images", "generated", "real, blurred 2x", "generated, untrained"]
    assert all(r["n"] == 100 for r in rows.values())
    frechet = {what: r[f"frechet{D}"] for what, r in rows.items()}
    assert frechet["other real images"] < frechet["real, blurred 2x"] < frechet["generated"]
    report = E.read_report(tmp_path / "g.report.json")
    assert frechet["generated"] == pytest.approx(report["scores"][f"fid{D}"], abs=1e-4)
    assert len(outputs(nb, "image/jpeg")) == 4
    assert "precision" in markdown(nb)


def test_als_notebook_takes_lists_of_run_folders(tmp_path, monkeypatch):
    "Five pairs, one by one and all together; a list in the wrong order or of the wrong kind is refused."
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def folder(name, seed, teacher):
        meta = {
            "data": SynthFaces(32).identity,
            "count": {"nimg": 1000},
            "teacher": teacher,
            "config": {"preset": "tiny32", "seed": seed, "data": {"path": "synthfaces", "resolution": 32}},
        }
        write_network(tmp_path / name / "checkpoints/000001000.safetensors", network(seed), meta)
        return str(tmp_path / name)

    teacher = {"name": "synthfaces-tiny", "sha256": "0"}
    base = [folder(f"base-{i}", i, None) for i in range(5)]
    hsr = [folder(f"hsr-{i}", i + 10, teacher) for i in range(5)]
    small = dict(paths=5, frames=5, resamples=30, device="cpu", out=str(tmp_path / "results"))
    text = markdown(execute("als", tmp_path, baseline=base, hsr=hsr, **small))
    assert "5 pairs." in text

    (file,) = (tmp_path / "results").iterdir()
    found = json.loads(file.read_text())
    assert [r["baseline"]["seed"] for r in found["config"]["runs"]] == list(range(5))
    means = [r for r in found["rows"] if r["attribute"] == "mean" and r["sigma"].startswith("own")]
    alone = [r["difference"][0] for r in means if r["pair"] != "all"]
    together = next(r for r in means if r["pair"] == "all")
    assert len(alone) == 5
    d = torch.tensor(alone, dtype=torch.float64)
    half = 2.7764 * d.std().item() / 5**0.5  # Student, four degrees of freedom
    assert together["difference"] == pytest.approx(d.mean().item(), abs=2e-4)
    assert together["high"] - together["difference"] == pytest.approx(half, abs=2e-4)

    for wrong, says in (
        (dict(baseline=base[:2], hsr=hsr[:1]), "as many baselines as HSR runs"),
        (dict(baseline=hsr[:1], hsr=base[:1]), "was trained with the teacher"),
    ):
        with pytest.raises(Exception, match=says):
            execute("als", tmp_path, **wrong, **small)


def test_a_score_that_cannot_be_had_does_not_take_the_others_with_it(run, tmp_path, capsys):
    "Fewer pictures than features: no Frechet distance, and all else; alone it is refused."
    ask = [str(run), "--device", "cpu", "--n", "40", "--out", str(tmp_path / "r.json")]
    assert E.main([*ask, "--scores", "fid", "kid"]) == 0
    report = E.read_report(tmp_path / "r.json")
    assert [key for key in report["scores"] if key.startswith("kid[")] and "fid" not in str(list(report["scores"]))
    why = report["not_measured"]["fid"]
    assert "fid with 248 features needs at least 249 pictures on both sides, found 40" == why
    assert why in capsys.readouterr().out and "fid" not in report["notes"]
    assert E.main([*ask, "--scores", "fid"]) == 2
