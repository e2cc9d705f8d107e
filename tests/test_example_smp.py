"""examples/finetune_with_smp.py: the encoder in segmentation-models-pytorch is ours, and learns."""

import os
import pathlib
import re
import runpy
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from dual_encoder.export.check import relative_difference
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.models.resnet import ResNet
from tests.exports import WIDE, made
from tests.runtimes import needs, runtime

pytestmark = pytest.mark.runtimes

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "finetune_with_smp.py"


@pytest.fixture(scope="module")
def tiles(write_dataset):
    return write_dataset(labels=True)


@pytest.fixture(scope="module")
def model(tiles):
    needs("segmentation_models_pytorch")
    return made({"smoke": tiles}, encoder=WIDE)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "s1"
    export(Source(model, "s1"), out)
    return out


def test_the_maps_of_the_encoder_are_ours_before_training(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = runtime("torch")
        runtime("segmentation_models_pytorch")
        encoder = runpy.run_path(str(SCRIPT))["unet"](folder, 2).encoder.eval()
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 2)).astype(np.float32)
    with torch.no_grad():
        image, *theirs = encoder(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())
    variables = {kind: tree["s1_encoder"] for kind, tree in model.variables.items()}
    ours = jax.jit(lambda v, x: ResNet(18).apply(v, x, False).maps)(variables, x)
    assert image.shape == (2, 2, 64, 64) and len(theirs) == len(ours) == 5
    for one, other in zip(theirs, ours, strict=True):
        assert relative_difference(one.permute(0, 2, 3, 1).numpy(), np.asarray(other)) <= 1e-5


def test_the_images_are_normalised_as_ours(tiles):
    from dual_encoder.data.records import Records
    from dual_encoder.imagery.normalise import normalise

    runtime("segmentation_models_pytorch")
    names = runpy.run_path(str(SCRIPT))
    spec = Records(tiles, "test", ("s1",)).info.sensors["s1"]
    stored = Records(tiles, "test", ("s1",)).record(0)["s1"].copy()
    stored[:4, :4] = spec.no_data
    ours = np.asarray(normalise(stored[None], spec))[0].transpose(2, 0, 1)
    np.testing.assert_allclose(names["normalised"](stored, spec), ours, rtol=0, atol=2e-6 * np.abs(ours).max())
    images, labels, _ = names["read"](str(tiles), "test", "s1", spec)
    assert images.shape == (8, 2, 64, 64) and labels.shape == (8, 64, 64)
    assert (labels[:, 40:] == 255).all() and not images[:, :, 40:].any()


@pytest.mark.slow
def test_the_loss_falls(folder, tiles):
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder), str(tiles), "--steps=10", "--batch=4"],
                          capture_output=True, text=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(value) for value in re.findall(r"step \d+: loss (\S+)", done.stdout)]
    assert len(losses) == 2 and losses[-1] < 0.7 * losses[0]
    assert done.stdout.count("IoU of ") == 2 and "16 images to learn from, 8 to test, classes dry, wet" in done.stdout
