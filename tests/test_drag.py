"Dragging where the truth is known: a generator that draws two blobs where its latent says."

import pytest
import torch
from torch import nn

from hsr_nb.interop import load_generator
from hsr_nb.inversion.dragging import Dragging, drag, motion_loss, sampled, tracked

SIDE = 32


def places(ws):
    "Where the blobs are, [n, 2, 2]."
    return 10 + 10 * ws[:, 0].reshape(-1, 2, 2)


class Blobs(nn.Module):
    "Latents [n, 4, 4] hold the places of two blobs, in units of ten pixels from (10, 10); the first layer counts."

    def forward(self, ws, noise_mode="const", taps=()):
        line = torch.arange(float(SIDE))
        y, x = torch.meshgrid(line, line, indexing="ij")
        maps = []
        for blob in places(ws).unbind(1):
            left, top = blob[:, :, None, None].unbind(1)
            off = (x - left).square() + (y - top).square()
            maps.append((-off / 8).exp())
            maps.append((-off / 60).exp())
        features = torch.stack(maps, 1)
        picture = features[:, ::2].sum(1, keepdim=True).clamp(max=1) * 2 - 1
        return picture, {SIDE: features}


class Drawer(nn.Module):
    num_ws = 4
    w_dim = 4
    img_resolution = SIDE
    img_size = (SIDE, SIDE)
    tap_channels = {SIDE: 4}

    def __init__(self):
        super().__init__()
        self.synthesis = Blobs()


def apart(ws, *wanted):
    "How far the blobs are from where they are wanted, in pixels."
    (found,) = places(ws)
    return (found - torch.tensor(wanted)).norm(dim=1)


START = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 4, 4)  # blobs at (10, 10) and (20, 20)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_blob_goes_where_it_is_dragged(space):
    asked = Dragging(space)
    made = list(drag(Drawer(), START, [[10, 10]], [[16, 10]], steps=300, asked=asked))
    ws, handles, picture = made[-1]
    assert len(made) < 300
    assert (handles[0] - torch.tensor([16.0, 10.0])).norm() <= 1
    assert apart(ws, [16.0, 10.0], [20.0, 20.0])[0] < 2
    assert picture.shape == (1, 1, SIDE, SIDE)
    assert torch.equal(ws[:, 3:], START[:, 3:])
    way = ws[0, :2] - START[0, :2]
    assert torch.allclose(way[0], way[1]) == (space == "w")


def test_two_blobs_at_once():
    *_, (ws, _, _) = drag(Drawer(), START, [[10, 10], [20, 20]], [[10, 15], [25, 20]], steps=300)
    assert apart(ws, [10.0, 15.0], [25.0, 20.0]).max() < 2


def test_what_the_mask_holds_stays():
    free = torch.zeros(SIDE, SIDE)
    free[:15, :] = 1
    wish = ([[10, 10], [20, 20]], [[16, 10], [26, 20]])
    moved = {}
    for name, mask in (("held", free), ("free", None)):
        *_, (ws, _, _) = drag(Drawer(), START, *wish, mask=mask, steps=60)
        moved[name] = apart(ws, [10.0, 10.0], [20.0, 20.0])[1]
    assert moved["held"] < moved["free"] / 2


def test_a_handle_is_found_by_what_it_looked_like():
    G = Drawer()
    _, before = G.synthesis(START, taps=(SIDE,))
    first = sampled(before[SIDE], torch.tensor([[10.0, 10.0]]), (SIDE, SIDE))
    _, after = G.synthesis(START + torch.tensor([0.2, -0.1, 0, 0]), taps=(SIDE,))
    near = torch.cartesian_prod(torch.arange(-3.0, 4), torch.arange(-3.0, 4))
    found = tracked(after[SIDE], first, torch.tensor([[10.0, 10.0]]), near, (SIDE, SIDE))
    assert torch.equal(found, torch.tensor([[12.0, 9.0]]))


def test_the_gradient_of_motion_points_to_the_target():
    ws = START.clone().requires_grad_()
    _, features = Drawer().synthesis(ws, taps=(SIDE,))
    patch = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))
    loss = motion_loss(features[SIDE], torch.tensor([[10.0, 10.0]]), torch.tensor([[20.0, 10.0]]), patch, (SIDE, SIDE))
    loss.backward()
    x, *others = ws.grad[0, 0]
    assert x < 0
    assert all(abs(other) < -x / 10 for other in others)


def test_a_target_that_is_reached_needs_no_step():
    assert list(drag(Drawer(), START, [[10, 10]], [[10.5, 10]])) == []


@pytest.mark.parametrize(
    "change, what",
    [
        (dict(handles=[[40, 3]]), r"handles lie within the picture of 32 x 32 pixels, not at \(40, 3\)"),
        (dict(targets=[[1, float("nan")]]), "targets are"),
        (dict(targets=[[1, 1], [2, 2]]), "every handle has a target: found 1 handles and 2 targets"),
        (dict(handles=[]), "handles are"),
        (dict(mask=torch.ones(16, 32)), r"the mask is \[32, 32\]"),
        (dict(ws=torch.zeros(2, 8, 128)), "one picture is dragged"),
        (dict(asked=Dragging(level=64)), "blocks 4, 8, 16, 32, not 64"),
        (dict(asked=Dragging(layers=9)), "1 to 8"),
        (dict(asked=Dragging("z")), r"moves in w or w\+, not in 'z'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, what):
    G = load_generator("synthfaces-hsr")
    asked = {"ws": torch.zeros(1, 8, 128), "handles": [[3, 3]], "targets": [[5, 3]]} | change
    with pytest.raises(ValueError, match=what):
        next(drag(G, **asked))
