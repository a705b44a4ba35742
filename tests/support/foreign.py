"""Writes checkpoints in other people's layouts, from the published description of the formats, with stand-ins for the modules that they name."""

import argparse
import contextlib
import copyreg
import io
import pickle
import sys
import types

import numpy as np
import torch

PERSISTENCE, NETWORK = "torch_utils.persistence", "dnnlib.tflib.network"
SOURCE = "import os\nos.system('touch executed')\n" + "# a module of the official code would stand here\n" * 200


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a reader called what the file named")


class EasyDict(dict):
    pass


class Network:
    pass


for thing, module in ((_reconstruct_persistent_obj, PERSISTENCE), (EasyDict, "dnnlib.util"), (Network, NETWORK)):
    thing.__module__ = module
Network.__reduce__ = lambda self: (copyreg.__newobj__, (Network,), self.__dict__)


@contextlib.contextmanager
def modules():
    "The stand-in modules exist while something is pickled, and at no other time."
    made = {PERSISTENCE: _reconstruct_persistent_obj, "dnnlib.util": EasyDict, NETWORK: Network}
    names = {".".join(m.split(".")[:i]) for m in made for i in range(1, m.count(".") + 2)}
    new = {n: types.ModuleType(n) for n in names}
    for m, thing in made.items():
        setattr(new[m], thing.__name__, thing)
    sys.modules |= new
    try:
        yield
    finally:
        for n in new:
            del sys.modules[n]


class Persistent:
    "A module, reduced to the one call of the official code."

    def __init__(self, module, name=None):
        self.module, self.name = module, name or type(module).__name__

    def __reduce__(self):
        m, wrap = self.module, lambda v: Persistent(v) if type(v).__module__.startswith("hsr_nb") else v
        said = {
            k: v
            for k, v in vars(m).items()
            if isinstance(v, (bool, int, float, str, type(None))) and not k.startswith("_")
        }
        said |= {k: np.float64(v) for k, v in said.items() if k.endswith("_gain") and k != "bias_gain"}
        if isinstance(getattr(m, "dtype", None), torch.dtype):
            said["use_fp16"] = m.dtype is not torch.float32
        state = {
            **said,
            "_parameters": dict(m._parameters),
            "_buffers": dict(m._buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": {},
            "_modules": {k: v and wrap(v) for k, v in m._modules.items()},
            "_init_args": (),
            "_init_kwargs": EasyDict(getattr(m, "init_kwargs", {})),
        }
        return _reconstruct_persistent_obj, (
            dict(type="class", version=6, module_src=SOURCE, class_name=self.name, state=state),
        )


class Pipe(torch.nn.Module):
    "An augmentation pipe, as far as a reader cares."

    def __init__(self, p):
        super().__init__()
        self.register_buffer("p", torch.tensor(float(p)))


def official(protocol=4, p=None, **nets) -> bytes:
    "A .pkl of stylegan2-ada-pytorch with these networks."
    top = {
        "training_set_kwargs": EasyDict(resolution=32, xflip=True),
        **{k: v and Persistent(v) for k, v in nets.items()},
    }
    if p is not None:
        top["augment_pipe"] = Persistent(Pipe(p), "AugmentPipe")
    with modules():
        return pickle.dumps(top, protocol)


def randomise(*nets, seed=0):
    "Weights that differ everywhere, so that two swapped tensors cannot pass for one another."
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for net in nets:
            for n, v in net.state_dict().items():
                if not n.endswith("resample_filter"):
                    v.copy_(
                        torch.randn(v.shape, generator=gen)
                        * (0.1 if n.endswith(("bias", "strength", "w_avg")) else 1)
                        * (100 if "mapping.fc" in n and "weight" in n else 1)
                    )
    return nets


def rosinality(G, D=None, average=True, **more) -> dict:
    "A dictionary in rosinality's layout, name by name."
    S, out, K = {k: v.detach().clone() for k, v in G.state_dict().items()}, {}, len(G.synthesis.levels)

    def layer(there, here):
        out.update(
            {
                f"{there}.conv.weight": S[f"{here}.weight"][None],
                f"{there}.conv.modulation.weight": S[f"{here}.affine.weight"],
                f"{there}.conv.modulation.bias": S[f"{here}.affine.bias"],
            }
        )
        if "torgb" in here:
            out[f"{there}.bias"] = S[f"{here}.bias"].reshape(1, -1, 1, 1)
        else:
            out.update(
                {
                    f"{there}.noise.weight": S[f"{here}.noise_strength"].reshape(1),
                    f"{there}.activate.bias": S[f"{here}.bias"],
                }
            )

    for i in range(G.mapping.num_layers):
        for part in ("weight", "bias"):
            out[f"style.{i + 1}.{part}"] = S[f"mapping.fc{i}.{part}"]
    out["input.input"] = S["synthesis.b4.const"][None]
    layer("conv1", "synthesis.b4.conv1")
    layer("to_rgb1", "synthesis.b4.torgb")
    out["noises.noise_0"] = S["synthesis.b4.conv1.noise_const"][None, None]
    for k in range(3, K + 2):
        b = f"synthesis.b{2**k}"
        layer(f"convs.{2 * (k - 3)}", f"{b}.conv0")
        layer(f"convs.{2 * (k - 3) + 1}", f"{b}.conv1")
        layer(f"to_rgbs.{k - 3}", f"{b}.torgb")
        out |= {
            f"noises.noise_{2 * k - 5}": S[f"{b}.conv0.noise_const"][None, None],
            f"noises.noise_{2 * k - 4}": S[f"{b}.conv1.noise_const"][None, None],
            f"convs.{2 * (k - 3)}.conv.blur.kernel": S[f"{b}.conv0.resample_filter"] * 4,
            f"to_rgbs.{k - 3}.upsample.kernel": S[f"{b}.resample_filter"] * 4,
        }
    value = {"g_ema": out, **({"latent_avg": S["mapping.w_avg"]} if average else {}), **more}
    if D is None:
        return value
    T, d = {k: v.detach().clone() for k, v in D.state_dict().items()}, {}
    R = D.levels[0]
    d |= {"convs.0.0.weight": T[f"b{R}.fromrgb.weight"], "convs.0.1.bias": T[f"b{R}.fromrgb.bias"]}
    for j, r in enumerate(D.levels, 1):
        d |= {
            f"convs.{j}.{a}": T[f"b{r}.{b}"]
            for a, b in {
                "conv1.0.weight": "conv0.weight",
                "conv1.1.bias": "conv0.bias",
                "conv2.0.kernel": "conv1.resample_filter",
                "conv2.1.weight": "conv1.weight",
                "conv2.2.bias": "conv1.bias",
                "skip.0.kernel": "skip.resample_filter",
                "skip.1.weight": "skip.weight",
            }.items()
        }
    d |= {
        "final_conv.0.weight": T["b4.conv.weight"],
        "final_conv.1.bias": T["b4.conv.bias"],
        "final_linear.0.weight": T["b4.fc.weight"],
        "final_linear.0.bias": T["b4.fc.bias"],
        "final_linear.1.weight": T["b4.out.weight"],
        "final_linear.1.bias": T["b4.out.bias"],
    }
    return value | {"d": d, "args": argparse.Namespace(size=R, batch=16), "ada_aug_p": 0.25}


def tensorflow(G, D, protocol=3, version=4, **d_said) -> bytes:
    "A .pkl of the TensorFlow era: G, D, Gs with NumPy variables."
    S, T = ({k: v.detach().numpy() for k, v in net.state_dict().items()} for net in (G, D))

    def turn(v):
        return v.transpose(2, 3, 1, 0) if v.ndim == 4 else v.T if v.ndim == 2 else v

    def net(variables, components={}, **said):
        n = Network()
        n.__dict__.update(
            version=version,
            name="G",
            static_kwargs=EasyDict(said),
            components=EasyDict(components),
            build_module_src=SOURCE,
            build_func_name="G_main",
            variables=[(k, np.array(v, order="C") if i % 2 else v) for i, (k, v) in enumerate(variables.items())],
        )
        return n

    synthesis = {"4x4/Const/const": S["synthesis.b4.const"][None]}
    for k, (r, n) in enumerate(
        (r, n) for r in G.synthesis.levels for n in ("conv0", "conv1") if (r, n) != (4, "conv0")
    ):
        synthesis[f"noise{k}"] = S[f"synthesis.b{r}.{n}.noise_const"][None, None]
    for r in G.synthesis.levels:
        for n, there in (("conv0", "Conv0_up"), ("conv1", "Conv" if r == 4 else "Conv1"), ("torgb", "ToRGB")):
            here = f"synthesis.b{r}.{n}"
            if f"{here}.weight" not in S:
                continue
            w = turn(S[f"{here}.weight"])
            synthesis |= {
                f"{r}x{r}/{there}/weight": w[::-1, ::-1] if n == "conv0" else w,
                f"{r}x{r}/{there}/bias": S[f"{here}.bias"],
                f"{r}x{r}/{there}/mod_weight": S[f"{here}.affine.weight"].T,
                f"{r}x{r}/{there}/mod_bias": S[f"{here}.affine.bias"] - 1,
            } | ({} if n == "torgb" else {f"{r}x{r}/{there}/noise_strength": S[f"{here}.noise_strength"]})
    mapping = {
        f"Dense{i}/{p}": turn(S[f"mapping.fc{i}.{p}"]) for i in range(G.mapping.num_layers) for p in ("weight", "bias")
    }
    d = {}
    for k, v in T.items():
        block, _, rest = k.partition(".")
        n, _, part = rest.rpartition(".")
        if part not in ("weight", "bias"):
            continue
        where = {"fc": "4x4/Dense0", "out": "Output", "conv": "4x4/Conv"}.get(n) or f"{block[1:]}x{block[1:]}/" + {
            "fromrgb": "FromRGB",
            "conv0": "Conv0",
            "conv1": "Conv1_down",
            "skip": "Skip",
        }[n]
        d[f"{where}/{part}"] = turn(v)

    def g():
        return net(
            {"dlatent_avg": S["mapping.w_avg"]},
            {"synthesis": net(synthesis), "mapping": net(mapping)},
            resolution=G.img_resolution,
        )

    with modules():
        return pickle.dumps((g(), net(d, mbstd_group_size=4, **d_said), g()), protocol)


def saved(value, zip=True) -> bytes:
    "What torch.save writes, in either layout."
    f = io.BytesIO()
    torch.save(value, f, _use_new_zipfile_serialization=zip)
    return f.getvalue()
