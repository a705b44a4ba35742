"""Triton kernels against the definitions: values and both derivatives, every size, and which implementation runs when.

Nothing is read out of bounds. Without a GPU the kernels run under Triton's interpreter, which is switched on by an
environment variable before Triton is imported. So the functions named `check_...` run in a process of their own
(`python tests/test_kernels.py OUT.json`), and a test for each reports what became of it. What is slow is split into
parts, each a process and a test of its own."""

import functools
import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import torch

from hsr_nb.ops import bias_act, setup_filter, upfirdn2d
from hsr_nb.ops.activation import ACTIVATIONS

NAN = float("nan")
SHORT = setup_filter([1, 3, 3, 1])
LONG = setup_filter([0.02, -0.03, -0.1, 0.05, 0.5, 0.8, 0.3, -0.13, -0.02, 0.04, 0.004, -0.008])  # as sym6: asymmetric
LOPSIDED = setup_filter([[1, 2, 0], [3, 4, 1]])
FORMATS = torch.contiguous_format, torch.channels_last


def in_nan(x, layout=torch.contiguous_format, margin=3):
    "The same values as a window of a larger tensor full of NaN: whatever is read outside shows."
    big = torch.full([n + 2 * margin for n in x.shape], NAN, dtype=x.dtype, device=x.device)
    if x.ndim == 4:
        big = big.to(memory_format=layout)
    view = big[tuple(slice(margin, margin + n) for n in x.shape)]
    view.copy_(x)
    return view


def in_nan_flat(x):
    "The same values and strides, with NaN before and after them in memory."
    flat = torch.full((x.numel() + 128,), NAN, dtype=x.dtype, device=x.device)
    view = flat.as_strided(x.shape, x.stride(), 64)
    return view.copy_(x)


def derivatives(run, inputs, dy):
    "The value, the gradients, and the gradients of the summed squares of the gradients, as R1 needs them."
    inputs, dy = [t.detach().requires_grad_() for t in inputs], dy.detach().requires_grad_()
    y = run(*inputs)
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [*inputs, dy], allow_unused=True)
    return [y, *first, *[torch.zeros_like(t) if g is None else g for g, t in zip(second, [*inputs, dy])]]


def same(ours, want, tolerance):
    "Largest difference relative to the largest value."
    for i, (a, b) in enumerate(zip(ours, want, strict=True)):
        assert a.shape == b.shape, (i, a.shape, b.shape)
        error = (a.double() - b.double()).abs().max() if a.numel() else torch.zeros(())
        assert error <= tolerance * max(1, b.abs().max().item() if b.numel() else 0), (
            f"output {i} differs by {error:.2e}"
        )


def compare_bias_act(
    shape,
    dtype=torch.float32,
    device="cpu",
    dim=1,
    layout=None,
    bias=True,
    tolerance=2e-5,
    reference_dtype=torch.float64,
    **kw,
):
    x = torch.randn(shape, device=device).to(dtype)
    dy = torch.randn(shape, device=device).to(dtype)
    b = torch.randn(shape[dim], device=device).to(dtype)
    if layout:
        x, dy = (in_nan_flat(t.to(memory_format=layout)) for t in (x, dy))
    else:
        x, dy = in_nan_flat(x), in_nan_flat(dy)
    b = in_nan(b)
    ins = [x, b] if bias else [x]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = derivatives(lambda x, b=None: bias_act(x, b, dim, impl="triton", **kw), ins, dy)
    want = derivatives(
        lambda x, b=None: bias_act(x, b, dim, impl="reference", **kw),
        [t.to(reference_dtype) for t in ins],
        dy.to(reference_dtype),
    )
    assert ours[0].dtype == dtype and (layout is None or ours[0].is_contiguous(memory_format=layout))
    same(ours, want, tolerance)


def compare_upfirdn(
    shape,
    f,
    up=1,
    down=1,
    padding=0,
    flip=False,
    gain=1.0,
    dtype=torch.float32,
    device="cpu",
    layout=torch.contiguous_format,
    tolerance=1e-5,
    view=True,
):
    x = torch.randn(shape, device=device).to(dtype, memory_format=layout)
    if view:
        x = in_nan(x, layout)
    f = in_nan(f.to(device))

    def run(x, impl):
        return upfirdn2d(x, f, up, down, padding, flip, gain, impl)

    def want_of(x):
        return run(x, "reference") if x.numel() else run(x, "torch")

    dy = torch.randn_like(want_of(x.double())).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = derivatives(lambda x: run(x, "triton").square(), [x], dy)
    # in float64, which no GPU shortens to TF32
    want = derivatives(lambda x: want_of(x).square(), [x.double()], dy.double())
    assert ours[0].dtype == dtype
    same(ours, want, tolerance)


def plain_epilogue(x, d, noise, b, alpha=0.2, gain=2**0.5, clamp=None):
    "The definition, one operation after the other."
    u = x if d is None else x * d[:, :, None, None]
    if noise is not None:
        u = u + noise
    if b is not None:
        u = u + b[:, None, None]
    y = torch.where(u > 0, u, alpha * u) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def epilogue_inputs(shape, dtype, device, layout, noise):
    "x, dy, d, noise, b, everything framed by NaN; the small ones in float32 where the image is in half precision."
    n, c, h, w = shape
    noise_shape = {"random": (n, 1, h, w), "one": (1, 1, h, w), "const": (h, w)}[noise]
    small_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = []
    for image_shape in (shape, shape):
        image = torch.randn(image_shape, device=device).to(dtype)
        inputs.append(in_nan_flat(image.to(memory_format=layout)))
    for small_shape in ((n, c), noise_shape, (c,)):
        inputs.append(in_nan_flat(torch.randn(small_shape, device=device).to(small_dtype)))
    return inputs


def compare_epilogue(
    shape,
    dtype=torch.float32,
    device="cpu",
    layout=torch.contiguous_format,
    use="dnb",
    noise="random",
    tolerance=2e-5,
    **kw,
):
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    x, dy, *small = epilogue_inputs(shape, dtype, device, layout, noise)
    ins = [x, *[t for t, name in zip(small, "dnb") if name in use]]

    def run(op):
        def step(x, *rest):
            rest = iter(rest)
            return op(x, *[next(rest) if name in use else None for name in "dnb"], **kw)

        return step

    ours = derivatives(run(epilogue_triton), ins, dy)
    want = derivatives(run(plain_epilogue), [t.double() for t in ins], dy.double())
    assert ours[0].dtype == dtype and (ours[0].is_contiguous(memory_format=layout) or not x.numel())
    same(ours, want, tolerance)


# ---- run under the interpreter


def check_bias_act_every_activation():
    for i, act in enumerate(ACTIVATIONS):
        for clamp in (None, 0.8):
            compare_bias_act((2, 3, 5, 3), torch.float64, act=act, clamp=clamp, tolerance=1e-6)
        compare_bias_act((3, 4, 2, 7), act=act, clamp=0.8, gain=0.7, layout=FORMATS[i % 2])


def check_bias_act_shapes_axes_and_layouts():
    for shape, dim in (
        ((7,), 0),
        ((5, 3), 1),
        ((4, 6), 0),
        ((2, 3, 5), 2),
        ((1, 1, 1, 1), 1),
        ((2, 1, 3, 3), 1),
        ((3, 2, 4, 5), -1),
        ((1, 1500), 1),
        ((2, 2, 33, 32), 1),
    ):
        compare_bias_act(shape, dim=dim, act="lrelu", clamp=1.0)
    for layout in FORMATS:
        compare_bias_act((2, 5, 3, 7), layout=layout, act="swish")
    compare_bias_act((2, 3, 4), act="linear", bias=False)
    compare_bias_act((2, 3, 4), act="linear", clamp=0.5)
    compare_bias_act((2, 3, 4), act="softplus", bias=False, clamp=0.9)
    wide = torch.randn(2, 3, 8, 8)
    for x in (wide[:, :, ::2, 1:6], wide.transpose(1, 3), wide[:1, :, :1].expand(2, 3, 8, 8)):
        b = torch.randn(x.shape[1])
        same([bias_act(x, b, act="lrelu", impl="triton")], [bias_act(x, b, act="lrelu", impl="reference")], 1e-6)


def check_bias_act_half_precision():
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        for act in ("lrelu", "swish", "tanh"):
            compare_bias_act((2, 3, 4, 4), dtype, act=act, clamp=256, tolerance=tolerance)
    # 256 * sqrt(1/2) is 181.02, in float16 181.0: the clamped value must not count as unclamped
    x = torch.tensor([181.5, 3.0, -900.0]).half().requires_grad_()
    y = bias_act(x, act="linear", dim=0, clamp=256 * 0.5**0.5, impl="triton")
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [181.0, 3.0, -181.0]
    assert dx.tolist() == [0.0, 1.0, 0.0]


def check_bias_act_keeps_nan_and_infinity():
    x = torch.tensor([NAN, float("inf"), -float("inf"), 1.0])
    for act in ACTIVATIONS:
        a, b = (bias_act(x, act=act, dim=0, clamp=2.0, impl=i) for i in ("triton", "reference"))
        assert torch.equal(a.isnan(), b.isnan()) and torch.allclose(a, b, equal_nan=True), act


def check_bias_act_saves_only_the_output():
    def saved(act):
        kept, x, b = [], torch.randn(2, 3, 4, requires_grad=True), torch.randn(3, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            y = bias_act(x, b, act=act, impl="triton")
        names = {y.data_ptr(): "y", x.data_ptr(): "x", b.data_ptr(): "b"}
        return [names[t.data_ptr()] for t in kept]

    for act in ACTIVATIONS:
        want = {"linear": [], "swish": ["x", "b"]}.get(act, ["y"])
        assert saved(act) == want, act


def check_empty_batches():
    for layout in FORMATS:
        compare_bias_act((0, 3, 4, 4), act="lrelu")
        compare_upfirdn((0, 3, 4, 4), SHORT, 2, 1, (2, 1), layout=layout, view=False)


def check_upfirdn_as_the_networks_use_it():
    for layout in FORMATS:
        for up, down, padding in ((2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1)), (1, 1, (2, 1, 2, 1)), (1, 1, (1, 2))):
            compare_upfirdn((2, 3, 5, 6), SHORT, up, down, padding, gain=up**2, layout=layout)
    compare_upfirdn((1, 3, 6, 5), LONG, 2, 1, (6, 5, 6, 5), gain=4, layout=FORMATS[1])
    compare_upfirdn((1, 3, 14, 13), LONG, 1, 2, (5, 5, 5, 5), flip=True)


def check_upfirdn_filters_paddings_and_factors():
    for up, down, padding, flip in (
        (2, 2, (3, 1, 2, 0), True),
        (3, 1, (-1, 4, 2, -2), False),
        (1, 3, (5, 2, -1, 3), False),
        (3, 2, (0, 0, 7, 7), True),
        (2, 1, (-3, 2, 1, -2), False),
    ):
        for f in (LOPSIDED, setup_filter([1.0, 2, 4], separable=True)):
            compare_upfirdn((1, 2, 6, 7), f, up, down, padding, flip, 1.7)
    compare_upfirdn((1, 2, 4, 5), torch.ones(1, 1), 2, 1, 0)
    compare_upfirdn((1, 1, 3, 3), LONG, 1, 1, 6, gain=-2.0)
    x, k = torch.arange(1.0, 10).reshape(1, 1, 3, 3), torch.tensor([[1.0, 2], [3, 4]])
    for flip, want in (
        (False, [[1, 4, 7], [7, 23, 33], [19, 53, 63]]),
        (True, [[4, 11, 18], [18, 37, 47], [36, 67, 77]]),
    ):
        assert upfirdn2d(x, k, padding=(1, 0, 1, 0), flip_filter=flip, impl="triton")[0, 0].tolist() == want


def check_upfirdn_half_and_double():
    for layout in FORMATS:
        for dtype, tolerance in ((torch.float16, 6e-3), (torch.bfloat16, 5e-2), (torch.float64, 1e-6)):
            compare_upfirdn((1, 5, 4, 6), SHORT, 2, 1, (2, 1), gain=4, dtype=dtype, layout=layout, tolerance=tolerance)
    x = torch.full((1, 1, 8, 8), 3e4).half()  # sums past 65504 on the way, in range at the end
    assert upfirdn2d(x, torch.ones(4, 4), padding=0, gain=1 / 16, impl="triton").eq(3e4).all()


def check_upfirdn_layout_of_the_output():
    for layout in FORMATS:
        x = torch.randn(2, 3, 4, 4).to(memory_format=layout)
        y = upfirdn2d(x, SHORT, 2, padding=2, impl="triton")
        assert y.is_contiguous(memory_format=layout)


def sizes(pairs, dtype=torch.float32):
    "Up, down, blur and bias_act of images h x w, the two dimensions in unlike places."
    for h, w in pairs:
        layout = FORMATS[(h + w) % 2]
        shape = (1, 1 + (h + 2 * w) % 3, h, w)
        for up, down, padding in ((2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1)), (1, 1, (2, 1, 2, 1))):
            padding = [p + 2 for p in padding] if min(h, w) < 4 and up == 1 else padding
            x = in_nan(torch.randn(shape), layout).requires_grad_()
            y, z = (upfirdn2d(x, SHORT, up, down, padding, impl=i) for i in ("triton", "reference"))
            dy = in_nan(torch.randn(y.shape), layout)
            same([y, *torch.autograd.grad(y, x, dy)], [z, *torch.autograd.grad(z, x, dy)], 1e-5)
        flat = in_nan_flat(torch.randn(shape).to(memory_format=layout))
        ours = bias_act(flat, torch.ones(shape[1]), act="lrelu", impl="triton")
        want = bias_act(flat, torch.ones(shape[1]), act="lrelu", impl="reference")
        same([ours], [want], 1e-6)


def check_some_sizes():
    sizes([(1, 1), (2, 1), (3, 5), (4, 4), (9, 8), (1, 17), (33, 2), (5, 65)])


def sizes_of_twelve_taps(pairs):
    for h, w in pairs:
        for up, down in ((2, 1), (1, 2), (1, 1)):
            x = in_nan(torch.randn(1, 1, h, w))
            ours = upfirdn2d(x, LONG, up, down, 6, impl="triton")
            want = upfirdn2d(x, LONG, up, down, 6, impl="reference")
            same([ours], [want], 1e-5)


def check_gradgradcheck():
    x, b = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((1, 2, 3, 2), (2,)))
    for act in ("lrelu", "swish", "tanh", "softplus"):

        def run(x, b):
            return bias_act(x, b, act=act, clamp=1.1, impl="triton")

        assert torch.autograd.gradcheck(run, (x, b), fast_mode=True)
        assert torch.autograd.gradgradcheck(run, (x, b), fast_mode=True)

    def run(x):
        return upfirdn2d(x, LOPSIDED.double(), 2, 1, (1, 2, 0, 1), impl="triton") ** 2

    assert torch.autograd.gradcheck(run, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x,), fast_mode=True)


def check_registration():
    "opcheck: schema, autograd, fake kernels (shapes and strides), tracing."
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    b = torch.randn(3, requires_grad=True)
    bias_act(x, b, impl="triton"), upfirdn2d(x, SHORT, impl="triton")  # registers
    ops = torch.ops.hsr_nb
    rest = 1, "swish", 0.0, 1.0, 0.5
    fixed = x.detach()
    torch.library.opcheck(ops.bias_act.default, (x, b, *rest))
    dy = fixed[:, :, :2, ::2].requires_grad_()
    torch.library.opcheck(ops.bias_act_grad.default, (dy, fixed[:, :, 1:3, ::2], b, *rest))
    torch.library.opcheck(ops.bias_act_grad2.default, (fixed, fixed, fixed, b.detach(), *rest))
    torch.library.opcheck(ops.upfirdn2d.default, (x, SHORT, [1, 2], [2, 1], [2, 1, 3, 0], True, 1.0))


def check_compiles_whole():
    def step(x, b):
        bent = bias_act(x, b, act="lrelu", clamp=1.0, impl="triton")
        enlarged = upfirdn2d(bent, SHORT, 2, padding=(2, 1, 2, 1), impl="triton")
        return enlarged.square().sum()

    ins = [torch.randn(1, 2, 3, 4, requires_grad=True), torch.randn(2, requires_grad=True)]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    same(torch.autograd.grad(compiled(*ins), ins), torch.autograd.grad(step(*ins), ins), 1e-6)


def check_networks_step():
    "Gradients of a small discriminator's R1 penalty and of a small generator's path lengths: every layer twice."
    from hsr_nb.nets import Discriminator, Generator

    torch.manual_seed(1)
    size = dict(channel_base=64, channel_max=8)
    D = Discriminator(0, 8, **size)
    img = torch.randn(4, 3, 8, 8)

    def r1(impl):
        x = img.clone().requires_grad_()
        (g,) = torch.autograd.grad(D(x, impl=impl).sum(), x, create_graph=True)
        weights = [p for n, p in D.named_parameters() if n.endswith("weight")]
        return torch.autograd.grad(g.square().sum(), weights, allow_unused=True)

    G = Generator(8, 0, 8, 8, 3, dict(num_layers=1), size)
    ws = G.mapping(torch.randn(2, 8)).detach()

    def path_length(impl):
        w = ws.clone().requires_grad_()
        drawn = G.synthesis(w, noise_mode="const", impl=impl)
        (g,) = torch.autograd.grad((drawn * img[:2]).sum(), w, create_graph=True)
        weights = [p for n, p in G.synthesis.named_parameters() if n.endswith("weight")]
        return torch.autograd.grad(g.square().sum().sqrt(), weights, allow_unused=True)

    for step in (r1, path_length):
        ours, want = ([g for g in step(i) if g is not None] for i in ("triton", "reference"))
        assert len(ours) > 3
        same(ours, want, 1e-4)


def assert_one_sentence(text, expected, found):
    assert "expected" in text and expected in text and found in text
    assert "\n" not in text


def check_refusals():
    from hsr_nb.ops.kernels.bias_act_kernel import bias_act_triton
    from hsr_nb.ops.kernels.upfirdn2d_kernel import upfirdn2d_triton

    x = torch.zeros(1, 2, 4, 4)
    for call, expected, found in (
        (lambda: upfirdn2d_triton(x[0], SHORT), "[N, C, H, W]", "(2, 4, 4)"),
        (lambda: upfirdn2d_triton(x.int(), SHORT), "float16", "int32"),
        (lambda: upfirdn2d_triton(x, SHORT.half()), "float32", "float16"),
        (lambda: upfirdn2d_triton(x, SHORT[None]), "[h, w]", "(1, 4, 4)"),
        (lambda: upfirdn2d_triton(x.to_sparse(), SHORT), "strided", "sparse"),
        (lambda: upfirdn2d_triton(x, torch.ones(9, 9)), "64 taps", "81"),
        (lambda: bias_act_triton(x.long()), "float16", "int64"),
        (lambda: bias_act_triton(x, torch.zeros(2).double()), "float32", "float64"),
    ):
        with pytest.raises(ValueError) as e:
            call()
        assert_one_sentence(str(e.value), expected, found)


def check_unsupported_falls_back_once_and_says_so():
    x = torch.randn(1, 1, 12, 12)

    def wide_filter(x, impl):
        return upfirdn2d(x, torch.ones(9, 9), impl=impl)

    def negative_gain(x, impl):
        return bias_act(x, act="lrelu", gain=-1.0, impl=impl)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            filtered, bent = (
                [run(x, impl) for impl in ("triton", "reference")] for run in (wide_filter, negative_gain)
            )
            same(filtered[:1], filtered[1:], 1e-5)
            same(bent[:1], bent[1:], 1e-6)
    texts = [str(w.message) for w in said if w.category is RuntimeWarning]
    assert len(texts) == 2 and all("plain PyTorch" in t for t in texts)
    assert "filter (9, 9)" in texts[0] and "gain" in texts[1]


def check_epilogue_values_and_both_derivatives():
    "Each of the optional inputs there and not there, every kind of noise, both layouts."
    for i in range(8):
        use = "".join(name for k, name in enumerate("dnb") if i >> k & 1)
        for layout in FORMATS:
            clamp = (None, 1.1)[i % 2]
            noise = ("random", "const", "one")[i % 3]
            how = dict(layout=layout, use=use, clamp=clamp, noise=noise)
            compare_epilogue((2, 3, 4, 5), torch.float64, **how, tolerance=1e-6)
    for noise in ("random", "const", "one"):
        for layout in FORMATS:
            compare_epilogue((3, 4, 5, 2), layout=layout, noise=noise, alpha=0.1, gain=0.7, clamp=0.9)
    compare_epilogue((2, 3, 4, 4), alpha=0.0, gain=3.0)


def check_epilogue_half_precision():
    "Without values near the clamp, which rounding moves to its other side; then the clamp by itself."
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        for layout in FORMATS:
            compare_epilogue((2, 5, 4, 6), dtype, layout=layout, clamp=256.0, tolerance=tolerance)
    x = torch.tensor([181.5, 3.0, -900.0]).half().reshape(1, 1, 1, 3).requires_grad_()
    d, b = torch.ones(1, 1, requires_grad=True), torch.zeros(1).half().requires_grad_()
    # the clamp is 181.02, in float16 181.0: the clamped value must not count as unclamped
    y = epilogue_triton(x, d, None, b, alpha=1.0, gain=1.0, clamp=256 * 0.5**0.5)
    dx, dd, db = torch.autograd.grad(y.sum(), (x, d, b))
    assert y.flatten().tolist() == [181.0, 3.0, -181.0] and dx.flatten().tolist() == [0.0, 1.0, 0.0]
    assert dd.item() == 3 and db.item() == 1
    assert (dx.dtype, dd.dtype, db.dtype) == (torch.float16, torch.float32, torch.float16)
    x = torch.full((1, 1, 64, 64), 0.25).half()
    dy = torch.rand(1, 1, 64, 64).half()
    b = torch.zeros(1, requires_grad=True)
    (db,) = torch.autograd.grad(epilogue_triton(x, None, None, b, gain=1.0), b, dy)
    assert abs(db.item() / dy.double().sum().item() - 1) < 2e-6  # in float32 all the way, the parts as well


def check_epilogue_layouts_and_gaps():
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    wide, d, b = torch.randn(4, 6, 9, 8), torch.rand(4, 6), torch.randn(6)
    noise = torch.randn(4, 1, 9, 8)
    for cut in (
        (slice(1, 3), slice(None), slice(None, None, 2), slice(1, 6)),
        (slice(None, None, 2), slice(None), slice(2, 3), slice(None)),
        (slice(0, 1), slice(2, 3)),
    ):
        for layout in FORMATS:
            x = wide.to(memory_format=layout)[cut]
            ins = x, d[cut[:2]].T.contiguous().T, noise[cut[:1] + (slice(None),) + cut[2:]], b[cut[1]]
            dy = torch.randn(x.shape[0], 1, 1, 1).expand(x.shape)  # as the gradient of a sum arrives
            same(*(derivatives(op, ins, dy) for op in (epilogue_triton, plain_epilogue)), 1e-5)
    for layout in FORMATS:
        assert epilogue_triton(wide.to(memory_format=layout), None, None, None).is_contiguous(memory_format=layout)


def check_epilogue_walks_over_many_blocks():
    "Sums that several programs, each with several blocks, have to share; on a GPU that takes a large image."
    from unittest import mock

    from hsr_nb.ops.kernels import epilogue_kernel

    with mock.patch.multiple(epilogue_kernel, ENOUGH=1, FARTHEST=2):
        # 3 blocks of pixels, walks of 2, 2 and 1 of 5 blocks of channels
        compare_epilogue((2, 35, 17, 33), layout=FORMATS[0], clamp=1.0, tolerance=3e-5)
        # 4 blocks of pixels
        compare_epilogue((2, 3, 44, 39), layout=FORMATS[1], noise="const", clamp=1.0, tolerance=3e-5)
        # 2 blocks of channels, 3 of pixels
        compare_epilogue((1, 150, 9, 5), layout=FORMATS[1], tolerance=3e-5)


def check_epilogue_computes_and_keeps_only_what_is_needed():
    from unittest import mock

    from hsr_nb.ops.kernels import epilogue_kernel

    made, launch = [], epilogue_kernel._launch_gradient

    def spy(dy, y, x, d, needs, *rest):
        made.append((x is not None, "".join(n for n, need in zip("xdnb", needs) if need)))
        return launch(dy, y, x, d, needs, *rest)

    shapes = dict(x=(2, 3, 4, 4), d=(2, 3), n=(4, 4), b=(3,))
    with mock.patch.object(epilogue_kernel, "_launch_gradient", spy):
        for want in ("x", "d", "n", "b", "xb", "xdnb", "dn"):
            ins = {k: torch.rand(s, requires_grad=k in want) for k, s in shapes.items()}
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
                y = epilogue_kernel.epilogue_triton(*ins.values())
            y.sum().backward()
            assert made.pop() == ("d" in want, want) and not made
            assert all((v.grad is not None) == (k in want) for k, v in ins.items())
            assert (ins["x"].data_ptr() in kept) == ("d" in want)
            assert y.data_ptr() in kept and len(kept) == 2 + ("d" in want)


def check_epilogue_keeps_nan_and_infinity():
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    x = torch.tensor([NAN, float("inf"), -float("inf"), 1.0]).reshape(1, 4, 1, 1)
    for clamp in (None, 2.0):
        a, b = (op(x, torch.ones(1, 4), None, None, clamp=clamp) for op in (epilogue_triton, plain_epilogue))
        assert torch.equal(a.isnan(), b.isnan()) and torch.allclose(a, b, equal_nan=True)


def check_epilogue_empty():
    for shape in ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)):
        for layout in FORMATS:
            for noise in ("random", "const"):
                compare_epilogue(shape, layout=layout, noise=noise)


def epilogue_sizes(pairs):
    for h, w in pairs:
        shape = 1 + h % 2, 1 + (h + 2 * w) % 3, h, w
        noise = "const" if h % 3 == 0 else "random"
        compare_epilogue(shape, layout=FORMATS[(h + w) % 2], noise=noise, tolerance=5e-5)


def check_epilogue_some_sizes():
    epilogue_sizes([(1, 1), (2, 1), (3, 5), (4, 4), (9, 8), (1, 17), (33, 2), (5, 65)])


def check_epilogue_touches_only_its_arguments():
    "Every address, read or written, with or without an effect, looked up among the arguments of the launch."
    from unittest import mock

    from triton.runtime.interpreter import InterpreterBuilder

    from hsr_nb.ops.kernels import epilogue_forward_kernel, epilogue_kernel

    spans, touched = [], []

    class Watched:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*args, **kw):
                tensors = [t for t in args if isinstance(t, torch.Tensor)]
                spans[:] = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors]
                return self.kernel[grid](*args, **kw)

            return launch

    def watched(name, mask_at):
        plain = getattr(InterpreterBuilder, name)

        def access(self, ptrs, *rest):
            at = ptrs.data[rest[mask_at].data]
            size = ptrs.get_element_ty().primitive_bitwidth // 8
            touched.append(name)
            inside = not at.size or any(lo <= at.min() and at.max() + size <= hi for lo, hi in spans)
            assert inside, f"{name} outside of every argument"
            return plain(self, ptrs, *rest)

        return mock.patch.object(InterpreterBuilder, name, access)

    forward = Watched(epilogue_forward_kernel._epilogue_kernel)
    gradient = Watched(epilogue_kernel._gradient_kernel)
    with (
        mock.patch.object(epilogue_forward_kernel, "_epilogue_kernel", forward),
        mock.patch.multiple(epilogue_kernel, _gradient_kernel=gradient, ENOUGH=1, FARTHEST=2),
        watched("create_masked_load", 0),
        watched("create_masked_store", 1),
    ):
        epilogue_sizes([(1, 1), (1, 3), (3, 5), (4, 4), (7, 9), (17, 16), (33, 35)])
        for layout in FORMATS:
            compare_epilogue((2, 35, 9, 5), torch.float16, layout=layout, clamp=256.0, tolerance=2e-2)
    assert {"create_masked_load", "create_masked_store"} == {*touched}


def epilogue_channels(numbers):
    for c in numbers:
        if c < 66:
            compare_epilogue((2, c, 3, 1 + c % 4), layout=FORMATS[c % 2], clamp=1.2, tolerance=5e-5)
        else:
            compare_epilogue((1, c, 5, 3), layout=FORMATS[1], tolerance=5e-5)


def check_epilogue_gradgradcheck():
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    for layout in FORMATS:
        ins = [torch.randn(s, dtype=torch.double) for s in ((2, 2, 3, 2), (2, 2), (2, 1, 3, 2), (2,))]
        ins = [t.to(memory_format=layout).requires_grad_() if t.ndim == 4 else t.requires_grad_() for t in ins]

        def run(*i):
            return epilogue_triton(*i, clamp=1.1)

        assert torch.autograd.gradcheck(run, ins, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, ins, fast_mode=True)


def check_epilogue_registration():
    from hsr_nb.ops.kernels import epilogue_kernel  # noqa: F401 (registers)

    ops, rest = torch.ops.hsr_nb, (0.2, 1.4, 0.5)
    for layout in FORMATS:
        x, d = torch.randn(2, 3, 4, 4).to(memory_format=layout), torch.rand(2, 3)
        y, noise, b = torch.randn_like(x), torch.randn(2, 1, 4, 4), torch.randn(3)
        torch.library.opcheck(ops.epilogue.default, (*(t.clone().requires_grad_() for t in (x, d, noise, b)), *rest))
        cut = x[:, :, ::2, 1:].clone().requires_grad_()
        torch.library.opcheck(ops.epilogue.default, (cut, None, None, None, *rest))
        for needs in ([True] * 4, [False, True, False, False], [True, False, True, True]):
            dy, x_, d_ = (t.clone().requires_grad_() for t in (y, x, d))
            torch.library.opcheck(ops.epilogue_grad.default, (dy, y, x_, d_, needs, True, *rest))
        torch.library.opcheck(ops.epilogue_tangent.default, (x, d, noise, b, x, d, y, *rest))
        torch.library.opcheck(ops.epilogue_tangent.default, (None, None, None, b, x[:, :, ::2], d, y[:, :, ::2], *rest))


def check_epilogue_compiles_whole():
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    def step(*ins):
        return (epilogue_triton(*ins, clamp=1.0) * 2).square().sum()

    ins = [torch.randn(s, requires_grad=True) for s in ((1, 2, 3, 4), (1, 2), (3, 4), (2,))]
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    same(torch.autograd.grad(compiled(*ins), ins), torch.autograd.grad(step(*ins), ins), 1e-6)


def check_epilogue_refusals():
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    x = torch.zeros(2, 3, 4, 5)
    for change, expected, found in (
        (dict(x=x[0]), "[N, C, H, W]", "(3, 4, 5)"),
        (dict(x=x.int()), "float16", "int32"),
        (dict(x=x.to_sparse()), "strided", "sparse"),
        (dict(d=torch.ones(3)), "(2, 3)", "(3,)"),
        (dict(d=torch.ones(2, 3).half()), "float32", "float16"),
        (dict(noise=torch.ones(3, 1, 4, 5)), "(4, 5)", "(3, 1, 4, 5)"),
        (dict(noise=torch.ones(5, 4)), "(4, 5)", "(5, 4)"),
        (dict(b=torch.ones(1)), "(3,)", "(1,)"),
        (dict(b=torch.ones(3, device="meta")), "cpu", "meta"),
        (dict(x=torch.zeros(1, 2**20, 64, 64, device="meta")), "2^31", str(2**32)),
        (dict(gain=0.0), "above zero", "0.0"),
        (dict(alpha=-1.0), "at least zero", "-1.0"),
    ):
        with pytest.raises(ValueError) as e:
            epilogue_triton(**dict(x=x, d=None, noise=None, b=None) | change)
        assert_one_sentence(str(e.value), expected, found)


CHECKS = {name: f for name, f in list(globals().items()) if name.startswith("check_")}

# every height and every width from 1 to 65, the other dimension at an unlike place; every number of channels
SIDES = [(n, 1 + (n * 29) % 65) for n in range(1, 66)]
EVERY_SIZE = SIDES + [(w, h) for h, w in SIDES[::4]]
EVERY_NUMBER_OF_CHANNELS = [*range(1, 66), 127, 129, 200]
PARTS = 4
SLOW = {}
for part in range(PARTS):
    of = f"part {part + 1} of {PARTS}"
    SLOW[f"every size, {of}"] = functools.partial(sizes, EVERY_SIZE[part::PARTS])
    SLOW[f"every size of twelve taps, {of}"] = functools.partial(sizes_of_twelve_taps, SIDES[::2][part::PARTS])
    SLOW[f"epilogue of every size, {of}"] = functools.partial(epilogue_sizes, EVERY_SIZE[part::PARTS])
    SLOW[f"epilogue of every number of channels, {of}"] = functools.partial(
        epilogue_channels, EVERY_NUMBER_OF_CHANNELS[part::PARTS]
    )


def main(out, names):
    "Run checks here and write what became of each."
    outcome = {}
    for name in names:
        torch.manual_seed(0)
        try:
            (CHECKS | SLOW)[name]()
            outcome[name] = ""
        except Exception:
            outcome[name] = traceback.format_exc()
    Path(out).write_text(json.dumps(outcome))


@functools.cache
def interpreted(folder, names):
    "What became of checks, in a process of their own."
    out = folder / f"{names[0]}.json"
    environment = {
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    r = subprocess.run(
        [sys.executable, __file__, str(out), *names], env=os.environ | environment, capture_output=True, text=True
    )
    assert r.returncode == 0, r.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interpreted")


@pytest.mark.parametrize("name", CHECKS)
def test_under_the_interpreter(name, folder):
    pytest.importorskip("triton", reason="Triton is not installed")
    if text := interpreted(folder, tuple(CHECKS))[name]:
        pytest.fail(text, pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slowly_under_the_interpreter(name, folder):
    pytest.importorskip("triton", reason="Triton is not installed")
    if text := interpreted(folder, (name,))[name]:
        pytest.fail(text, pytrace=False)


# ---- choosing, in a process without the interpreter


def python(script, **env):
    env = (
        {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        | {"PYTHONPATH": str(Path(__file__).parents[1])}
        | env
    )
    r = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", script], env=env, capture_output=True, text=True
    )
    assert r.returncode == 0, r.stderr
    return r


FAKE_GPU = """
import torch
from unittest import mock
mock.patch.multiple(
    torch.cuda,
    is_available=lambda: True,
    device_count=lambda: 1,
    get_device_name=lambda i: "a GPU",
    get_device_capability=lambda d: {},
).start()
from hsr_nb.ops import backend_report
from hsr_nb.ops.backend import choose_impl
print(choose_impl("auto", "cuda:0"), choose_impl("auto", "cpu"), backend_report()["cuda:0 a GPU"])
"""


def test_auto_without_a_compiler_is_torch_and_says_so():
    out = python(FAKE_GPU.format((9, 0)), PATH="", CC="").stdout
    assert out.startswith("torch torch torch") and (
        "is no C compiler" in out or "there is none on the PATH" in out or "not installed" in out
    )


@pytest.fixture
def gpu_here(monkeypatch):
    "A machine on which everything is as Triton wants it, as far as looking goes."
    from hsr_nb.ops import backend

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name, value in dict(
        is_available=True, device_count=1, get_device_name="a GPU", get_device_capability=(9, 0)
    ).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, v=value: v)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(backend, "_compiler_fault", lambda: None)
    backend.triton_fault.cache_clear()
    yield backend
    backend.triton_fault.cache_clear()


def test_auto_with_everything_is_triton(gpu_here):
    assert (
        gpu_here.choose_impl("auto", torch.device("cuda", 0)) == "triton"
        and gpu_here.choose_impl("auto", torch.device("cpu")) == "torch"
    )
    assert gpu_here.backend_report()["cuda:0 a GPU"].startswith("triton (kernels compiled when first used")


def test_auto_on_an_old_gpu_or_under_the_interpreter_is_torch_and_says_so(gpu_here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (6, 1))
    assert (
        gpu_here.choose_impl("auto", "cuda:0") == "torch"
        and "7.0, found 6.1" in gpu_here.backend_report()["cuda:0 a GPU"]
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert (
        gpu_here.choose_impl("auto", "cuda:0") == "torch" and "interpreter" in gpu_here.backend_report()["cuda:0 a GPU"]
    )


def test_triton_on_a_cpu_warns_once_and_runs():
    script = """
import torch
from hsr_nb.ops import bias_act, modulated_conv2d, setup_filter, upfirdn2d
x = torch.randn(1, 2, 4, 4)
for _ in range(3):
    bias_act(x, act='lrelu', impl='triton'), upfirdn2d(x, setup_filter([1, 3, 3, 1]), 2, padding=2, impl='triton')
    modulated_conv2d(x, torch.randn(3, 2, 3, 3), torch.ones(1, 2), impl='triton')
"""
    r = python(script)
    assert (
        r.stderr.count("RuntimeWarning") == 1
        and "need a CUDA device, found cpu" in r.stderr
        and "plain PyTorch" in r.stderr
    )


def test_without_triton_everything_runs():
    script = """
import sys
import torch
before = set(sys.modules)
import hsr_nb.ops, hsr_nb.nets
assert not any(m.split('.')[0] == 'triton' or 'kernels' in m for m in set(sys.modules) - before)
import importlib.util as u
find = u.find_spec
u.find_spec = lambda n, *a: None if n == 'triton' else find(n, *a)
hsr_nb.ops.bias_act(torch.zeros(1, 2), impl='triton')
assert 'triton' not in sys.modules and not torch.ops.hsr_nb.__dict__.get('bias_act')
"""
    assert "the package triton is not installed" in python(script).stderr


# ---- the real compiler, which needs no GPU: everything up to the launch, with a driver that only says "H200"


def compile_everything(out, quick):
    """Call both operations as on a GPU, with launching switched off.

    Writes [case, kernel, wide loads, wide stores] of all that was compiled."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, *_):
            return 0

        is_active = staticmethod(lambda: True)

    triton.runtime.driver.set_active(Driver())
    compiled, case = [], []
    run = triton.runtime.JITFunction.run

    def warm_up(self, *args, grid, warmup, **kw):
        kernel = run(self, *args, grid=grid, warmup=True, **kw)
        if kernel is not None:
            ptx = kernel.asm["ptx"]
            assert "atom." not in ptx and "red.global" not in ptx  # the order of a sum is fixed
            compiled.append([case[-1], kernel.metadata.name, ptx.count("ld.global.v4"), ptx.count("st.global.v4")])

    triton.runtime.JITFunction.run = warm_up
    from hsr_nb.ops.kernels.bias_act_kernel import bias_act_triton
    from hsr_nb.ops.kernels.upfirdn2d_kernel import upfirdn2d_triton

    for act in ("lrelu", "swish") if quick else ACTIVATIONS:
        for dtype, shape, layout in (
            (torch.float16, (2, 64, 8, 8), FORMATS[1]),
            (torch.bfloat16, (1, 3, 7, 5), FORMATS[0]),
            (torch.float32, (1, 4, 32, 32), FORMATS[0]),
            (torch.float64, (1, 1, 1, 1), FORMATS[0]),
        )[: 1 if quick else 4]:
            case.append(f"{act} {dtype} {shape}")
            x = torch.randn(shape).to(dtype, memory_format=layout).requires_grad_()
            b = torch.zeros(shape[1], dtype=dtype)
            dy = x.detach().clone().requires_grad_()
            y = bias_act_triton(x, b, act=act, alpha=0.2, gain=1.4, clamp=256.0)
            (g,) = torch.autograd.grad(y, x, dy, create_graph=True)
            torch.autograd.grad(g, x, x.detach(), allow_unused=True)
    for dtype, layout in ((torch.float16, FORMATS[1]), (torch.bfloat16, FORMATS[1]), (torch.float32, FORMATS[0]))[
        : 1 if quick else 3
    ]:
        for up, down, f in ((2, 1, SHORT), (1, 2, SHORT), (1, 1, SHORT), (2, 1, LONG)):
            case.append(f"{up} {down} {dtype} {tuple(f.shape)}")
            x = torch.randn(1, 32, 16, 16).to(dtype, memory_format=layout).requires_grad_()
            y = upfirdn2d_triton(x, f, up, down, (6, 6, 6, 6))
            torch.autograd.grad(y, x, y.detach())
    compile_epilogue(case, quick)
    case.append("ones")
    upfirdn2d_triton(torch.zeros(1, 1, 1, 1), torch.ones(3, 3), 2, 1, (1, 1, 1, 1))
    upfirdn2d_triton(torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1))
    Path(out).write_text(json.dumps(compiled))


def compile_epilogue(case, quick):
    from hsr_nb.ops.kernels.epilogue_kernel import epilogue_triton

    for dtype, shape, layout in (
        (torch.float16, (2, 64, 8, 8), FORMATS[1]),
        (torch.float16, (2, 64, 8, 8), FORMATS[0]),
        (torch.bfloat16, (1, 3, 7, 5), FORMATS[0]),
        (torch.float32, (1, 4, 32, 32), FORMATS[0]),
        (torch.float32, (2, 64, 8, 8), FORMATS[1]),
        (torch.float64, (1, 1, 1, 1), FORMATS[0]),
    )[: 2 if quick else 6]:
        n, c, h, w = shape
        x, *rest = [torch.randn(s).requires_grad_() for s in (shape, (n, c), (h, w), (c,))]
        if dtype == torch.float64:
            rest = [t.detach().double().requires_grad_() for t in rest]
        x = x.detach().to(dtype, memory_format=layout).requires_grad_()
        d, noise, b = rest
        everything = [x, d, noise, b]
        choices = [everything, [x, None, None, b], [x, d, None, None], [x.detach(), d, noise, b]]
        for ins in choices[:1] if quick else choices:
            case.append(f"epilogue {dtype} {shape} {layout}" if ins[0] is x else "gradients of the small inputs alone")
            wrt = [t for t in ins if t is not None and t.requires_grad]
            dy = x.detach().clone().requires_grad_()
            first = torch.autograd.grad(epilogue_triton(*ins, clamp=256.0), wrt, dy, create_graph=True)
            torch.autograd.grad(first, [*wrt, dy], [t.detach() for t in wrt], allow_unused=True)


@pytest.mark.parametrize("how", ["quick", pytest.param("whole", marks=pytest.mark.slow)])
def test_kernels_compile_for_a_gpu_with_wide_loads(how, tmp_path):
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton has no NVIDIA compiler")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    r = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "out.json"), "compile", how], env=env, capture_output=True, text=True
    )
    assert r.returncode == 0, r.stderr
    compiled = json.loads((tmp_path / "out.json").read_text())
    narrow = []
    for what, kernel, wide_loads, wide_stores in compiled:
        even = "(2, 64, 8, 8)" in what or "(1, 4, 32, 32)" in what
        wide = even or ("float16" in what and "upfirdn" in kernel)
        if wide and not (wide_loads and wide_stores):
            narrow.append([what, kernel])
    assert not narrow, narrow
    assert len(compiled) > (12 if how == "quick" else 70)


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize("layout", FORMATS)
def test_kernels_on_a_gpu(dtype, tolerance, layout):
    torch.manual_seed(0)
    on_the_gpu(dtype, tolerance, layout, "cuda")


def on_the_gpu(dtype, tolerance, layout, device, shape=(2, 24, 17, 32), image=(3, 24, 33, 20)):
    "In half precision without values near the clamp, which rounding moves to its other side."
    clamp = 1.5 if dtype == torch.float32 else 256.0
    for noise in ("random", "const"):  # sums of 544 products
        compare_epilogue(shape, dtype, device, layout, noise=noise, clamp=clamp, tolerance=10 * tolerance)
    for act in ACTIVATIONS:
        compare_bias_act(shape, dtype, device, layout=layout, act=act, clamp=clamp, tolerance=tolerance)
    how = dict(dtype=dtype, device=device, layout=layout, tolerance=tolerance)
    for up, down, padding in ((2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1)), (1, 1, (2, 1, 2, 1)), (2, 2, (-1, 3, 4, -2))):
        for f, extra in ((SHORT, 0), (LONG, 4)):
            compare_upfirdn(image, f, up, down, [p + extra for p in padding], gain=up**2, **how)


@pytest.mark.gpu
@pytest.mark.parametrize("first", range(1, 6))
def test_every_size_on_a_gpu(first):
    "In five parts: each size compiles kernels of its own."
    for h in range(first, 66, 5):
        w, layout = 1 + (h * 29) % 65, FORMATS[h % 2]
        for up, down, padding in ((2, 1, 3), (1, 2, 3), (1, 1, 3)):
            compare_upfirdn((1, 3, h, w), SHORT, up, down, padding, device="cuda", layout=layout, tolerance=5e-5)
        compare_bias_act((1, 3, h, w), device="cuda", layout=layout, act="lrelu")


@pytest.mark.gpu
def test_auto_uses_the_kernels_on_a_gpu():
    from hsr_nb.ops import backend_report

    report = [v for k, v in backend_report().items() if k.startswith("cuda")]
    x = torch.randn(2, 3, 8, 8, device="cuda", requires_grad=True)
    names = [str(bias_act(x).grad_fn), str(upfirdn2d(x, SHORT.cuda(), 2, padding=2).grad_fn)]
    assert all(v.startswith("triton") for v in report) == all("hsr_nb" in n for n in names), (report, names)


if __name__ == "__main__":
    if sys.argv[2] == "compile":
        compile_everything(sys.argv[1], quick=sys.argv[3] == "quick")
    else:
        main(sys.argv[1], sys.argv[2:])
