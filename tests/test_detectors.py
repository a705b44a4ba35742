"""The networks of published scores against torch-fidelity and torchmetrics; their files: found, checked, refused."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hsr_nb.base.errors import WeightsNotFound
from hsr_nb.base.whole import sha256
from hsr_nb.data import SynthFaces
from hsr_nb.judges.backbones import build_net
from hsr_nb.judges.inception_vgg import (
    PUBLISHED,
    VGG16,
    Inception,
    fill,
    find_weights,
    read_published,
    resize_tf1,
    variable,
)
from hsr_nb.judges.independence import require_independent
from hsr_nb.metrics import LPIPS, DetectorDistance, fid, load_detector


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    "No weights in the environment or in the folder of downloads."
    for name in (*PUBLISHED, "test_resnet"):
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    "Random weights in the published layout, with statistics that keep the activations alive."
    torch.manual_seed(0)
    net, g = Inception(), torch.Generator().manual_seed(1)
    for name, v in net.state_dict().items():
        if name.endswith("conv.weight"):
            v.copy_(torch.randn(v.shape, generator=g) * (2 / v[0].numel()) ** 0.5)
        elif "running_var" in name or name.endswith("bn.weight"):
            v.copy_(torch.rand(v.shape, generator=g) + 0.5)
        elif "running_mean" in name or name.endswith("bn.bias"):
            v.copy_(torch.randn(v.shape, generator=g) * 0.1)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(net.state_dict(), path)
    return path


# ---- Inception


def test_inception_is_torch_fidelity_s(inception_file):
    "The same file, the same bytes: pooled features and the logits of the inception score."
    oracle = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "oracle", ["2048", "logits_unbiased"], str(inception_file)
    )
    ours = load_detector("inception", weights=inception_file)
    for shape in ((2, 3, 32, 32), (1, 3, 64, 48)):
        x = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(shape[2]))
        features, logits = oracle(x)
        assert features.abs().max() > 0.1 and features.std() > 1e-3
        torch.testing.assert_close(ours(x), features, rtol=1e-3, atol=1e-4 * features.abs().max().item())
        torch.testing.assert_close(ours.attributes(x), logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item())
    assert (
        ours.num_features == 2048
        and len(ours.attribute_names) == 1008
        and ours.name == f"inception-{sha256(inception_file)[:8]}"
    )
    grey = torch.randint(256, (1, 1, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(ours(grey), ours(grey.expand(-1, 3, -1, -1)))
    assert list(fid(ours(x.repeat(3, 1, 1, 1)), ours(x), ours)) == [f"fid[{ours.name}]"]


@pytest.mark.parametrize("shape", [(32, 32), (256, 256), (299, 299), (512, 384), (23, 26)])
def test_resizing_is_tensorflow_1_s(shape):
    oracle = pytest.importorskip(
        "torch_fidelity.interpolate_compat_tensorflow"
    ).interpolate_bilinear_2d_like_tensorflow1x
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 255
    torch.testing.assert_close(
        resize_tf1(x), oracle(x, size=(299, 299), align_corners=False), rtol=0, atol=0.02
    )  # float32 positions in theirs
    rows, cols = (np.arange(299) * n / 299 for n in shape)  # and pixel by pixel, from the formula
    for i, j in ((0, 0), (1, 298), (150, 77), (298, 298)):
        (a, u), (b, v) = ((int(p), p - int(p)) for p in (rows[i], cols[j]))
        c, d = min(a + 1, shape[0] - 1), min(b + 1, shape[1] - 1)
        by_hand = (1 - u) * ((1 - v) * x[0, 0, a, b] + v * x[0, 0, a, d]) + u * (
            (1 - v) * x[0, 0, c, b] + v * x[0, 0, c, d]
        )
        assert resize_tf1(x)[0, 0, i, j].item() == pytest.approx(by_hand.item(), abs=1e-3)


def test_inception_has_the_published_layout():
    "Names and shapes of torchvision's network with 1008 classes and without the auxiliary head."
    torchvision = pytest.importorskip("torchvision")
    want = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    assert {k: v.shape for k, v in Inception().state_dict().items()} == {k: v.shape for k, v in want.items()}


# ---- VGG16 and LPIPS


def test_vgg16_is_torchvision_s():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs, ours = torchvision.models.vgg16(weights=None).eval(), VGG16().eval()
    fill(ours, theirs.state_dict(), "vgg16")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        want = theirs.classifier[:5](theirs.avgpool(theirs.features(x)).flatten(1))
    assert want.std() > 0
    with torch.no_grad():
        torch.testing.assert_close(ours.features(x), want, rtol=1e-4, atol=1e-6)


def test_lpips_is_torchmetrics_s(tmp_path):
    "The published linear weights, which torchmetrics brings along, on a VGG16 of random weights."
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    torchvision = pytest.importorskip("torchvision")
    linear = Path(module.__file__).parent / "lpips_models/vgg.pth"
    assert read_published("lpips-vgg16", linear)[1:] == (PUBLISHED["lpips-vgg16"].sha256, "lpips-vgg16")
    torch.manual_seed(0)
    net = torchvision.models.vgg16(weights=None).features.eval()
    vgg = tmp_path / "vgg.pth"
    torch.save({f"features.{k}": v for k, v in net.state_dict().items()}, vgg)
    theirs = module._LPIPS(pretrained=False, net="vgg", pnet_rand=True).eval()
    theirs.load_state_dict(torch.load(linear, map_location="cpu", weights_only=True), strict=False)
    for part in (getattr(theirs.net, f"slice{i}") for i in range(1, 6)):
        for name, layer in part.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict(net[int(name)].state_dict())
    ours, (x, y) = LPIPS(vgg, linear), torch.rand(2, 3, 3, 40, 40) * 2 - 1
    with torch.no_grad():
        want = theirs(x, y).flatten()
    assert want.min() > 0
    torch.testing.assert_close(ours(x, y), want, rtol=1e-3, atol=1e-7)
    assert ours.name == f"lpips-vgg16-{sha256(vgg)[:8]}" and ours.sha256 == f"{sha256(vgg)} {sha256(linear)}"


# ---- timm networks and the embedded teacher


def test_any_timm_network(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    net = build_net("test_resnet", seed=3)
    save_file(net.state_dict(), tmp_path / "mine.safetensors")
    monkeypatch.setenv("HSR_NB_TEST_RESNET", str(tmp_path / "mine.safetensors"))
    d, x = load_detector("test_resnet"), torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    assert (d.name, d.sha256, d.attribute_names) == ("test_resnet", sha256(tmp_path / "mine.safetensors"), ()) and d(
        x
    ).shape == (3, d.num_features)
    cfg = net.pretrained_cfg
    see = nn.functional.adaptive_avg_pool2d(x.float() / 255, cfg["input_size"][1:])
    mean, std = (torch.tensor(cfg[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(d(x), net.eval()((see - mean) / std), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="no maps at hand"):
        DetectorDistance(d)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="the file of test_resnet does not fit"):
        load_detector("test_resnet", weights=tmp_path / "other.safetensors")


def test_the_embedded_teacher_judges_what_it_did_not_teach():
    d, faces = load_detector("synthfaces-tiny"), SynthFaces(32, 60, seed=3).images(range(60))
    f = d(faces)
    assert d.name == "synthfaces-tiny" and f.shape == (60, d.num_features) and f.std(0).min() > 0
    assert list(fid(f[:30], f[30:], d)) == ["fid[synthfaces-tiny]"]
    require_independent(d, None), require_independent(d, {"name": "dino_vits16", "sha256": "0"})
    for teacher in ({"name": "synthfaces-tiny"}, {"name": "renamed", "sha256": d.sha256}):
        with pytest.raises(ValueError, match="taught this network and cannot judge it"):
            require_independent(d, teacher)


# ---- files


@pytest.mark.parametrize("name", [*PUBLISHED, "resnet50.tv_in1k"])
def test_a_missing_file_is_named_at_once(name, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("the network was asked"))
    with pytest.raises(WeightsNotFound) as e:
        find_weights(name)
    assert all(
        part in str(e.value)
        for part in (
            name,
            PUBLISHED[name].url if name in PUBLISHED else "https://huggingface.co/timm/resnet50.tv_in1k",
            variable(name),
            "downloaded unasked",
        )
    ) and "\n" not in str(e.value)
    monkeypatch.setenv(variable(name), "nowhere.pth")
    with pytest.raises(WeightsNotFound, match="no file of weights for .* at nowhere.pth"):
        find_weights(name)


def test_where_a_file_is_looked_for(tmp_path, monkeypatch):
    files = {k: tmp_path / k for k in ("call", "environment")}
    files["downloads"] = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED["inception"].file
    files["downloads"].parent.mkdir(parents=True)
    for f in files.values():
        f.write_bytes(b"x")
    assert find_weights("inception") == files["downloads"]
    monkeypatch.setenv("HSR_NB_INCEPTION", str(files["environment"]))
    assert (
        find_weights("inception") == files["environment"] and find_weights("inception", files["call"]) == files["call"]
    )


def test_only_the_published_file_has_the_plain_name(inception_file, tmp_path, monkeypatch):
    digest = sha256(inception_file)
    named = load_detector("inception", weights=inception_file)
    assert (named.name, named.sha256) == (f"inception-{digest[:8]}", digest)
    monkeypatch.setenv("HSR_NB_INCEPTION", str(inception_file))
    assert load_detector("inception").name == f"inception-{digest[:8]}"
    monkeypatch.delenv("HSR_NB_INCEPTION")
    kept = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED["inception"].file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(inception_file.read_bytes())  # a file that nobody named
    wanted = f"is not the published file of inception: its SHA-256 is {digest}, expected 6726825d.*; give its path"
    with pytest.raises(ValueError, match=wanted):
        load_detector("inception")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="the file of inception does not fit"):
        load_detector("inception", weights=tmp_path / "x.pth")
    from hsr_nb.judges import inception_vgg as published

    monkeypatch.setitem(published.PUBLISHED, "inception", published.Published("https://nowhere", "x", digest[:8]))
    assert (
        load_detector("inception", weights=inception_file).name == "inception"
    )  # the plain name belongs to the published file


def test_a_pickle_that_does_something_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fc.weight": Bomb()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        load_detector("inception", weights=tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_a_download_that_was_asked_for_is_checked(tmp_path, monkeypatch):
    "From a file:// address: the right hash is kept, the wrong one leaves nothing behind."
    from hsr_nb.judges import inception_vgg as published

    (tmp_path / "far.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for known, ok in (("0" * 8, False), (digest, True)):
        monkeypatch.setitem(
            published.PUBLISHED, "inception", published.Published((tmp_path / "far.pth").as_uri(), "near.pth", known)
        )
        if ok:
            assert find_weights("inception", allow_download=True).read_bytes() == b"weights"
        else:
            with pytest.raises(WeightsNotFound, match="invalid hash value"):
                find_weights("inception", allow_download=True)
            assert not list((Path(torch.hub.get_dir()) / "checkpoints").iterdir())


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match="did you mean.*inception"):
        load_detector("inceptoin")
    with pytest.raises(ValueError, match="synthfaces-attributes"):
        load_detector("synthfaces-atributes")
    assert re.fullmatch("HSR_NB_[A-Z0-9_]+", variable("vit_base_patch16_224.dino"))
