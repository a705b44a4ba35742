"""StyleGAN1: the published network's answers, training that grows and resumes, files, editors, commands."""

import json
import math
from pathlib import Path

import pytest
import torch

from hsr_nb.nets import StyleGAN1Discriminator, StyleGAN1Generator
from hsr_nb.training.losses import r1_penalty

ORACLE = json.loads((Path(__file__).parent / "files/stylegan1.json").read_text())
CASES = {case["case"]: case for case in ORACLE["cases"]}


def formula(shape, phase, scale=1.0):
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return scale * torch.sin(0.37 * k + 0.011 * k**2 + phase).reshape(tuple(shape))


def close(found, want, rtol=1e-5):
    want = torch.tensor(want, dtype=torch.float64)
    assert torch.allclose(found.detach().double().reshape(want.shape), want, rtol=rtol, atol=1e-9), (found, want)


def oracle_generator(c_dim=0):
    G = StyleGAN1Generator(
        8,
        c_dim,
        8,
        16,
        mapping_kwargs=dict(num_layers=3, layer_features=10),
        synthesis_kwargs=dict(channel_base=64, channel_max=8, growing=True),
    ).double()
    state = G.state_dict()

    def put(name, phase, scale=1.0, plus=0.0):
        state[name] = plus + formula(state[name].shape, phase, scale)

    for j in range(3):
        put(f"mapping.fc{j}.weight", 1 + j, 100)
        put(f"mapping.fc{j}.bias", 2 + j, 20)
    put("mapping.w_avg", 0.25, 0.1)
    if c_dim:
        put("mapping.label", 0.5)
    put("synthesis.b4.const", 5, 0.5, plus=1)
    for i, r in enumerate((4, 8, 16)):
        put(f"synthesis.b{r}.torgb.weight", 0.7 * i + 7)
        put(f"synthesis.b{r}.torgb.bias", 0.8 * i + 8, 0.3)
        for k in (0, 1):
            layer, at = f"synthesis.b{r}.conv{k}", 2 * i + k
            put(f"{layer}.affine.weight", 0.1 * at)
            put(f"{layer}.affine.bias", 0.2 * at + 1, 0.3)
            put(f"{layer}.noise_strength", 0.3 * at + 2, 0.2)
            put(f"{layer}.noise_const", 0.4 * at + 3)
            put(f"{layer}.bias", 0.5 * at + 4, 0.3)
            if at:
                put(f"{layer}.weight", 0.6 * at + 6)
    G.load_state_dict(state)
    return G.eval()


def oracle_discriminator(c_dim=0):
    how = dict(channel_base=64, channel_max=8, growing=True, epilogue_kwargs=dict(mbstd_group_size=2))
    D = StyleGAN1Discriminator(c_dim, 16, **how).double()
    state = D.state_dict()
    layers = ["b16.conv0", "b16.conv1", "b8.conv0", "b8.conv1", "b4.conv", "b4.fc", "b4.out"]
    for i, r in enumerate((16, 8, 4)):
        state[f"b{r}.fromrgb.weight"] = formula(state[f"b{r}.fromrgb.weight"].shape, 0.9 * i + 1)
        state[f"b{r}.fromrgb.bias"] = formula(state[f"b{r}.fromrgb.bias"].shape, 0.9 * i + 2, 0.3)
    for n, layer in enumerate(layers):
        state[f"{layer}.weight"] = formula(state[f"{layer}.weight"].shape, 0.6 * n + 1)
        state[f"{layer}.bias"] = formula(state[f"{layer}.bias"].shape, 0.6 * n + 2, 0.3)
    D.load_state_dict(state)
    return D


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_the_generator_answers_as_the_published_one(name, impl):
    case = CASES[name]
    labels = torch.eye(3, dtype=torch.float64)[[0, 2]] if name == "label" else None
    G = oracle_generator(3 if name == "label" else 0)
    G.synthesis.grow(case["lod"])
    w = G.mapping(formula((2, 8), 0.7, 1.5), labels)
    close(w[:, 0], case["w"])
    one = w[:, 0].detach().requires_grad_()
    img = G.synthesis(one[:, None].repeat(1, 6, 1), noise_mode="const", impl=impl)
    close(img.mean(), case["image_mean"])
    close(img.std(correction=0), case["image_std"])
    close(img[:, :, 5, 6], case["at_5_6"])
    corners = [img[0, 0, 0, 0], img[0, 1, 0, 15], img[1, 2, 15, 0], img[1, 0, 15, 15]]
    close(torch.stack(corners), case["corners"])
    (g,) = torch.autograd.grad((img * formula(img.shape, 0.3)).sum(), one)
    close(g, case["gradient_w"])
    if "truncated_psi_0_7_cutoff_2_at_5_6" in case:
        ws = G.mapping(formula((2, 8), 0.7, 1.5), labels, truncation_psi=0.7, truncation_cutoff=2)
        img = G.synthesis(ws, noise_mode="const", impl=impl)
        close(img[:, :, 5, 6], case["truncated_psi_0_7_cutoff_2_at_5_6"])


@pytest.mark.parametrize("name", CASES)
def test_the_discriminator_answers_as_the_published_one(name):
    case = CASES[name]
    conditional = name == "label"
    D = oracle_discriminator(3 if conditional else 0)
    D.grow(case["lod"])
    labels = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]] if conditional else None
    real = formula((4, 3, 16, 16), 1.1)
    penalty, logits = r1_penalty(D, real, labels, lambda x: x)
    close(logits, case["logits"])
    close(penalty, case["r1_per_image"])
