"""A training step as a GPU sees it.

Nothing waits for a number, first-order phases may be compiled, the settings of a step end with it."""

import contextlib
import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hsr_nb.base.streams import stream
from hsr_nb.interop import load_checkpoint
from hsr_nb.training import gpu, loop, override, preset, train
from hsr_nb.training.loop import Step, train_step
from hsr_nb.training.parallel import Processes, Stats
from hsr_nb.training.state import build_state, flatten

SMALL = {
    "batch": 4,
    "net.channel_max": 8,
    "net.z_dim": 8,
    "net.w_dim": 8,
    "net.use_noise": True,
    "hsr.head_hidden": 8,
    "hsr.start_kimg": 0.0,
    "hsr.interval": 2,
    "loss.pl_interval": 2,
    "loss.r1_interval": 2,
    "device": "cpu",
}


def build(device="cpu", label_dim=0, size=32, **changes):
    cfg = override(preset("tiny32"), **SMALL | changes)
    return cfg, build_state(cfg, (3, size, size), label_dim, torch.device(device))


def one(cfg, s, real, stats=None):
    c = s.G.c_dim

    def labels(i):
        return torch.eye(max(c, 1))[torch.as_tensor(i) % max(c, 1)][:, :c]

    real_labels = labels(range(cfg.batch)).to(real.device, non_blocking=True)
    step = Step(cfg, s, Processes(), labels, 100, real, real_labels, stats or Stats())
    train_step(step, cfg.opt.ema_rampup)


def images(i):
    return torch.rand(4, 3, 16, 16, generator=stream(0, "real", i)) * 2 - 1


# ---- nothing waits


class Asked(AssertionError):
    pass


class NoWaiting(TorchDispatchMode):
    "Copies from the CPU must not block; reading a value of a meta tensor is an error by itself."

    copies = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op is torch.ops.aten._to_copy.default:
            source = args[0]
            target = torch.device(kwargs.get("device") or source.device)
            self.look(source, target, kwargs.get("non_blocking"))
        elif op is torch.ops.aten.copy_.default:
            self.look(args[1], args[0].device, kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return op(*args, **kwargs)

    def look(self, source, target, non_blocking):
        if source.device.type == "cpu" and target.type == "meta":
            self.copies += 1
            if not non_blocking:
                raise Asked(f"a blocking copy of {list(source.shape)} to the device")


@contextlib.contextmanager
def no_waiting(monkeypatch):
    """Tensors without values stand for the GPU's.

    New ones made of Python numbers on the device would be blocking copies too."""

    def refuse(make):
        def made(data, *args, device=None, **kwargs):
            if device is not None and torch.device(device).type == "meta" and not isinstance(data, torch.Tensor):
                raise Asked(f"a tensor made of {data} on the device")
            return make(data, *args, device=device, **kwargs)

        return made

    with monkeypatch.context() as m, NoWaiting() as watched:
        for name in ("tensor", "as_tensor"):
            m.setattr(torch, name, refuse(getattr(torch, name)))
        yield watched


def on_meta(**changes):
    label_dim = changes.pop("label_dim", 0)
    cfg, s = build("meta", label_dim, **changes)
    s.hsr.fitted = True  # fitted and measured once, before the first step
    for scale in s.hsr.scales.values():
        scale.measured = True
    s.opt_G.step = s.opt_D.step = lambda: None  # fused Adam, PyTorch's own, does not know the device meta
    return cfg, s


IMPROVED = {"hsr.target_norm": "standardised", "hsr.head_init": "prefit", "hsr.linearity": 0.5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_dim": 3, "data.labels": True},
        {"batch_gpu": 2, "net.mbstd_group": 2},
        IMPROVED,
        {"hsr.grad": "features_and_image", "hsr.loss": "cosine"},
        {"augment.kind": "ada", "augment.groups": "bgcfnc", "augment.interval": 1},
        {"augment.kind": "ada", "batch_gpu": 2, "net.mbstd_group": 2},
        {"augment.kind": "diffaugment"},
    ],
    ids=lambda c: " ".join(c) or "plain",
)
def test_a_step_asks_the_device_for_nothing(changes, monkeypatch):
    cfg, s = on_meta(**changes)
    stats = Stats()
    with no_waiting(monkeypatch) as watched:
        for _ in range(3):
            one(cfg, s, torch.empty(4, 3, 32, 32, device="meta"), stats)
    assert s.count["step"] == 3 and watched.copies > 10 and {"r1", "pl/length", "loss/hsr32"} <= stats.sums.keys()
    with pytest.raises((RuntimeError, NotImplementedError)):
        stats.means(Processes())  # the tick does


ASKING = {
    "item": lambda t: t.item(),
    "branch": lambda t: t if t.mean() > 0 else -t,
    "to the CPU": lambda t: t.cpu(),
    "nonzero": lambda t: t.nonzero(),
    "boolean mask": lambda t: t[t > 0],
    "blocking copy": lambda t: torch.ones(2).to(t.device),
    "number to the device": lambda t: torch.tensor([1.0, 2.0], device=t.device),
}


@pytest.mark.parametrize("how", ASKING)
def test_a_step_that_asks_is_found(how, monkeypatch):
    says_real = loop.says_real

    def asking(logits):
        ASKING[how](logits)
        return says_real(logits)

    monkeypatch.setattr(loop, "says_real", asking)
    cfg, s = on_meta()
    with pytest.raises((RuntimeError, NotImplementedError, Asked)), no_waiting(monkeypatch):
        one(cfg, s, torch.empty(4, 3, 32, 32, device="meta"))


def test_flags_that_steer_a_step_stay_with_the_cpu():
    _, s = build(**IMPROVED)
    s.hsr.to("meta")
    state = s.hsr.state_dict()
    assert s.hsr.fitted is False and state["fitted"].device.type == "cpu"
    for tap, scale in s.hsr.scales.items():
        assert scale.mean.device.type == "meta"
        assert scale.measured is False and state[f"scales.{tap}.measured"].device.type == "cpu"
    assert not s.hsr.targets.measured


# ---- compiled


@pytest.fixture
def cheap(monkeypatch):
    "A compiler without its expensive last part, from a clean start."
    monkeypatch.setattr(gpu, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def differ(a, b):
    assert a.keys() == b.keys()
    gaps = {k: ((a[k].double() - b[k].double()).norm() / b[k].double().norm().clamp(min=1e-3)).item() for k in a}
    return max(gaps.items(), key=lambda kv: kv[1])


@pytest.mark.slow
def test_compiled_steps_equal_plain_ones_and_compile_once(cheap):
    (cfg, plain), (fast_cfg, fast) = build(size=16), build(size=16, compile="on")
    assert plain.fast_D is plain.D and fast.fast_D is not fast.D and flatten(plain).keys() == flatten(fast).keys()
    torch._dynamo.utils.counters.clear()
    seen = []
    for i in range(5):
        one(cfg, plain, images(i))
        assert i or not cheap()
        before = cheap()
        one(fast_cfg, fast, images(i))
        seen.append(cheap() - before)
    assert seen[0] > 3 and seen[2:] == [0, 0, 0]  # step 1 has no HSR, and that is another version of the generator
    assert not torch._dynamo.utils.counters["graph_break"]
    name, gap = differ(flatten(fast), flatten(plain))
    assert gap < 2e-4, (name, gap)


def test_penalties_call_the_plain_networks(cheap):
    cfg, s = build(size=16, compile="on")

    def refuse(*args, **kwargs):
        raise AssertionError("a compiled network cannot be differentiated twice")

    s.fast_G = s.fast_D = refuse
    torch._dynamo.utils.counters.clear()
    step = Step(cfg, s, Processes(), lambda i: torch.zeros(len(i), 0), 100, images(0), torch.zeros(4, 0), Stats())
    loop.run_phase(step, loop.g_path_length, "G", 2, step.latents("g_path_length", 2))
    loop.run_phase(step, loop.d_r1, "D", 2, None)
    assert not cheap()
    with pytest.raises(AssertionError, match="twice"):
        loop.run_phase(step, loop.d_main, "D", 1, step.latents("d_main"))


def test_several_runs_in_one_process_all_compile(cheap):
    "PyTorch gives up on a piece of code that it has compiled too often; runs of other sizes must not use that up."
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        pytest.skip("this PyTorch counts for all networks together")
    for width in range(1, 12):
        before = cheap()
        gpu.compiled(torch.nn.Linear(width, width), True)(torch.zeros(1, width))
        assert cheap() == before + 1, width


@pytest.mark.slow
def test_a_run_goes_on_compiled(cheap, tmp_path):
    small = SMALL | {
        "data.resolution": 16,
        "data.max_size": 16,
        "hsr.teacher": "none",
        "kimg": 0.016,
        "tick_kimg": 0.008,
        "snapshot_kimg": 1000,
    }
    cfg = override(preset("tiny32"), **small | {"run_dir": str(tmp_path / "plain")})
    train(override(cfg, kimg=0.032), progress=False)
    first = override(cfg, run_dir=str(tmp_path / "both"))
    train(first, progress=False)
    train(override(first, kimg=0.032, compile="on"), progress=False)
    (a, am), (b, bm) = (load_checkpoint(tmp_path / name) for name in ("both", "plain"))
    name, gap = differ(a, b)
    assert gap < 2e-4 and am["count"]["nimg"] == bm["count"]["nimg"] == 32, (name, gap)
    assert cheap()
    assert '"compiled": true' in (tmp_path / "both" / "provenance.json").read_text()
    assert '"compiled": false' in (tmp_path / "plain" / "provenance.json").read_text()


def test_compile_means_auto_on_or_off(tmp_path):
    with pytest.raises(ValueError, match="compile must be auto, on or off, not 'yes'"):
        train(override(preset("tiny32"), compile="yes", device="cpu", run_dir=str(tmp_path / "run")), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_teacher_read_by_hooks_stays_plain(cheap):
    class Teacher:
        class backbone:
            indices, compile = None, None

    gpu.compile_teacher(Teacher, True)
    Teacher.backbone.indices = [1]
    with pytest.raises(TypeError):
        gpu.compile_teacher(Teacher, True)


# ---- arithmetic


def arithmetic():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


def test_fast_arithmetic_ends_with_the_step():
    before = arithmetic()
    with gpu.fast_math(torch.device("cpu")):
        assert arithmetic() == before
    with pytest.raises(KeyError), gpu.fast_math(torch.device("cuda", 1)):
        assert arithmetic() == ("high", True, True)
        raise KeyError
    assert arithmetic() == before


def test_a_run_steps_under_fast_arithmetic(monkeypatch, tmp_path):
    "On a GPU: here the training loop is told that its processor is one."
    inside = []
    from hsr_nb.training import run

    monkeypatch.setattr(run, "fast_math", lambda device: gpu.fast_math(torch.device("cuda")))
    step = run.train_step
    monkeypatch.setattr(run, "train_step", lambda *a, **k: (inside.append(arithmetic()), step(*a, **k)))
    before = arithmetic()
    changes = {"data.path": "digits", "kimg": 0.008, "run_dir": str(tmp_path / "run")}
    train(override(preset("tiny32"), **SMALL | changes), progress=False)
    assert inside == [("high", True, True)] * 2 and arithmetic() == before
