"""Writes checkpoints in other people's layouts, from the published description of the formats.

Stand-ins take the place of the modules that the files name."""

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
        self.module = module
        self.name = name or type(module).__name__

    def __reduce__(self):
        m = self.module

        def wrap(part):
            return Persistent(part) if part and type(part).__module__.startswith("hsr_nb") else part

        plain = (bool, int, float, str, type(None))
        said = {k: v for k, v in vars(m).items() if isinstance(v, plain) and not k.startswith("_")}
        said |= {k: np.float64(v) for k, v in said.items() if k.endswith("_gain") and k != "bias_gain"}
        if isinstance(getattr(m, "dtype", None), torch.dtype):
            said["use_fp16"] = m.dtype is not torch.float32
        state = {
            **said,
            "_parameters": dict(m._parameters),
            "_buffers": dict(m._buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": {},
            "_modules": {k: wrap(v) for k, v in m._modules.items()},
            "_init_args": (),
            "_init_kwargs": EasyDict(getattr(m, "init_kwargs", {})),
        }
        meta = dict(type="class", version=6, module_src=SOURCE, class_name=self.name, state=state)
        return _reconstruct_persistent_obj, (meta,)


class Pipe(torch.nn.Module):
    "An augmentation pipe, as far as a reader cares."

    def __init__(self, p):
        super().__init__()
        self.register_buffer("p", torch.tensor(float(p)))


def official(protocol=4, p=None, **nets) -> bytes:
    "A .pkl of stylegan2-ada-pytorch with these networks."
    top = {"training_set_kwargs": EasyDict(resolution=32, xflip=True)}
    for name, net in nets.items():
        top[name] = net and Persistent(net)
    if p is not None:
        top["augment_pipe"] = Persistent(Pipe(p), "AugmentPipe")
    with modules():
        return pickle.dumps(top, protocol)


@torch.no_grad()
def randomise(*nets, seed=0):
    "Weights that differ everywhere, so that two swapped tensors cannot pass for one another."
    gen = torch.Generator().manual_seed(seed)
    for net in nets:
        for name, value in net.state_dict().items():
            if name.endswith("resample_filter"):
                continue
            small = 0.1 if name.endswith(("bias", "strength", "w_avg")) else 1
            large = 100 if "mapping.fc" in name and "weight" in name else 1
            value.copy_(torch.randn(value.shape, generator=gen) * small * large)
    return nets


# ---- rosinality


def rosinality(G, D=None, average=True, **more) -> dict:
    "A dictionary in rosinality's layout, name by name."
    value = {"g_ema": rosinality_generator(G)}
    if average:
        value["latent_avg"] = G.mapping.w_avg.detach().clone()
    value |= more
    if D is None:
        return value
    args = argparse.Namespace(size=D.levels[0], batch=16)
    return value | {"d": rosinality_discriminator(D), "args": args, "ada_aug_p": 0.25}


def rosinality_generator(G) -> dict:
    S = {k: v.detach().clone() for k, v in G.state_dict().items()}
    out = {}

    def layer(there, here):
        out[f"{there}.conv.weight"] = S[f"{here}.weight"][None]
        out[f"{there}.conv.modulation.weight"] = S[f"{here}.affine.weight"]
        out[f"{there}.conv.modulation.bias"] = S[f"{here}.affine.bias"]
        if "torgb" in here:
            out[f"{there}.bias"] = S[f"{here}.bias"].reshape(1, -1, 1, 1)
        else:
            out[f"{there}.noise.weight"] = S[f"{here}.noise_strength"].reshape(1)
            out[f"{there}.activate.bias"] = S[f"{here}.bias"]

    for i in range(G.mapping.num_layers):
        for part in ("weight", "bias"):
            out[f"style.{i + 1}.{part}"] = S[f"mapping.fc{i}.{part}"]
    out["input.input"] = S["synthesis.b4.const"][None]
    layer("conv1", "synthesis.b4.conv1")
    layer("to_rgb1", "synthesis.b4.torgb")
    out["noises.noise_0"] = S["synthesis.b4.conv1.noise_const"][None, None]
    for i in range(len(G.synthesis.levels) - 1):
        block = f"synthesis.b{2 ** (i + 3)}"
        layer(f"convs.{2 * i}", f"{block}.conv0")
        layer(f"convs.{2 * i + 1}", f"{block}.conv1")
        layer(f"to_rgbs.{i}", f"{block}.torgb")
        out[f"noises.noise_{2 * i + 1}"] = S[f"{block}.conv0.noise_const"][None, None]
        out[f"noises.noise_{2 * i + 2}"] = S[f"{block}.conv1.noise_const"][None, None]
        out[f"convs.{2 * i}.conv.blur.kernel"] = S[f"{block}.conv0.resample_filter"] * 4
        out[f"to_rgbs.{i}.upsample.kernel"] = S[f"{block}.resample_filter"] * 4
    return out


IN_A_BLOCK = {  # of the discriminator: rosinality's name -> the official one
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.0.kernel": "conv1.resample_filter",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.0.kernel": "skip.resample_filter",
    "skip.1.weight": "skip.weight",
}
AT_THE_END = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}


def rosinality_discriminator(D) -> dict:
    T = {k: v.detach().clone() for k, v in D.state_dict().items()}
    largest = D.levels[0]
    out = {
        "convs.0.0.weight": T[f"b{largest}.fromrgb.weight"],
        "convs.0.1.bias": T[f"b{largest}.fromrgb.bias"],
    }
    for j, r in enumerate(D.levels, 1):
        for there, here in IN_A_BLOCK.items():
            out[f"convs.{j}.{there}"] = T[f"b{r}.{here}"]
    for there, here in AT_THE_END.items():
        out[there] = T[here]
    return out


# ---- the TensorFlow era


def tensorflow(G, D, protocol=3, version=4, **d_said) -> bytes:
    "A .pkl of the TensorFlow era: G, D, Gs with NumPy variables."

    def net(variables, components=None, **said):
        n = Network()
        n.__dict__.update(
            version=version,
            name="G",
            static_kwargs=EasyDict(said),
            components=EasyDict(components or {}),
            build_module_src=SOURCE,
            build_func_name="G_main",
            variables=[(k, np.array(v, order="C") if i % 2 else v) for i, (k, v) in enumerate(variables.items())],
        )
        return n

    def generator():
        parts = {"synthesis": net(synthesis), "mapping": net(mapping)}
        return net({"dlatent_avg": S["mapping.w_avg"]}, parts, resolution=G.img_resolution)

    S = arrays(G)
    synthesis = tensorflow_synthesis(G, S)
    mapping = {}
    for i in range(G.mapping.num_layers):
        for part in ("weight", "bias"):
            mapping[f"Dense{i}/{part}"] = turned(S[f"mapping.fc{i}.{part}"])
    discriminator = tensorflow_discriminator(arrays(D))
    with modules():
        networks = generator(), net(discriminator, mbstd_group_size=4, **d_said), generator()
        return pickle.dumps(networks, protocol)


def arrays(net) -> dict:
    return {k: v.detach().numpy() for k, v in net.state_dict().items()}


def turned(v):
    "A weight with its axes in TensorFlow's order."
    if v.ndim == 4:
        return v.transpose(2, 3, 1, 0)
    return v.T if v.ndim == 2 else v


def tensorflow_synthesis(G, S) -> dict:
    out = {"4x4/Const/const": S["synthesis.b4.const"][None]}
    convolutions = [(r, n) for r in G.synthesis.levels for n in ("conv0", "conv1") if (r, n) != (4, "conv0")]
    for k, (r, n) in enumerate(convolutions):
        out[f"noise{k}"] = S[f"synthesis.b{r}.{n}.noise_const"][None, None]
    for r in G.synthesis.levels:
        for n, there in (("conv0", "Conv0_up"), ("conv1", "Conv" if r == 4 else "Conv1"), ("torgb", "ToRGB")):
            here = f"synthesis.b{r}.{n}"
            if f"{here}.weight" not in S:
                continue
            w = turned(S[f"{here}.weight"])
            out[f"{r}x{r}/{there}/weight"] = w[::-1, ::-1] if n == "conv0" else w
            out[f"{r}x{r}/{there}/bias"] = S[f"{here}.bias"]
            out[f"{r}x{r}/{there}/mod_weight"] = S[f"{here}.affine.weight"].T
            out[f"{r}x{r}/{there}/mod_bias"] = S[f"{here}.affine.bias"] - 1
            if n != "torgb":
                out[f"{r}x{r}/{there}/noise_strength"] = S[f"{here}.noise_strength"]
    return out


LAST_LAYERS = {"fc": "4x4/Dense0", "out": "Output", "conv": "4x4/Conv"}
BLOCK_LAYERS = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}


def tensorflow_discriminator(T) -> dict:
    out = {}
    for name, value in T.items():
        block, _, rest = name.partition(".")
        layer, _, part = rest.rpartition(".")
        if part not in ("weight", "bias"):
            continue
        side = block[1:]
        where = LAST_LAYERS.get(layer) or f"{side}x{side}/{BLOCK_LAYERS[layer]}"
        out[f"{where}/{part}"] = turned(value)
    return out


def saved(value, zip=True) -> bytes:
    "What torch.save writes, in either layout."
    f = io.BytesIO()
    torch.save(value, f, _use_new_zipfile_serialization=zip)
    return f.getvalue()


# ---- the first StyleGAN


def first_tensorflow(G, D, protocol=3, version=3, g_said=None, d_said=None) -> bytes:
    "A .pkl of NVlabs/stylegan: G, D, Gs with NumPy variables under the names of that code."

    def net(variables, components=None, said=None):
        n = Network()
        n.__dict__.update(
            version=version,
            name="G",
            static_kwargs=EasyDict(said or {}),
            components=EasyDict(components or {}),
            build_module_src=SOURCE,
            build_func_name="G_style",
            variables=list(variables.items()),
        )
        return n

    def generator():
        S = arrays(G)
        parts = {"synthesis": net(first_synthesis(G, S)), "mapping": net(first_mapping(G, S))}
        own = {"dlatent_avg": S["mapping.w_avg"]}
        if G.synthesis.growing:
            own["lod"] = np.float32(S["synthesis.lod"])  # what has no dimensions comes as a number
        return net(own, parts, dict(resolution=G.img_resolution) | (g_said or {}))

    with modules():
        networks = generator(), net(first_discriminator(D, arrays(D)), said=d_said), generator()
        return pickle.dumps(networks, protocol)


def first_mapping(G, S) -> dict:
    out = {}
    for i in range(G.mapping.num_layers):
        for part in ("weight", "bias"):
            out[f"Dense{i}/{part}"] = turned(S[f"mapping.fc{i}.{part}"])
    if G.c_dim:
        out["LabelConcat/weight"] = S["mapping.label"]
    return out


def first_synthesis(G, S) -> dict:
    out = {"4x4/Const/const": S["synthesis.b4.const"][None]}
    if G.synthesis.growing:
        out["lod"] = np.float32(0)
    top = G.synthesis.levels[-1]
    for i, r in enumerate(G.synthesis.levels):
        for k, there in enumerate(("Const", "Conv") if r == 4 else ("Conv0_up", "Conv1")):
            here = f"synthesis.b{r}.conv{k}"
            if f"{here}.weight" in S:
                w = turned(S[f"{here}.weight"])
                out[f"{r}x{r}/{there}/weight"] = w[::-1, ::-1] if there == "Conv0_up" and r >= 128 else w
            out[f"{r}x{r}/{there}/Noise/weight"] = S[f"{here}.noise_strength"]
            out[f"{r}x{r}/{there}/bias"] = S[f"{here}.bias"]
            out[f"{r}x{r}/{there}/StyleMod/weight"] = S[f"{here}.affine.weight"].T
            out[f"{r}x{r}/{there}/StyleMod/bias"] = S[f"{here}.affine.bias"]
            out[f"noise{2 * i + k}"] = S[f"{here}.noise_const"][None, None]
        for part in ("weight", "bias"):
            if f"synthesis.b{r}.torgb.{part}" in S:
                out[f"ToRGB_lod{(top // r).bit_length() - 1}/{part}"] = turned(S[f"synthesis.b{r}.torgb.{part}"])
    return out


FIRST_LAST_LAYERS = {"fc": "4x4/Dense0", "out": "4x4/Dense1", "conv": "4x4/Conv"}


def first_discriminator(D, T) -> dict:
    out = {}
    for name, value in T.items():
        block, _, rest = name.partition(".")
        if name == "lod":
            out["lod"] = value
            continue
        layer, _, part = rest.rpartition(".")
        side = int(block[1:])
        if layer == "fromrgb":
            where = f"FromRGB_lod{(D.levels[0] // side).bit_length() - 1}"
        else:
            where = FIRST_LAST_LAYERS.get(layer) or f"{side}x{side}/{BLOCK_LAYERS[layer]}"
        out[f"{where}/{part}"] = turned(value)
    return out
