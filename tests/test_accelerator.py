"""An accelerator computes what a CPU does, and checkpoints go from one to the other. Skipped where there is none.

    JAX_PLATFORMS=cuda,cpu python -m pytest tests/test_accelerator.py        (tpu,cpu on a TPU)
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.data.batches import batches
from dual_encoder.data.records import Records
from dual_encoder.models.attention import attention
from dual_encoder.runtime import mesh
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.training import loop
from dual_encoder.workdir import checkpoint, metrics
from tests import runs
from tests.comparing import relative_error

ROOT = pathlib.Path(__file__).parent.parent
SENSORS, BATCH, SIDE = ("s1", "s2"), 16, 32
RESNET = {"family": "resnet", "depth": 18, "width": 8}
VIT = {"family": "vit", "depth": 2, "width": 64, "patch": 8, "image_size": SIDE}

pytestmark = pytest.mark.skipif(jax.default_backend() == "cpu",
                                reason="no accelerator in use; with one: JAX_PLATFORMS=cuda,cpu (or tpu,cpu)")


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=32, places=16)


def configure(folder, encoder, micro_batch=0, **loss):
    """`runs.configure` of pre-training."""
    return runs.configure(folder, batch_size=BATCH, augment__crop=SIDE, train__micro_batch=micro_batch, loss=loss,
                          encoder=encoder)


def loss_and_gradients(config, device):
    """(loss, batch statistics, gradients) of the first batch; parameters and augmentation are those of a CPU."""
    records, devices = Records(config.data.dir, "train", SENSORS), mesh.make([device])
    task = Pretrain(config, records.info.sensors, devices)
    with jax.default_device(jax.devices("cpu")[0]):
        variables = jax.tree.map(np.asarray, task.init(jax.random.key(0)))
    batch = next(batches(records, seed=0, batch_size=BATCH, rows=range(BATCH), start=0, stop=1, threads=1, processes=0))
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    params, stats = jax.device_put(variables, mesh.replicated(devices))
    key = jax.device_put(jax.random.key(1), mesh.replicated(devices))
    (loss, (stats, _)), gradients = function(params, stats, mesh.to_global(batch, devices), key)
    return jax.tree.map(np.asarray, (loss, stats, gradients))


def on_both(config):
    """The accelerator's and the CPU's results; products of float32 would have fewer digits on the former."""
    with jax.default_matmul_precision("highest"):
        return [loss_and_gradients(config, jax.devices(name)[0]) for name in (None, "cpu")]


# Float32 sums in another order differ by 1e-6 or so; norms over few values amplify that, layer by layer
# (test_training.py, test_encoders.py).
@pytest.mark.parametrize("encoder, limit", [
    (RESNET, 1e-3), (RESNET | {"depth": 50}, 1e-3), (RESNET | {"norm": "group"}, 1e-3),
    (RESNET | {"remat": True}, 1e-3), (VIT, 1e-4), (VIT | {"pool": "mean", "positions": "sincos"}, 1e-4)])
@pytest.mark.parametrize("micro_batch", [0, 8])
def test_encoders(folder, encoder, limit, micro_batch):
    seen, expected = on_both(configure(folder, encoder, micro_batch))
    assert relative_error(seen[0], expected[0]) < 1e-5
    assert not expected[1] or relative_error(seen[1], expected[1]) < 1e-4
    assert relative_error(seen[2], expected[2]) < limit


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "iai_simclr", "sigmoid"])
@pytest.mark.parametrize("false_negatives", ["mask", "positive", "keep"])
def test_objectives(folder, name, chunk, false_negatives):
    seen, expected = on_both(configure(folder, VIT, name=name, chunk=chunk, false_negatives=false_negatives))
    assert relative_error(seen[0], expected[0]) < 1e-5 and relative_error(seen[2], expected[2]) < 1e-4


@pytest.mark.parametrize("name", ["barlow", "decur", "vicreg"])
def test_correlation_objectives(folder, name):
    seen, expected = on_both(configure(folder, VIT, name=name, false_negatives="keep"))
    # They divide by the spread of 16 values in each dimension.
    assert relative_error(seen[0], expected[0]) < 1e-4 and relative_error(seen[2], expected[2]) < 1e-3


@pytest.mark.parametrize("encoder", [RESNET, VIT], ids=["resnet", "vit"])
def test_bfloat16(folder, encoder):
    with jax.numpy_dtype_promotion("standard"):  # the gradient of jax.nn.dot_product_attention needs it
        half = loss_and_gradients(configure(folder, encoder | {"dtype": "bfloat16"}), jax.devices()[0])
    whole = loss_and_gradients(configure(folder, encoder), jax.devices("cpu")[0])
    # bfloat16 keeps 8 bits; 20 layers in a row lose some 20 x 2^-9 = 4 %.
    np.testing.assert_allclose(half[0], whole[0], rtol=0.04)
    assert half[0] != whole[0] and {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype("float32")}


@pytest.mark.parametrize("tokens", [17, 64])
def test_attention_in_bfloat16(tokens):
    """cuDNN's on a GPU: values and gradients against those of float32."""
    half = [jax.random.normal(jax.random.key(number), (8, tokens, 2, 64)).astype(jnp.bfloat16) for number in range(4)]
    whole = [x.astype(jnp.float32) for x in half]

    def values_and_gradients(q, k, v, gradient):
        y, pull = jax.vjp(attention, q, k, v)
        return y, *pull(gradient)

    with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
        seen, expected = (jax.jit(values_and_gradients)(*arrays) for arrays in (half, whole))
    for ours, exact in zip(seen, expected, strict=True):
        # Weights and results are rounded to 8 bits, each by 2^-9 at most.
        assert relative_error(ours, exact) < 2**-8


def run(platform, *arguments):
    """main.py with JAX on `platform` alone, compiled as for users."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.Popen([sys.executable, "main.py", *map(str, arguments)], cwd=ROOT, text=True,
                            env=environment | {"JAX_PLATFORMS": platform, "NO_COLOR": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.skipif(jax.default_backend() == "tpu", reason="this process has the TPU")
def test_a_run_moves_between_cpu_and_accelerator(folder, tmp_path):
    """Stopped by SIGTERM on one, it goes on from the same step on the other; both evaluate it alike."""
    accelerator = os.environ["JAX_PLATFORMS"].split(",")[0]
    arguments = ("--config=configs/pretrain.py:smoke", f"--config.data.dir={folder}", "--config.data.split=train",
                 "--config.encoder.width=8", "--config.augment.crop=32", "--config.schedule.steps=600",
                 "--config.schedule.log_every=1", "--config.data.eval_split=train", f"--workdir={tmp_path / 'run'}")
    reached = []
    for platform in (accelerator, "cpu", accelerator):
        process = run(platform, *arguments)
        if len(reached) < 2:
            wait_for_step(process, tmp_path / "run", reached[-1] + 5 if reached else 5)
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == (loop.STOPPED if len(reached) < 2 else 0), output
        if reached:
            assert f"from step {reached[-1]} to 600" in output
        reached.append(checkpoint.load_model(tmp_path / "run").step)
    assert reached[0] < reached[1] < reached[2] == 600
    losses = [row["loss"] for row in metrics.read(tmp_path / "run") if row["kind"] == "train"]
    assert len(losses) == 600 and np.mean(losses[-50:]) < 0.5 * np.mean(losses[:5])
    scores = []
    for platform in (accelerator, "cpu"):
        process = run(platform, "--config=configs/evaluate.py", f"--config.init_from={tmp_path / 'run'}")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        scores.append(json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text())["s1_to_s2"])
    # Similarities that are almost the same may swap their ranks: one place of 16 may.
    assert scores[0].keys() == scores[1].keys()
    assert abs(scores[0]["recall@1"] - scores[1]["recall@1"]) <= 1 / 16 + 1e-6
    assert scores[0]["recall@1"] > 0.3, "chance is 1 / 16"


def wait_for_step(process, workdir, step):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and metrics.read(workdir)[-1]["step"] >= step:
            return
        time.sleep(0.1)
    pytest.fail(f"step {step} was not reached: {process.communicate()[0] if process.poll() is not None else 'alive'}")
