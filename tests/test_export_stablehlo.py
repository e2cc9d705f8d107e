"""The program of an export (StableHLO) against our model, for every kind of model."""

import jax
import numpy as np
import pytest

from dual_encoder.export.check import LIMIT, check, relative_difference
from dual_encoder.export.inputs import of_stored
from dual_encoder.export.network import outputs_of
from dual_encoder.export.write import export
from dual_encoder.imagery.normalise import normalise
from tests.exports import RUNS, data_sets, source_of

pytestmark = pytest.mark.usefixtures("short_resnet")


@pytest.fixture(scope="module")
def data(write_dataset):
    return data_sets(write_dataset)


@pytest.mark.parametrize("name", RUNS)
def test_the_program_gives_our_outputs_at_every_size(data, tmp_path, name):
    of = source_of(name, data)
    export(of, tmp_path, "stablehlo")
    result = check(tmp_path)
    assert result.passed and result.differences.keys() == of.network.outputs.keys(), result
    images = {key: np.random.default_rng(1).integers(1, 4000, (3, 48, 64, len(spec.bands))).astype(spec.dtype)
              for key, spec in of.network.inputs.items()}
    called = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes())).call
    theirs = called(of_stored(images, of.network.inputs, "physical"))
    ours = jax.jit(lambda stored: outputs_of(of.network, {
        key: normalise(image, of.network.inputs[key]) for key, image in stored.items()}))(images)
    assert max(relative_difference(np.asarray(theirs[key]), np.asarray(ours[key])) for key in ours) <= LIMIT
