"""A run of an earlier version is resumed, evaluated, a start for others, and exported. See golden/make_run.py."""

import json
import pathlib
import tarfile

import numpy as np
import optax
import pytest
from etils import epath

from configs import evaluate
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.tasks.build import AnyConfig, build
from dual_encoder.training import loop
from dual_encoder.training.run import run
from dual_encoder.workdir import metrics
from dual_encoder.workdir.checkpoint import load_model
from tests import runs

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(params=sorted(path.name for path in GOLDEN.glob("run_*.tar.xz")))
def earlier(request, tmp_path):
    """A folder with the data and the run, which was killed after step 2 of 4."""
    with tarfile.open(GOLDEN / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def start(values, folder, workdir):
    """Runs a configuration as main.py does, on the data as they lie now."""
    if "data" in values:
        values["data"]["dir"] = str(folder / "data")
    run(parse(AnyConfig, values, stored=True), runs.one_device(), epath.Path(workdir))


def losses(workdir):
    return {row["step"]: row["loss"] for row in metrics.read(workdir) if row["kind"] == "train"}


def test_it_goes_on_with_the_losses_of_that_version(earlier):
    before = losses(earlier / "run")
    start(json.loads((earlier / "run" / "config.json").read_text()), earlier, earlier / "run")
    assert load_model(earlier / "run").step == 4
    after = losses(earlier / "run")
    assert sorted(before) == sorted(after) == [1, 2, 3, 4]
    # Two steps of float32 whose kernels may add in another order; a wrong batch or state differs by 0.1 or more.
    np.testing.assert_allclose([after[3], after[4]], [before[3], before[4]], rtol=1e-3)


def test_an_optimizer_of_another_form_is_one_line(earlier, monkeypatch):
    monkeypatch.setattr(loop, "make_optimizer", lambda *_: optax.sgd(0.1))
    with pytest.raises(UserError, match="a version whose optimizer had another state; it cannot be resumed, but eval"):
        start(json.loads((earlier / "run" / "config.json").read_text()), earlier, earlier / "run")


def test_it_is_evaluated(earlier):
    values = evaluate.get_config().to_dict() | {"init_from": str(earlier / "run"), "data_dir": str(earlier / "data")}
    start(values, earlier, earlier / "scores")
    scores = json.loads((earlier / "scores" / "evaluation" / "scores.json").read_text())
    assert scores["s1_to_s2"]["gallery_size"] == 4


def test_it_is_a_start_and_is_exported(earlier):
    config = runs.configure(earlier / "data", family="resnet", init_from=str(earlier / "run"), encoder__width=4,
                            encoder__norm="group", projection__hidden=8, projection__dim=8, augment__crop=20)
    assert build(config, runs.one_device()).start == load_model(earlier / "run").digest
    exported = export(Source(load_model(earlier / "run"), "s2"), earlier / "encoder")
    assert "model.safetensors" in {pathlib.Path(path).name for path in exported.paths}
