"""A report says what it was measured with, or there is none: keys, provenance, refusals, exit codes."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from hsr_nb.data import SynthFaces
from hsr_nb.interop import CheckpointError, save_safetensors
from hsr_nb.judges.cards import read_card
from hsr_nb.metrics import fid, load_detector
from hsr_nb.metrics.fidelity import fid_se
from hsr_nb.nets import Generator
from hsr_nb.studies import EvalConfig, compare_reports, evaluate_run
from hsr_nb.studies import evaluate as E

ROOT = Path(__file__).parents[1]
TINY = dict(n=110, pairs=8, paths=4, frames=5, resamples=4, device="cpu", batch=64)
D = "[synthfaces-attributes]"


def network(seed=0, c_dim=0, resolution=32, channels=3):
    torch.manual_seed(seed)
    return (
        Generator(
            z_dim=8,
            c_dim=c_dim,
            w_dim=8,
            img_resolution=resolution,
            img_channels=channels,
            mapping_kwargs=dict(num_layers=2),
            synthesis_kwargs=dict(channel_base=128, channel_max=16),
        )
        .eval()
        .requires_grad_(False)
    )


def save(path, G, identity=None, **data):
    meta = {
        "G": G.init_kwargs,
        "data": identity or SynthFaces(32).identity,
        "count": {"nimg": 2000},
        "teacher": None,
        "config": {
            "preset": "tiny32",
            "seed": 3,
            "data": {"path": "synthfaces", "resolution": 32, "labels": False, "max_size": None, **data},
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_safetensors(path, {f"G_ema.{k}": v for k, v in G.state_dict().items()}, meta)


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
    return (
        [v for y in (x.values() if isinstance(x, dict) else x) for v in numbers(y)]
        if isinstance(x, (dict, list))
        else [x]
        if isinstance(x, float)
        else []
    )


# ---- what is in a report


def test_report_holds_every_score_and_where_it_comes_from(run, report):
    assert json.loads((run / "report.json").read_text()) == json.loads(json.dumps(report)) and not list(
        run.glob(".report*")
    )
    wanted = {
        f"{k}{D}"
        for k in (
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
    }
    ppl = f"ppl2_wend[maps-{D[1:-1]}]"
    assert set(report["scores"]) == wanted | {ppl, f"{ppl}_se"}
    assert {"device", "git", "versions"} <= set(report) and report["versions"]["torch"] == torch.__version__.split("+")[
        0
    ]
    assert report["data"]["resize_filter"] and report["data"]["sha256"] == SynthFaces(32).identity["sha256"]
    assert (
        report["detector"]
        == {"name": D[1:-1], "sha256": load_detector().sha256}
        == {k: v for k, v in report["bank"].items() if k != "auc"}
        and set(report["bank"]["auc"]) == set(load_detector().attribute_names)
        and report["distance"]["name"] == f"maps-{D[1:-1]}"
    )
    assert [report[k] for k in ("n", "reals", "pairs", "paths", "frames", "seed", "psi")] == [110, 110, 8, 4, 5, 0, 1.0]
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
    assert (
        all(math.isfinite(v) for v in numbers(report))
        and "recomputed" in report["notes"]["als"]
        and report["not_measured"] == {"is": "not asked for"}
        and "small" in report["budget"]
    )
    low, high = report["scores"][f"als_interval{D}"]
    assert low <= high and all(
        report["scores"][f"{k}_interval{D}"][0]
        <= report["scores"][f"{k}{D}"]
        <= report["scores"][f"{k}_interval{D}"][1]
        for k in ("precision", "recall")
    )
    assert set(report["scores"][f"als_by_attribute{D}"]) == set(load_detector().attribute_names)


def test_same_seed_same_report_and_any_batch(run, report, tmp_path):
    again, path = evaluate_run(
        EvalConfig(
            str(run),
            str(tmp_path / "deep/er/again.json"),
            **TINY | {"batch": 17},
            scores=("fid", "kid"),
            cache=str(tmp_path / "cache"),
        )
    )
    assert path == tmp_path / "deep/er/again.json" and list((tmp_path / "cache").iterdir())
    for k in (f"fid{D}", f"kid{D}"):
        assert again["scores"][k] == pytest.approx(
            report["scores"][k], rel=1e-3
        )  # pictures agree to the rounding of a byte
    cached, _ = evaluate_run(
        EvalConfig(
            str(run), str(tmp_path), **TINY | {"batch": 17}, scores=("fid", "kid"), cache=str(tmp_path / "cache")
        )
    )
    assert cached["scores"] == again["scores"] and (tmp_path / "report.json").is_file()
    assert again["not_measured"].keys() == {"pr", "is", "ppl", "als"} and "bank" not in again
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
    found, _ = evaluate_run(
        EvalConfig(str(run), str(tmp_path), **TINY, scores=("is",), classifier=str(file), classifier_size=32)
    )
    assert (
        found["scores"]["is[colours]"] >= 1
        and set(found["scores"]) == {"is[colours]", "is_std[colours]"}
        and found["classifier"]["name"] == "colours"
    )
    assert "is[colours]" in E.lines(found)[0] and "spread" in E.lines(found)[0]


def test_another_detector_is_named_and_its_file_checked(run, tmp_path, monkeypatch):
    "A timm network from a local file: its name in every key, its hash in the report; path length by the embedded judge."
    from safetensors.torch import save_file

    from hsr_nb.base.whole import sha256
    from hsr_nb.judges.backbones import build_net

    for k in ("HSR_NB_VGG16", "HSR_NB_LPIPS_VGG16", "HSR_NB_INCEPTION"):
        monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    save_file(build_net("test_resnet", seed=1).state_dict(), tmp_path / "w.safetensors")
    found, _ = evaluate_run(
        EvalConfig(
            str(run),
            str(tmp_path),
            **TINY,
            scores=("kid", "ppl"),
            detector="test_resnet",
            weights=str(tmp_path / "w.safetensors"),
        )
    )
    assert set(found["scores"]) == {
        "kid[test_resnet]",
        "kid_std[test_resnet]",
        f"ppl2_wend[maps-{D[1:-1]}]",
        f"ppl2_wend[maps-{D[1:-1]}]_se",
    }
    assert (
        found["detector"] == {"name": "test_resnet", "sha256": sha256(tmp_path / "w.safetensors")}
        and found["distance"]["sha256"] == load_detector().sha256
    )
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    for wrong, says in (
        (dict(detector="test_resnet"), "HSR_NB_TEST_RESNET"),
        (dict(detector="inception"), "HSR_NB_INCEPTION"),
        (dict(detector="test_resnet", weights=str(tmp_path / "bad.safetensors")), "cannot be read"),
        (dict(detector="inception", weights=str(tmp_path / "w.safetensors")), "does not fit"),
        (dict(scores=("is",), classifier="inception"), "HSR_NB_INCEPTION"),
    ):
        with pytest.raises((ValueError, OSError), match=says):
            evaluate_run(EvalConfig(str(run), str(tmp_path / "out.json"), **TINY | {"scores": ("kid",)} | wrong))
    assert not (tmp_path / "out.json").exists()


def test_the_teacher_of_a_network_does_not_judge_it(tmp_path):
    G = network(0)
    meta = {
        "G": G.init_kwargs,
        "data": SynthFaces(32).identity,
        "count": {"nimg": 0},
        "teacher": {"name": "synthfaces-tiny"},
        "config": {"data": {"path": "synthfaces", "resolution": 32}},
    }
    path = save_safetensors(tmp_path / "g.safetensors", {f"G_ema.{k}": v for k, v in G.state_dict().items()}, meta)
    with pytest.raises(ValueError, match="taught this network"):
        evaluate_run(EvalConfig(str(path), **TINY, detector="synthfaces-tiny", scores=("kid",)))


@pytest.mark.parametrize("option, score", [("classifier", "is"), ("bank", "als")])
def test_a_classifier_that_is_none(run, tmp_path, option, score):
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense")
        (tmp_path / "x.json").write_text(
            '{"attributes": ["a"], "input": {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}, "architecture": {"kwargs": {"attributes": 1}}}'
        )
        with pytest.raises(ValueError, match="cannot be read") as e:
            evaluate_run(
                EvalConfig(
                    str(run), str(tmp_path / "out.json"), **TINY, scores=(score,), **{option: str(tmp_path / name)}
                )
            )
        assert "\n" not in str(e.value) and not (tmp_path / "out.json").exists()


def test_a_network_that_draws_one_picture(tmp_path):
    G = network(0)
    for name, v in G.state_dict().items():
        if "affine.weight" in name or "noise_strength" in name:
            v.zero_()
    found, path = evaluate_run(EvalConfig(str(save(tmp_path / "still.safetensors", G)), **TINY))
    assert found["not_measured"]["als"].startswith("no attribute") and not any(
        k.startswith("als") for k in found["scores"]
    )
    assert (
        found["scores"][f"recall{D}"] == 0 < found["scores"][f"recall_interval{D}"][1]
        and path == tmp_path / "still.report.json"
    )
    assert all(math.isfinite(v) for v in numbers(found))


def test_labels_of_the_data_set_feed_a_conditional_network(tmp_path):
    ds = SynthFaces(32, labels=True)
    path = save(tmp_path / "c.safetensors", network(0, ds.label_dim), ds.identity, labels=True)
    found, _ = evaluate_run(EvalConfig(str(path), **TINY, scores=("fid", "als")))
    assert found["data"]["labels"] is True


def test_labels_are_drawn_from_the_whole_data_set(tmp_path):
    "A folder is sorted by class; a few pairs or paths still meet both classes."
    from PIL import Image

    for i in range(40):
        file = tmp_path / "set" / str(i // 20) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 0, 0)).save(file)
    (tmp_path / "set/dataset.json").write_text(
        json.dumps({"labels": [[f"{i // 20}/{i}.png", i // 20] for i in range(40)]})
    )
    file = save(tmp_path / "c.safetensors", network(0, 2), {}, labels=True)

    def first(seed):
        return E.Subject(
            EvalConfig(str(file), data=str(tmp_path / "set"), **TINY | {"n": 30}, scores=("kid",), reals=30, seed=seed)
        ).labels

    assert (
        (first(0)[:8].sum(0) > 0).all()
        and first(0).sum(0).tolist() == [20, 20]
        and torch.equal(first(0), first(0))
        and not torch.equal(first(0), first(1))
    )


def test_a_generator_that_ships_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, path = evaluate_run(EvalConfig("synthfaces-hsr", **TINY, scores=("fid", "als")))
    assert (
        path == Path("synthfaces-hsr.report.json")
        and path.is_file()
        and found["network"]["teacher"] == "synthfaces-tiny"
        and found["network"]["kimg"] == read_card("synthfaces-hsr")["training"]["kimg"]
    )
    assert found["data"]["sha256"] == SynthFaces(32).identity["sha256"] and found["scores"][f"fid{D}"] < 10
    with pytest.raises(ValueError, match="taught this network"):
        evaluate_run(EvalConfig("synthfaces-hsr", **TINY, detector="synthfaces-tiny", scores=("kid",)))
    assert (
        evaluate_run(EvalConfig("synthfaces-baseline", **TINY, detector="synthfaces-tiny", scores=("kid",)))[0][
            "scores"
        ]["kid[synthfaces-tiny]"]
        < 1
    )


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


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_constant_attribute_and_one_that_is_not_finite(run, tmp_path, capsys):
    red, flat = lambda x: x[:, :1].mean((2, 3)), lambda x: x.mean((2, 3))[:, :1] * 0 + 1
    bank, ask = (
        judges(tmp_path / "bank", {"red": red, "flat": flat}),
        [
            str(run),
            "--scores",
            "als",
            "--paths",
            "4",
            "--frames",
            "5",
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "r.json"),
            "--bank",
        ],
    )
    assert E.main([*ask, str(bank)]) == 0
    said = capsys.readouterr()
    assert (
        said.err == "hsr_eval: constant over all frames, without a score and left out of the mean: flat\n"
        and "als[bank]" in said.out
    )
    scores = json.loads((tmp_path / "r.json").read_text())["scores"]
    assert (
        scores["als_by_attribute[bank]"]["flat"] is None
        and scores["als[bank]"] == scores["als_by_attribute[bank]"]["red"] > 0
        and "NaN" not in (tmp_path / "r.json").read_text()
    )
    assert (
        E.main([*ask, str(judges(tmp_path / "still", {"flat": flat}))]) == 0
        and "als: no attribute ever changes along a path" in capsys.readouterr().out
    )
    (tmp_path / "r.json").unlink()
    assert (
        E.main([*ask, str(judges(tmp_path / "broken", {"nan": lambda x: red(x) / 0 * 0}))]) == 2
        and not (tmp_path / "r.json").exists()
    )
    assert capsys.readouterr().err == "hsr_eval: broken returned a value that is not finite for path 0\n"


def test_fid_is_frechet_under_its_public_name():
    x, y = (torch.randn(200, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert (
        fid(x, x, "toy")["fid[toy]"] == pytest.approx(0, abs=1e-9)
        and 0 < fid_se(x, y, "toy", 10)["fid_se[toy]"] < fid(x, y + 1, "toy")["fid[toy]"]
    )
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
        (dict(detector={"name": D[1:-1], "sha256": "8" * 64}), "888888888888"),
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
    assert (
        all(r["difference"] == 0 and r["ratio"] in (1, None) for r in table.values())
        and len(table) == 6
        and not any("_se" in k or "_std" in k for k in table)
    )
    few = report | {
        "asked": ["fid"],
        "paths": 9,
        "scores": {f"fid{D}": 1.0},
    }  # what only one was asked for does not matter
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
        (dict(n=96), "more than 96 pictures"),
        (dict(reals=50), "found 50"),
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
    for score in ("fid", "kid", "pr"):
        with pytest.raises(ValueError, match="not finite"):
            evaluate_run(EvalConfig(str(run), str(tmp_path / "r.json"), **TINY, scores=(score,)))
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_not_finite_writes_no_report(run, tmp_path, monkeypatch):
    monkeypatch.setitem(E.MEASURE, "kid", lambda s: {"kid[x]": float("nan")})
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
        E.Subject(EvalConfig(str(path), **TINY))
    assert (
        E.Subject(EvalConfig(str(path), **TINY, data="synthfaces")).ds.name == "synthfaces"
    )  # said out loud, it is allowed
    part = save(tmp_path / "y.safetensors", network(0), {"name": "synthfaces", "sha256": "7" * 64}, max_size=500)
    assert len(E.Subject(EvalConfig(str(part), **TINY)).ds) == 20000
    with pytest.raises(ValueError, match="shape"):
        E.Subject(EvalConfig(str(save(tmp_path / "z.safetensors", network(0, channels=1))), **TINY))


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
    quick = [
        str(run),
        "--scores",
        "fid",
        "kid",
        "--n",
        "110",
        "--resamples",
        "4",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "r.json"),
    ]
    assert E.main(quick) == 0
    assert f"fid{D}" in capsys.readouterr().out and (tmp_path / "r.json").is_file()
    assert E.main([*quick, "--against", str(tmp_path / "r.json")]) == 0  # compared with what it is about to replace
    assert "the other report" in capsys.readouterr().out
    for wrong, says in (
        (["gone"], "gone"),
        ([*quick, "--n", "5"], "96"),
        ([*quick, "--detector", "none"], "none"),
        ([*quick, "--against", str(run / "gone.json")], "report not found"),
    ):
        assert E.main(wrong) == 2
        said = capsys.readouterr().err
        assert said.startswith("hsr_eval: ") and said.count("\n") == 1 and says in said
    for wrong in ([], [str(run), "--scores", "nope"], [str(run), "--n", "many"], [str(run), "--nope"]):
        with pytest.raises(SystemExit) as e:
            E.main(wrong)
        assert e.value.code == 2
    with pytest.raises(SystemExit) as e:
        E.main(["--help"])
    assert e.value.code == 0
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert E.main(quick) == 2 and 'pip install "hsr_nb[cli]"' in capsys.readouterr().err


def test_the_command_is_installed_under_its_name():
    assert "hsr_eval=hsr_nb.studies.evaluate:main" in (ROOT / "settings.ini").read_text()


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


def markdown(nb):
    return "\n".join(
        "".join(o["data"]["text/markdown"])
        for c in nb["cells"]
        for o in c.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    )


def test_als_notebook_without_runs_measures_nothing_and_says_so(tmp_path):
    text = markdown(execute("als", tmp_path, demo_paths=3, resamples=20, out=str(tmp_path / "results")))
    assert (
        "not measured" in text
        and "untrained A" in text
        and "1.59" in text
        and "No run was given" in text
        and not (tmp_path / "results").exists()
    )


def test_evaluate_notebook_draws_its_page(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which keeps pictures in the page
    from hsr_nb.training import override, preset

    cfg = override(
        preset("tiny32"), **{"hsr.teacher": "none", "net.channel_base": 128, "net.channel_max": 16}
    ).to_dict()
    ds, G = SynthFaces(32), network(0)
    path = save_safetensors(
        tmp_path / "g.safetensors",
        {f"G_ema.{k}": v for k, v in G.state_dict().items()},
        {"G": G.init_kwargs, "config": cfg, "data": ds.identity, "count": {"nimg": 1000, "seconds": 1.0}},
    )
    nb = execute("evaluate", tmp_path, run_dir=str(path), n=100, pairs=4, paths=4, out=str(tmp_path / "results"))
    (file,) = (tmp_path / "results").iterdir()
    rows = {r["what"]: r for r in json.loads(file.read_text())["rows"]}
    assert file.name.startswith("frechet-tiny32-") and list(rows) == [
        "other real images",
        "generated",
        "real, blurred 2x",
        "generated, untrained",
    ]
    key, found = f"frechet{D}", E.read_report(tmp_path / "g.report.json")
    assert rows["other real images"][key] < rows["real, blurred 2x"][key] < rows["generated"][key] == pytest.approx(
        found["scores"][f"fid{D}"], abs=1e-4
    ) and all(r["n"] == 100 for r in rows.values())
    assert sum(
        "image/png" in o.get("data", {}) for c in nb["cells"] for o in c.get("outputs", [])
    ) == 4 and "precision" in markdown(nb)


def test_als_notebook_takes_lists_of_run_folders(tmp_path, monkeypatch):
    "Five pairs, one by one and all together; a list in the wrong order or of the wrong kind is refused."
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def folder(name, seed, teacher):
        G, meta = (
            network(seed),
            {
                "data": SynthFaces(32).identity,
                "count": {"nimg": 1000},
                "teacher": teacher,
                "config": {"preset": "tiny32", "seed": seed, "data": {"path": "synthfaces", "resolution": 32}},
            },
        )
        path = tmp_path / name / "checkpoints/000001000.safetensors"
        path.parent.mkdir(parents=True)
        save_safetensors(path, {f"G_ema.{k}": v for k, v in G.state_dict().items()}, meta | {"G": G.init_kwargs})
        return str(tmp_path / name)

    base, hsr = (
        [folder(f"{kind}-{i}", i + more, teacher) for i in range(5)]
        for kind, more, teacher in (("base", 0, None), ("hsr", 10, {"name": "synthfaces-tiny", "sha256": "0"}))
    )
    small = dict(paths=5, frames=5, resamples=30, device="cpu", out=str(tmp_path / "results"))
    nb = execute("als", tmp_path, baseline=base, hsr=hsr, **small)
    (file,) = (tmp_path / "results").iterdir()
    found = json.loads(file.read_text())
    rows, text = found["rows"], markdown(nb)
    alone, together = [
        [r for r in rows if r["attribute"] == "mean" and r["sigma"].startswith("own") and (r["pair"] == "all") == t]
        for t in (False, True)
    ]
    d = torch.tensor([r["difference"][0] for r in alone], dtype=torch.float64)
    assert len(d) == 5 and together[0]["difference"] == pytest.approx(d.mean().item(), abs=2e-4)
    assert together[0]["high"] - together[0]["difference"] == pytest.approx(2.7764 * d.std().item() / 5**0.5, abs=2e-4)
    assert (
        [r["baseline"]["seed"] for r in found["config"]["runs"]] == list(range(5))
        and "5 pairs." in text
        and "not measured" not in text
    )
    for wrong, says in (
        (dict(baseline=base[:2], hsr=hsr[:1]), "as many baselines as HSR runs"),
        (dict(baseline=hsr[:1], hsr=base[:1]), "was trained with the teacher"),
    ):
        with pytest.raises(Exception, match=says):
            execute("als", tmp_path, **wrong, **small)
