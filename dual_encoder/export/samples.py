"""Two real images in every export, with our outputs for them: so the proof needs neither the run nor its data."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.export import inputs
from dual_encoder.export.network import outputs_of
from dual_encoder.export.source import Content, Source
from dual_encoder.imagery.normalise import normalise

NAME = "check.npz"


class Samples(NamedTuple):
    """Real images and the outputs of our model for them.

    Attributes:
      inputs: name -> [images, height, width, bands] in the form that the format takes.
      outputs: name -> float32.
      origin: data set, split, rows and ids.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    origin: Mapping[str, Any]


def take(source: Source, content: Content, data_dir: str) -> Samples:
    """Returns the first and the last image of the split that the run was evaluated on, and our outputs.

    The outputs are computed as the run computes them: from the stored integers. The middle of each image is cut out, or
    with fewer pixels than `source.image_size` it is filled up with no-data (0 if the sensor has no such value).

    Args:
      source: what is exported.
      data_dir: folder of the data set.
      content: as the format wrote it.

    Raises:
      UserError: the data set cannot be read, or holds other bands or units.
    """
    network, split = content.network(), source.model.config["data"]["eval_split"]
    records = Records(data_dir, split, tuple(network.inputs), partial=True)
    for name, spec in network.inputs.items():
        spec.check_matches(records.info.sensors[name], f"data set '{data_dir}'", "the checkpoint")
    if not len(records):
        raise UserError(f"split '{split}' of '{data_dir}' has no records")
    rows = sorted({0, len(records) - 1})
    chosen = [records.record(row) for row in rows]
    images = {name: np.stack([_middle(record[name], source.image_size, spec.no_data or 0) for record in chosen])
              for name, spec in network.inputs.items()}

    def ours(stored):
        return outputs_of(network, {name: normalise(image, network.inputs[name]) for name, image in stored.items()})

    outputs = {name: np.asarray(value) for name, value in jax.jit(ours)(images).items() if name in content.outputs}
    origin = {"data set": " ".join(str(source.model.dataset[key]) for key in ("name", "config", "version")),
              "split": split, "rows": rows, "ids": [record["id"] for record in chosen]}
    return Samples(inputs.of_stored(images, network.inputs, content.input), outputs, origin)


def to_bytes(samples: Samples) -> bytes:
    """Returns the content of check.npz: 'input/NAME' and 'output/NAME'."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"input/{name}": value for name, value in samples.inputs.items()}
    arrays |= {f"output/{name}": value for name, value in samples.outputs.items()}
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the inputs and outputs of check.npz by their names."""
    with np.load(folder / NAME, allow_pickle=False) as archive:
        parts: Mapping[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
        for key in archive.files:
            kind, _, name = key.partition("/")
            parts[kind][name] = archive[key]
    return parts["input"], parts["output"]


def _middle(image: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Returns the middle of [height, width, bands] as [size, size, bands]."""
    top, left = (max(0, (side - size) // 2) for side in image.shape[:2])
    cut = image[top:top + size, left:left + size]
    pads = [(0, size - side) for side in cut.shape[:2]]
    return np.pad(cut, [*pads, (0, 0)], constant_values=fill)
