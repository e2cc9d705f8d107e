"""Imported weights give the answers of the public model definitions in PyTorch, from files of their layouts.

Weights are random; their keys, nesting and shapes are those of the published files. Images are stored integers, so the
normalisation is compared, too.
"""

import argparse
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import sensor
from dual_encoder.import_weights import source, workdir
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.weights.dofa import WAVELENGTHS
from dual_encoder.workdir.checkpoint import load_model
from tests.runtimes import runtime

torch = runtime("torch")
pytestmark = pytest.mark.runtimes

# n rounded terms in any order differ by about sqrt(n) x 6e-8; the products have up to 9 x 512 terms.
TOLERANCE = 4e-6


@pytest.fixture(scope="module", autouse=True)
def threads():
    torch.set_num_threads(2)


def library(name):
    """A library of the runtimes' environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return runtime(name)


def randomised(model, seed=0):
    """The model in evaluation mode with random weights, near those of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            scale = key.endswith("running_var") or value.ndim == 1 and key.endswith("weight")
            value.copy_(1 + 0.2 * noise.abs() if scale else noise / max(1, value[0].numel()) ** 0.5 if value.ndim > 1
                        else 0.1 * noise)
    return model.eval()


def with_prefix(prefix, model):
    return {f"{prefix}{key}": value for key, value in model.state_dict().items()}


def stored(name, size=224):
    """Stored integers of a sensor, [2, size, size, bands], near its statistics; all of them hold data."""
    spec, rng = sensor(name), np.random.default_rng(3)
    values = np.array(spec.mean) + np.array(spec.std) * rng.normal(size=(2, size, size, len(spec.bands)))
    limits = np.iinfo(spec.dtype)
    return np.clip(values, limits.min + 1, limits.max).astype(spec.dtype)


def imported(tmp_path, file, layout, *names, **options):
    encoders = {}
    for name in names:
        usual = {"file_bands": (), "rule": "", "normalisation": ""}
        encoders[sensor(name).feature] = source.load(source.Wanted(file, layout, sensor(name), **usual | options))
    workdir.write(encoders, epath.Path(tmp_path / "run"))
    return load_model(tmp_path / "run")


def ours(model, feature, image):
    """The vectors of an imported encoder for stored integers."""
    encoder = parse(AnyEncoder, model.config["encoder"]).make()
    variables = {kind: tree[f"{feature}_encoder"] for kind, tree in model.variables.items() if tree}
    spec = model.sensors[feature]
    return np.asarray(jax.jit(lambda v, x: encoder.apply(v, normalise(x, spec), False).pooled)(
        variables, jnp.asarray(image)))


def answer(model, values):
    """The answer of a torch model for [batch, height, width, bands]."""
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 1), np.float32))).numpy()


def assert_same(one, other):
    error = np.abs(one - other).max() / np.abs(other).max()
    print(f"relative error {error:.1e}")
    assert error <= TOLERANCE, error


def test_resnet_50_of_ssl4eo_moco_is_that_of_torchvision(tmp_path):
    torchvision = library("torchvision")
    network = torchvision.models.resnet50()
    network.conv1 = torch.nn.Conv2d(13, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Sequential(torch.nn.Linear(2048, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    randomised(network)
    file = tmp_path / "B13_rn50_moco_0099_ckpt.pth"
    torch.save({"epoch": 100, "arch": "resnet50", "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
                "state_dict": with_prefix("module.encoder_q.", network) | with_prefix("module.encoder_k.", network) | {
                    "module.queue": torch.zeros(16, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}}, file)
    model = imported(tmp_path, file, "ssl4eo_moco", "s2_l1c")
    network.fc = torch.nn.Identity()
    image = stored("s2_l1c")
    assert_same(ours(model, "s2", image), answer(network, np.clip(image / 10000, 0, 1)))
    left = model.dataset["source"]["left out"]
    assert "'optimizer'" in left and "momentum encoder" in left and "head: 4 arrays" in left


@pytest.mark.parametrize("layout", ["torchgeo", "ssl4eo_dino", "ssl4eo_mae", "ssl4eo_moco"])
def test_vit_small_is_that_of_torchgeo(tmp_path, layout):
    """torchgeo's definition is timm's, for the weights of all of these methods."""
    models = library("torchgeo.models")
    network = randomised(models.vit_small_patch16_224(in_chans=13, num_classes=0))
    content = {
        "torchgeo": network.state_dict(),
        "ssl4eo_dino": {"teacher": with_prefix("backbone.", network) | {"head.mlp.0.weight": torch.zeros(3, 3)},
                        "student": with_prefix("module.backbone.", network), "epoch": 99,
                        "args": argparse.Namespace(arch="vit_small", lr=0.1)},
        "ssl4eo_mae": {"model": network.state_dict() | {"mask_token": torch.zeros(1, 1, 4),
                                                        "decoder_embed.weight": torch.zeros(4, 4)},
                       "args": argparse.Namespace(model="mae_vit_small_patch16"), "epoch": 99, "scaler": {}},
        "ssl4eo_moco": {"state_dict": with_prefix("module.base_encoder.", network) | with_prefix(
            "module.momentum_encoder.", network) | {"module.predictor.0.weight": torch.zeros(3, 3)}}}[layout]
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    model = imported(tmp_path, file, layout, "s2_l1c")
    image = stored("s2_l1c")
    if layout == "torchgeo":  # its own transform, after the crop that the image has already
        normal = models.ViTSmall16_Weights.SENTINEL2_ALL_DINO.transforms[-1]
        values = np.moveaxis(normal(torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float32))).numpy(), 1, -1)
    else:
        values = np.clip(image / 10000, 0, 1)
    assert_same(ours(model, "s2", image), answer(network, values))


def test_decur_gives_both_encoders(tmp_path):
    """ResNet-50 of radar and of optical images, from the file of both; torchgeo's transforms for S1."""
    models = library("torchgeo.models")
    networks = [randomised(models.resnet50(in_chans=bands, num_classes=0), bands) for bands in (2, 13)]
    file = tmp_path / "joint.pth"
    torch.save({"model": with_prefix("module.backbone_1.", networks[0]) | with_prefix("module.backbone_2.", networks[1])
                | {"module.projector1.0.weight": torch.zeros(2, 2), "module.bn.running_mean": torch.zeros(2)}}, file)
    model = imported(tmp_path, file, "decur", "s1_grd", "s2_l1c", normalisation="torchgeo")
    for network, name, weights in zip(networks, ("s1_grd", "s2_l1c"), (
            models.ResNet50_Weights.SENTINEL1_GRD_DECUR, models.ResNet50_Weights.SENTINEL2_ALL_SOFTCON), strict=True):
        spec, image = sensor(name), stored(name)
        values = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float32))
        if spec.modality == "sar":
            values = values * np.float32(spec.scale)  # torchgeo takes dB
        assert_same(ours(model, spec.feature, image), answer(network, np.moveaxis(
            weights.transforms[-1](values).numpy(), 1, -1)))


def test_torchvision_on_rgb_is_that_of_its_transform(tmp_path):
    torchvision = library("torchvision")
    network = randomised(torchvision.models.resnet18())
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    model = imported(tmp_path, tmp_path / "resnet18.pth", "torchvision", "s2_rgb")
    network.fc = torch.nn.Identity()
    image = stored("s2_rgb")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert_same(ours(model, "s2", image), answer(network, (image / 255 - mean) / std))
    assert "head: 2 arrays" in model.dataset["source"]["left out"]


class Attack:
    """Code that a pickle would run when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


def test_no_code_of_a_file_runs(tmp_path):
    def refused(content, raw=None):
        file = tmp_path / "weights.pth"
        torch.save(content, file)
        if raw:
            file.write_bytes(file.read_bytes()[:raw])
        with pytest.raises(UserError) as caught:
            source.load(source.Wanted(file, "torchgeo", sensor("s2_l1c"), (), "", ""))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "whose code would run; nothing was run" in refused({"conv1.weight": Attack(str(tmp_path / "ran"))})
    assert not (tmp_path / "ran").exists()
    assert "'torch.nn.modules" in refused(torch.nn.Linear(2, 2))
    assert "holds a list, expected a state dict" in refused([torch.zeros(2)])
    assert "it is truncated" in refused({"conv1.weight": torch.zeros(100, 100)}, raw=2000)


@pytest.mark.parametrize(("name", "message"), [
    ("resnet152", "a ResNet with 3, 8, 36, 3 bottlenecks"),
    ("wide_resnet50_2", "128 channels inside and 64 at the stem"), ("vit_small_patch14_dinov2", "LayerScale"),
    ("vit_base_patch16_rpn_224", "a norm after the mean of its tokens and no class token"),
    ("vit_small_patch14_reg4_dinov2", "LayerScale")])
def test_other_networks_of_timm_are_refused_by_what_they_have(tmp_path, name, message):
    timm = library("timm")
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    torch.save({key: torch.zeros(value.shape) for key, value in network.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        source.load(source.Wanted(tmp_path / "w.pth", "timm", sensor("s2_rgb"), (), "", "imagenet"))


@pytest.mark.parametrize(("name", "nested", "size"), [("s1_grd", False, 48), ("s2_l2a", True, 32)])
def test_croma_is_that_of_torchgeo(tmp_path, name, nested, size):
    """With the keys of torchgeo's module, and nested: the files of its authors and of torchgeo have a mapping each."""
    models = library("torchgeo.models")
    network = models.CROMA(encoder_dim=64, encoder_depth=4, image_size=size)
    bias = network.attn_bias.clone()  # a buffer: it does not learn
    randomised(network).attn_bias.copy_(bias)
    groups = ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder")
    torch.save({group: getattr(network, group).state_dict() for group in groups} if nested else network.state_dict(),
               tmp_path / "croma.pt")
    model = imported(tmp_path, tmp_path / "croma.pt", "croma", name)
    spec, image = sensor(name), stored(name, size)
    lowest, highest = (np.array(spec.mean) + sign * 2 * np.array(spec.std) for sign in (-1, 1))
    values = np.clip((image - lowest) / (highest - lowest), 0, 1)
    encoder, head = (getattr(network, f"{spec.feature}_{part}") for part in ("encoder", "GAP_FFN"))
    assert_same(ours(model, spec.feature, image), answer(lambda x: head(encoder(x, bias).mean(dim=1)), values))


@pytest.mark.parametrize(("name", "bands"), [("s1_grd", ()), ("s2_l1c", ()), ("s2_l2a", ("B04", "B8A", "B12"))])
def test_dofa_is_that_of_torchgeo(tmp_path, name, bands):
    models = library("torchgeo.models")
    network = randomised(models.DOFA(img_size=64, embed_dim=128, depth=2, num_heads=2, num_classes=5))
    torch.save(network.state_dict(), tmp_path / "dofa.pth")
    spec = sensor(name).subset(bands or sensor(name).bands)
    model = imported(tmp_path, tmp_path / "dofa.pth", "dofa", spec.name)
    image = stored(spec.name, 64)
    wavelengths = [WAVELENGTHS[band] for band in spec.bands]
    assert_same(ours(model, spec.feature, image), answer(
        lambda x: network.forward_features(x, wavelengths), (image - np.array(spec.mean)) / np.array(spec.std)))


def test_a_masked_autoencoder_that_was_fine_tuned_is_that_of_timm(tmp_path):
    """Its vector is the norm of the mean of the tokens of its patches, next to a class token."""
    timm = library("timm")
    network = randomised(timm.create_model("vit_tiny_patch16_224", in_chans=13, img_size=64, depth=2, global_pool="avg",
                                           num_classes=5))
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    model = imported(tmp_path, tmp_path / "w.pth", "timm", "s2_l1c", file_bands=sensor("s2_l1c").bands,
                     normalisation="reflectance")
    image = stored("s2_l1c", 64)
    network.reset_classifier(0, "avg")
    assert_same(ours(model, "s2", image), answer(network, image / 10000))
