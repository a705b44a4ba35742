"""What images go through before they are judged: numbers of the published pipeline, parts and resume, what is refused.

`files/augment_oracle.json` holds what public implementations answered on inputs given by formulas."""

import json
import pickle
from pathlib import Path

import foreign
import pytest
import torch

from hsr_nb.interop import CheckpointError, load_checkpoint
from hsr_nb.interop.convert import convert_checkpoint
from hsr_nb.nets import Generator
from hsr_nb.nets.discriminator import Discriminator, freezable_layers
from hsr_nb.training import PRESETS, AugmentPipe, DiffAugment, override, preset, read_metrics, train
from hsr_nb.training.ada import ADA, check_augment, load_pipe
from hsr_nb.training.cli import parse
from hsr_nb.training.diffaugment import cut_box, shift_colours, translate
from hsr_nb.training.transformations import NAMES, named

ORACLE = json.loads(Path(__file__).with_name("files").joinpath("augment_oracle.json").read_text())


def picture(size, channels=3):
    "x[n,c,i,j] = sin(0.3 i + 0.5 j + 1.1 c + n), two images."
    n, c, i, j = grid(size, channels)
    return torch.sin(0.3 * i + 0.5 * j + 1.1 * c + n).float()


def weight(size, channels=3):
    n, c, i, j = grid(size, channels)
    return torch.cos(0.2 * i - 0.4 * j + 0.7 * c + 0.5 * n).float()


def field(size, channels=3):
    n, c, i, j = grid(size, channels)
    return torch.cos(1.7 * i + 2.3 * j + 0.9 * c + 1.3 * n).float()


def grid(size, channels):
    ranges = [torch.arange(k, dtype=torch.double) for k in (2, channels, *size)]
    return torch.meshgrid(*ranges, indexing="ij")


def measured(apply, size, channels=3):
    "The numbers that the file holds, of a function of pictures."
    x = picture(size, channels).requires_grad_(True)
    y = apply(x)
    (g,) = torch.autograd.grad((y * weight(size, channels)).sum(), x)
    h, w = size
    corners = (y[0, 0, 0, 0], y[0, 0, 0, w - 1], y[1, 0, h - 1, 0], y[1, channels - 1, h - 1, w - 1])
    return {
        "mean": y.double().mean(),
        "mean_square": y.double().square().mean(),
        "y_5_6": y[0, :, 5, 6],
        "y_corner": torch.stack(corners),
        "y_last": y[1, :, h - 4, 3],
        "grad_sum": g.double().sum(),
        "grad_square_sum": g.double().square().sum(),
        "grad_5_6": g[0, :, 5, 6],
        "grad_corner": torch.stack([g[0, 0, 0, 0], g[1, channels - 1, h - 1, w - 1]]),
    }


def assert_as_told(found, case, tolerance=1e-5):
    for name, value in found.items():
        want = torch.tensor(case[name], dtype=torch.double)
        gap = (value.detach().double() - want).abs() / want.abs().clamp(min=1)
        assert gap.max() < tolerance, (name, value, want, float(gap.max()))


def tolerance(case):
    "Pictures that are turned and then pass a filter of 43 taps are told less exactly."
    names = {case.get("transform"), case.get("case")}
    return 2e-4 if names & {"imgfilter", "bgcf", "bgcfc", "filter", "everything"} else 1e-5


# --- the pipeline, number by number


def told(case):
    size = "x".join(map(str, case["size"]))
    return "-".join(
        str(v) for v in (case.get("transform", case.get("case", case.get("policy"))), case.get("P"), size) if v
    )


@pytest.mark.parametrize("case", ORACLE["single"], ids=told)
def test_one_transformation_at_a_percentile(case):
    groups = {"bgcfc": "bgcf,cutout"}.get(case["transform"], case["transform"])
    pipe = AugmentPipe(groups, p=0.0)  # the gates are forced
    found = measured(lambda x: pipe(x, debug_percentile=case["P"]), case["size"], case["channels"])
    assert_as_told(found, case, tolerance(case))


NEUTRAL = {
    "xflip": 0,
    "rotate90": 0,
    "xint": [0, 0],
    "scale": 1,
    "pre_rotation": 0,
    "aniso": 1,
    "post_rotation": 0,
    "xfrac": [0, 0],
    "brightness": 0,
    "contrast": 1,
    "lumaflip": 0,
    "hue": 0,
    "saturation": 1,
    "bands": [1, 1, 1, 1],
    "noise": 0,
    "cutout": [-1, -1],
}


def parameters_of(case):
    "By name, for both images; what is absent does nothing."
    enabled = set(case["enabled"])
    if "rotate" in enabled:
        enabled |= {"pre_rotation", "post_rotation"}
    if "imgfilter" in enabled:
        enabled.add("bands")
    rows = [NEUTRAL | image for image in case["parameters"]]
    return {k: torch.tensor([row[k] for row in rows], dtype=torch.float) for k in NEUTRAL if k in enabled}


def explicit(case, impl="auto"):
    found = parameters_of(case)
    pipe = AugmentPipe()
    return lambda x: pipe.apply_parameters(x, found, field=field(case["size"]), impl=impl)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("case", ORACLE["explicit"], ids=told)
def test_given_parameters(case, impl):
    assert_as_told(measured(explicit(case, impl), case["size"]), case, tolerance(case))


@pytest.mark.parametrize("case", ORACLE["second_order"], ids=told)
def test_r1_through_the_pipeline(case):
    "The penalty, and its gradient to the parameters of a smooth stand-in for the discriminator."
    size = case["size"]
    given = next(c for c in ORACLE["explicit"] if c["case"] == case["case"] and c["size"] == size)
    x, g = picture(size).requires_grad_(True), weight(size)
    theta = torch.tensor([0.8, -1.1], requires_grad=True)
    y = explicit(given)(x)
    seen = (y * g).sum([1, 2, 3]) / 20
    d = torch.tanh(theta[0] * seen + theta[1]) + 0.05 * theta[0] * (y.square() * g).sum([1, 2, 3]) / 20
    (slope,) = torch.autograd.grad(d.sum(), x, create_graph=True)
    penalty = slope.square().sum([1, 2, 3])
    (of_theta,) = torch.autograd.grad(penalty.mean(), theta)
    found = {"d": d, "r1_per_image": penalty, "gradient_of_mean_r1_to_theta": of_theta}
    for name, value in found.items():
        torch.testing.assert_close(value.detach(), torch.tensor(case[name]), rtol=2e-5, atol=2e-6)


TABLE = {  # stylegan2.md's own table, the same x: y[0, :, 5, 6] and y[0, 0, 0, 0]
    ("xflip", 0.7): ([-0.320562, 0.698771, 0.954481], 0.933503),
    ("rotate90", 0.3): ([0.456162, 0.999996, 0.451026], 0.933503),
    ("xint", 0.9): ([0.239249, -0.756802, -0.925814], 0.999573),
    ("rotate", 0.6): ([-0.856745, 0.058667, 0.909967], -0.603082),
    ("xfrac", 0.7): ([-0.685280, -0.946837, -0.173683], 0.486992),
    ("lumaflip", 0.8): ([-0.174899, 0.171365, 1.207481], -1.133136),
    ("hue", 0.6): ([-0.515868, -1.056472, 0.368393], 0.080136),
    ("saturation", 0.8): ([-1.271742, -0.748678, 0.816473], -0.289286),
    ("bgc", 0.6): ([-0.888966, -0.106787, -1.025454], -1.180704),
}


@pytest.mark.parametrize("name, percentile", TABLE)
def test_other_percentiles(name, percentile):
    want, corner = TABLE[name, percentile]
    y = AugmentPipe(name, 1.0)(picture((16, 16)), debug_percentile=percentile)
    torch.testing.assert_close(y[0, :, 5, 6], torch.tensor(want), atol=2e-5, rtol=0)
    assert abs(float(y[0, 0, 0, 0]) - corner) < 2e-5


def test_filters_are_the_published_ones():
    pipe = AugmentPipe()
    half = torch.tensor(ORACLE["filters"]["Hz_fbank_half"])
    torch.testing.assert_close(pipe.Hz_geom, torch.tensor(ORACLE["filters"]["Hz_geom"]), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(pipe.Hz_fbank[:, :22], half, atol=1e-7, rtol=1e-6)
    assert list(pipe.state_dict()) == ["p", "Hz_geom", "Hz_fbank"] and pipe.Hz_fbank.shape == (4, 43)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 64), (96, 96)])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_probability_is_the_identity(size, channels):
    x = torch.rand(3, channels, *size) * 2 - 1
    groups = "bgc,noise,cutout" if min(size) < 22 else "bgcfnc"
    assert (AugmentPipe(groups, p=0.0)(x) - x).abs().max() < 1e-6


# --- the controller


@pytest.mark.parametrize("case", ORACLE["p_schedule"], ids=lambda c: f"from {c['start']}")
def test_p_follows_the_signs(case):
    "Iterations 0, 16, 32 ... report their logits twice."
    batch = case["batch"]
    ada = ADA(target=case["target"], kimg=case["ada_kimg"], p=case["start"])
    for i, (mean, want) in enumerate(zip(case["mean_sign_of_each_iteration"], case["p_after_each_iteration"])):
        positive = round((1 + mean) / 2 * batch)
        logits = torch.tensor([[2.0]] * positive + [[-0.5]] * (batch - positive))
        for _ in range(2 if i % 16 == 0 else 1):
            ada.observe(logits)
        ada.adjust(i, batch)
        assert abs(float(ada.p) - want) < 1e-7, i


# --- DiffAugment


def by_policy(case):
    "The policy with the draws of both images given."
    draws = {step: {k: torch.tensor(v) for k, v in given.items()} for step, given in case["draws"].items()}
    steps = {
        "color": lambda x, d: shift_colours(x, d["brightness"], d["saturation"], d["contrast"]),
        "translation": lambda x, d: translate(x, d["rows"], d["columns"]),
        "cutout": lambda x, d: cut_box(x, d["row"], d["column"]),
    }

    def apply(x):
        for step in case["policy"].split(","):
            x = steps[step](x, draws[step])
        return x

    return apply


@pytest.mark.parametrize("case", ORACLE["diffaugment"], ids=told)
def test_policies(case):
    assert_as_told(measured(by_policy(case), case["size"]), case)


def test_draws_of_policies_fill_their_ranges():
    n = 4000
    ramp = torch.arange(1.0, 257.0).view(1, 1, 16, 16).expand(n, 1, 16, 16)
    seen = DiffAugment("translation")(ramp, generator=torch.Generator().manual_seed(0))
    centre = seen[:, 0, 8, 8] - 1
    rows, columns = centre // 16 - 8, centre % 16 - 8
    for shift in (rows, columns):
        counts = torch.bincount((shift + 2).long(), minlength=5) / n
        assert len(counts) == 5 and (counts - 0.2).abs().max() < 0.03
    ones = torch.ones(n, 1, 16, 16)
    holes = (DiffAugment("cutout")(ones, generator=torch.Generator().manual_seed(0)) == 0).sum([1, 2, 3])
    assert holes.min() == 16 and holes.max() == 64
    assert (DiffAugment("color")(ones) != 1).any()


# --- in a run

SMALL = {
    "data.path": "digits",
    "data.resolution": 32,
    "net.channel_max": 16,
    "net.z_dim": 16,
    "net.w_dim": 16,
    "batch": 8,
    "hsr.teacher": "none",
    "tick_kimg": 0.008,
    "snapshot_kimg": 1000,
    "device": "cpu",
    "augment.kind": "ada",
    "augment.target": 0.05,
    "augment.ada_kimg": 0.2,
    "loss.r1_interval": 2,
}


def run(folder, **changes):
    train(override(preset("tiny32"), **SMALL | {"run_dir": str(folder)} | changes), progress=False)
    return load_checkpoint(folder)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augment") / "run"
    return folder, run(folder, kimg=0.08)


def test_the_curve_of_p_is_in_the_log_and_survives_a_stop(whole, tmp_path):
    "Ten steps, stopped after the sixth, in the middle of a window: p, the half-filled statistic and the log agree."
    folder, state = whole
    half = run(tmp_path / "run", kimg=0.048)
    assert half["augment.signs"][1] == 2 * 8 + 8  # two steps, and the R1 penalty of one of them
    again = run(tmp_path / "run", kimg=0.08)
    assert state.keys() == again.keys() and all(torch.equal(state[k], again[k]) for k in state)
    rows = read_metrics(folder)
    curve = [row["augment/p"] for row in rows]
    assert curve == [row["augment/p"] for row in read_metrics(tmp_path / "run")]
    assert curve[:3] == [0.0] * 3 and curve[-1] == float(state["augment.p"]) > 0
    notch = 8 * 4 / 200
    moved = [round((b - a) / notch) for a, b in zip([0.0, *curve], curve) if b != a]
    assert set(moved) <= {-1, 1} and "augment/r_t" in rows[-1]


def test_rounds_of_accumulation_are_one_pass(tmp_path, monkeypatch):
    "The same pictures go to the discriminator, whatever the split; noise fields and margins included."
    seen = {}

    def noted(rounds):
        def forward(self, images, **how):
            y = AugmentPipe.forward(self, images, **how)
            first, stride = how["part"]
            seen.setdefault(rounds, []).append((first, stride, y.detach().clone()))
            return y

        return forward

    for rounds in (1, 4):
        monkeypatch.setattr(ADA, "forward", noted(rounds))
        run(
            tmp_path / str(rounds),
            kimg=0.008,
            batch_gpu=8 // rounds,
            **{"net.mbstd_group": 2, "augment.groups": "bgcfnc"},
        )
    calls = {1: seen[1], 4: seen[4]}
    assert len(calls[4]) == 4 * len(calls[1])
    joined = torch.empty_like(calls[1][0][2])
    for first, stride, y in calls[4][:4]:  # of the generator's game, before any weight has moved
        joined[first::stride] = y
    torch.testing.assert_close(joined, calls[1][0][2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, other", [("none", "ada"), ("ada", "none"), ("ada", "diffaugment")])
def test_a_branch_may_augment_in_another_way(kind, other, tmp_path):
    trunk = run(tmp_path / "trunk", kimg=0.04, **{"augment.kind": kind})
    branch = {"init_from": str(tmp_path / "trunk"), "init_mode": "branch", "kimg": 0.048}
    arm = run(tmp_path / "arm", **branch, **{"augment.kind": other})
    assert ("augment.p" in trunk, "augment.p" in arm) == (kind == "ada", other == "ada")
    with pytest.raises(CheckpointError, match="augment.kind"):
        run(tmp_path / "arm", **branch | {"augment.kind": kind, "kimg": 0.056})


def test_where_networks_are_taken_over_p_moves_faster(whole, tmp_path):
    changes = {"augment.ada_kimg": None, "kimg": 0.032}
    fresh = run(tmp_path / "fresh", **changes)
    taken = run(tmp_path / "taken", init_from=str(whole[0]), **changes)
    notches = [round(float(s["augment.p"]) / (8 * 4) * 1000, 6) for s in (fresh, taken)]
    assert notches[0] in (0, round(1 / 500, 6)) and notches[1] in (0, round(1 / 100, 6)) and any(notches)


def test_four_channels_and_tiny_pictures_are_refused_before_anything():
    cfg = override(preset("tiny32"), **SMALL)
    with pytest.raises(ValueError, match="1 or 3 channels, found 4"):
        check_augment(cfg, (4, 32, 32))
    check_augment(override(cfg, **{"augment.kind": "diffaugment"}), (4, 32, 32))  # which takes any number
    with pytest.raises(ValueError, match="1 or 3 channels, found 2"):
        AugmentPipe("b")(torch.zeros(1, 2, 16, 16))


# --- presets


def test_presets_say_whether_they_augment():
    kinds = {name: preset(name).augment.kind for name in PRESETS}
    embedded = {"tiny32": "none", "small64": "none", "tiny32v1": "none", "stylegan1": "none"}
    assert kinds == dict.fromkeys(PRESETS, "ada") | embedded | {"hsr256": "none", "low_shot": "diffaugment"}
    published = preset("paper256").augment
    assert (published.groups, published.target, published.ada_kimg, published.interval) == ("bgc", 0.6, None, 4)
    few = preset("low_shot")
    values = few.kimg, few.batch, few.loss.r1_gamma, few.opt.g_lr, few.opt.ema_kimg, few.net.mapping_layers
    assert values == (300, 8, 10, 0.002, 10, 2) and few.net.channel_base == 32768 and few.net.mbstd_group == 4


def test_the_name_of_a_run_says_that_augmentation_is_off():
    assert parse(["auto", "--augment.kind", "none"]).preset == "auto-noaug"
    assert parse(["auto", "--augment.kind", "ada"]).preset == "auto"
    renamed = parse(["paper256", "--data.resolution", "128", "--augment.kind", "none"])
    assert renamed.preset == "paper256@128-noaug" and renamed.augment.kind == "none"


# --- Freeze-D

FREEZE = json.loads(Path(__file__).with_name("files").joinpath("freeze_oracle.json").read_text())["freeze_d"]


@pytest.mark.parametrize("case", FREEZE, ids=lambda c: f"{c['architecture']}-{c['freeze_layers']}")
def test_frozen_layers_are_the_published_ones(case):
    n = case["freeze_layers"]
    size = {"c_dim": 3, "img_resolution": 64, "channel_base": 256, "channel_max": 8}
    D = Discriminator(architecture=case["architecture"], block_kwargs={"freeze_layers": n}, **size)
    free = Discriminator(architecture=case["architecture"], **size)
    trained = dict(D.named_parameters())
    assert [name for name, _ in free.named_parameters() if name not in trained] == case["frozen"]
    assert D.state_dict().keys() == free.state_dict().keys() and len(D.state_dict()) == case["state_entries"]
    there = len({name.rpartition(".")[0] for name in case["frozen"]})
    assert there == min(n, freezable_layers(64, case["architecture"]))


def test_a_run_keeps_frozen_layers_and_goes_on(whole, tmp_path):
    source = whole[1]
    changes = {"init_from": str(whole[0]), "net.freeze_d": 5}
    state = run(tmp_path / "run", kimg=0.016, **changes)
    moved = {k for k in source if k.startswith("D.") and not torch.equal(source[k], state[k])}
    frozen = {f"D.b32.{layer}" for layer in ("fromrgb", "conv0", "conv1", "skip")} | {"D.b16.conv0"}
    assert moved and not {name.rpartition(".")[0] for name in moved} & frozen
    assert not any("b32" in k for k in state if k.startswith("opt_D"))
    again = run(tmp_path / "run", kimg=0.032, **changes)
    assert torch.equal(again["D.b32.conv0.weight"], source["D.b32.conv0.weight"])


# --- files of the released code


def test_the_augmentation_of_an_official_file_comes_and_goes(tmp_path):
    "Buffers and what is switched on; back in a torch file for the released code's `load_state_dict`."
    pipe = AugmentPipe("bg", p=0.25)
    for name in NAMES:
        setattr(pipe, name, 1.0 if name in pipe.enabled else 0)  # as the released class keeps them
    G = Generator(**{"img_resolution": 16, "z_dim": 8, "w_dim": 8, "synthesis_kwargs": {"channel_max": 8}})
    top = {"G_ema": foreign.Persistent(G), "augment_pipe": foreign.Persistent(pipe, "AugmentPipe")}
    with foreign.modules():
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(top, 4))
    found = load_pipe(tmp_path / "x.pkl")
    assert found.enabled == named("bg") and found.p == 0.25
    ours = convert_checkpoint(tmp_path / "x.pkl", tmp_path / "y.safetensors")
    assert "augment" in ours["numbers"] and load_pipe(tmp_path / "y.safetensors").enabled == named("bg")
    convert_checkpoint(tmp_path / "y.safetensors", tmp_path / "z.pt", to="official")
    theirs = torch.load(tmp_path / "z.pt", weights_only=True)["augment_pipe"]
    assert theirs.keys() == {"p", "Hz_geom", "Hz_fbank"}
    assert all(torch.equal(theirs[k], v) for k, v in pipe.state_dict().items())
    with pytest.raises(CheckpointError, match="holds no augmentation"):
        load_pipe("synthfaces-baseline")


def test_the_augmentation_of_a_run_goes_out_without_our_accumulators(whole, tmp_path):
    convert_checkpoint(whole[0], tmp_path / "z.pt", to="official")
    theirs = torch.load(tmp_path / "z.pt", weights_only=True)["augment_pipe"]
    assert theirs.keys() == {"p", "Hz_geom", "Hz_fbank"} and theirs["p"] == whole[1]["augment.p"]
    assert load_pipe(tmp_path / "z.pt").p == theirs["p"]
