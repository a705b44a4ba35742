"StyleFlow's equation and norms against numbers of the published code, and what an editor made of them must keep."

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr_nb.editing.flow import ConditionalFlow

ORACLE = json.loads((Path(__file__).parent / "files/styleflow_oracle.json").read_text())


def published_name(name: str) -> str:
    "The name that the published code gives a tensor of ours."
    words = {
        "before": "chain.0",
        "dynamics": "chain.1.odefunc.diffeq",
        "root_time": "chain.1.sqrt_end_time",
        "after": "chain.2",
        "layer": "_layer",
        "gate": "_hyper_gate",
        "shift": "_hyper_bias",
        "log_scale": "weight",
        "mean": "running_mean",
        "variance": "running_var",
    }
    return ".".join(words.get(part, part) for part in name.split("."))


@pytest.fixture
def flow():
    "The small flow of the oracle, filled by its rule."
    flow = ConditionalFlow(4, 3, hidden=6, depth=2, tolerance=1e-9).double().eval()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            theirs = published_name(name)
            assert list(parameter.shape) == ORACLE["parameters"][theirs], theirs
            random = np.random.RandomState(zlib.crc32(theirs.encode()))
            parameter.copy_(torch.tensor(0.5 * random.standard_normal(parameter.shape)))
        flow.root_time.fill_(1.1)
        for norm in (flow.before, flow.after):
            norm.mean.copy_(torch.linspace(-0.2, 0.3, 4))
            norm.variance.copy_(torch.linspace(0.8, 1.4, 4))
    return flow


def grid(b: float, layer: float, k: float) -> torch.Tensor:
    "Numbers that follow a wave, [2, 3, 4]."
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (2, 3, 4)), indexing="ij")
    return b * axes[0] + layer * axes[1] + k * axes[2]


X = grid(1.3, 0.8, 0.6).sin()
PROBE = grid(1.1, 0.7, 1.9).cos()
CONDITION = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)[:, None]
NEW_CONDITION = torch.tensor([[0.3, 1.0, 0.5], [-0.2, 0.1, 0.4]], dtype=torch.float64)[:, None]


def expected(name: str) -> torch.Tensor:
    return torch.tensor(ORACLE[name], dtype=torch.float64)


def test_the_field_is_the_published_one(flow):
    x = X.clone().requires_grad_()
    velocity = flow.dynamics(torch.tensor(0.3, dtype=torch.float64), x, CONDITION)
    (pulled,) = torch.autograd.grad(velocity, x, PROBE)
    told = ORACLE["dynamics_at_t_0_3"]
    torch.testing.assert_close(velocity.detach(), torch.tensor(told["dx"]).double(), atol=1e-7, rtol=1e-7)
    divergence = -(pulled * PROBE).sum(-1, keepdim=True)
    torch.testing.assert_close(divergence, torch.tensor(told["minus_divergence"]).double(), atol=1e-7, rtol=1e-6)


def test_the_way_there_and_back_is_the_published_one(flow, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", lambda x: PROBE)
    with torch.no_grad():
        z, log_det = flow.with_log_det(X, CONDITION)
        assert torch.equal(z, flow(X, CONDITION)) or torch.allclose(z, flow(X, CONDITION), atol=1e-7)
        torch.testing.assert_close(z, expected("z"), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(-log_det[..., None], expected("delta_logp"), atol=1e-6, rtol=1e-6)
        assert (flow.inverse(z, CONDITION) - X).abs().max() < 1e-6
        torch.testing.assert_close(flow.inverse(z, NEW_CONDITION), expected("edited"), atol=1e-6, rtol=1e-6)
        summed = flow.log_prob(X, CONDITION).sum(1, keepdim=True)
    right = expected("log_likelihood_of_a_normalised_gaussian")
    torch.testing.assert_close(summed, right, atol=1e-5, rtol=1e-6)
    per_element = (3 * 4 - 3) * 0.5 * 4 * math.log(2 * math.pi)
    torch.testing.assert_close(right - expected("log_likelihood_as_trained"), torch.full((2, 1), per_element).double())


def test_a_norm_follows_behind(flow):
    flow.before.train()
    quiet = flow.eval().before(X)
    flow.before.train()
    assert torch.equal(flow.before(X), quiet)
    told = expected_norm = ORACLE["batch_norm_after_one_training_pass"]
    torch.testing.assert_close(flow.before.mean, torch.tensor(told["chain.0.running_mean"]).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(
        flow.before.variance, torch.tensor(expected_norm["chain.0.running_var"]).double(), atol=1e-6, rtol=0
    )
