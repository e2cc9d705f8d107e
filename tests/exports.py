"""Exports of untrained runs, and the code of their cards, for the tests of all formats."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np

from dual_encoder.config import to_dict
from dual_encoder.export.check import LIMIT
from dual_encoder.export.source import Source
from dual_encoder.workdir.checkpoint import LoadedModel
from dual_encoder.workdir.folder import facts
from tests import runs

WIDE = {"family": "resnet", "depth": 18, "width": 64}
SMALL = {"family": "vit", "depth": 12, "width": 384, "patch": 16, "image_size": 32}

_VIT = {"family": "vit", "depth": 2, "width": 64, "patch": 8, "image_size": 32}
RUNS = {  # name -> sensor, changes of the configuration
    "encoders": ("both", {}),
    "early": ("both", {"fusion": "early"}),
    "transformer": ("s2", {"encoder": _VIT | {"pool": "patches", "shift": 1}}),
    "croma": ("s2", {"encoder": {"family": "croma", "depth": 2, "width": 32}}),
    "unet": ("both", {"variant": "water_weak", "inputs": "s1+s2"}),
    "pyramid": ("s1", {"variant": "water_weak", "encoder": _VIT | {"norm": None}, "decoder": "fpn"}),
    "one_of_two": ("s2", {"variant": "water_weak", "inputs": "s1+s2", "sensor_dropout": 0.3, "decoder": "linear"}),
    "classes": ("s1", {"variant": "land_cover_small", "inputs": "s1"}),
}


def data_sets(write_dataset):
    """Variant -> a small data set for it."""
    return {variant: write_dataset(labels=labels) for variant, labels in (
        ("smoke", False), ("water_weak", True), ("land_cover_small", "image_classes"))}


def source_of(name, data) -> Source:
    sensor, changes = RUNS[name]
    return Source(made(data, **changes), sensor)


def made(data, variant="smoke", **changes) -> LoadedModel:
    """A checkpoint with random weights, norms included: a new network has scales of 0, which hide mistakes."""
    if "encoder" in changes:
        changes["encoder"] = {key: value for key, value in changes["encoder"].items() if value is not None}
    config = runs.configure(data[variant], variant, family="resnet", **changes)
    task, records = runs.open_run(config)
    params, batch_stats = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)

    def drawn(leaf):
        return (np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)

    known = facts(to_dict(config), records.info, task.sensors)
    variables = {"params": jax.tree.map(drawn, params),
                 "batch_stats": jax.tree.map(lambda x: abs(drawn(x)), batch_stats)}
    return LoadedModel(2, variables, known["config"], task.sensors, known["dataset"], known["code_version"])


def run(folder, code):
    """Runs code in a folder as a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


AFTERWARDS = """
from dual_encoder.export.samples import read
import pathlib
images, ours = read(pathlib.Path("."))
theirs = model(images)
for name, value in ours.items():
    print(name, float(np.abs(np.asarray(theirs[name], np.float64) - value).max() / np.abs(value).max()))
"""


def assert_the_card_gives_our_outputs(folder, names):
    """Runs the code of the card as it stands, and then what it made on the sample images."""
    card = (folder / "README.md").read_text()
    code = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    path = f"import sys\nsys.path.insert(0, {str(pathlib.Path.cwd())!r})\n"
    lines = run(folder, path + code + AFTERWARDS).split()
    differences = dict(zip(lines[::2], map(float, lines[1::2]), strict=True))
    print(differences)
    assert differences.keys() == set(names) and max(differences.values()) <= LIMIT
