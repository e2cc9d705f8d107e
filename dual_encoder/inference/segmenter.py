"""A fine-tuned segmentation run as an object: images in, a probability of each class for each pixel out."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from dual_encoder.config import parse
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.imagery.palette import class_colours
from dual_encoder.imagery.sensors import before
from dual_encoder.inference.facts import ModelFacts
from dual_encoder.inference.images import Images, Units, stored_images
from dual_encoder.tasks.build import AnyTask
from dual_encoder.tasks.segment import Segment, SegmentConfig
from dual_encoder.workdir import calibration
from dual_encoder.workdir.checkpoint import LoadedModel, digest_of, load_model


class Segmenter:
    """A segmentation model with all facts that its images must fit.

    Args:
      model: a checkpoint of a segmentation run.
      available: the sensors that are there, of a run with sensor_dropout; () = all.
      workdir: of the run, whose calibration.json is used if it is of this checkpoint and these sensors; '' = none.

    Attributes:
      sensors: name of an image ('s1', 's2', 's1_before', ...) -> its spec: bands in order, unit, no-data.
      classes: their names, in the order of the last axis of the output.
      colours: red, green, blue of each class, 0 to 255.
      facts: of the checkpoint.
      digest: sha256 of the parameters and the sensors, in hex.
      calibration: what `python -m dual_encoder.calibrate` found; None if there is none.
      not_calibrated: one line that says why there is none.

    Raises:
      UserError: no segmentation run; a sensor is missing that the model cannot do without.
    """

    def __init__(self, model: LoadedModel, available: Sequence[str] = (), workdir: epath.PathLike = ""):
        config: AnyTask = parse(AnyTask, model.config, stored=True)
        if not isinstance(config, SegmentConfig):
            raise UserError(f"the run is of task '{model.config['task']}', a map needs a segmentation run; "
                            "fine-tune one with configs/finetune.py")
        info = DatasetInfo.from_json({**model.dataset, "shards": {}})
        whole = dataclasses.replace(config, window=0)  # a map has windows of its own
        self._task, self._variables = Segment(whole, model.sensors, Shapes(info), None), model.variables
        self._available = () if set(available) >= set(config.sensors) else tuple(available)
        if missing := [name for name in config.sensors if available and name not in available]:
            if not config.sensor_dropout:
                raise UserError(f"the model reads {' and '.join(config.sensors)}; give --{missing[0]}=SCENE, or "
                                "fine-tune one with --config.sensor_dropout")
        wanted = {*self._available, *map(before, self._available)}
        self.sensors = {name: spec for name, spec in self._task.sensors.items() if not wanted or name in wanted}
        self.classes = self._task.classes
        self.colours = tuple(class_colours(len(self.classes), info.label.colours if info.label else ()))
        self.facts = ModelFacts.of(model, config.encoder)
        self.digest = digest_of(model.variables, model.sensors)
        self.calibration, self.not_calibrated = calibration.of_model(workdir, self.digest, tuple(self.sensors))

    @property
    def temperature(self) -> float:
        """The logits are divided by it before they become probabilities; 1 without a calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @functools.cached_property
    def logits(self) -> Any:
        """A compiled function: images -> float32 [batch, height, width, classes], before the temperature.

        Images are name -> [batch, height, width, bands], stored integers of `sensors`, such as hundredths of dB. Height
        and width are multiples of `stride`. A program is compiled for each shape.
        """
        variables = jax.device_put(self._variables)

        def of(variables: Mapping[str, Any], images: Mapping[str, jax.Array]) -> jax.Array:
            return self._task.logits(variables["params"], variables["batch_stats"], images, self._available)

        compiled = jax.jit(of)
        return lambda images: compiled(variables, images)

    def probabilities(self, images: Mapping[str, np.ndarray]) -> jax.Array:
        """Returns the probability of each class, float32 [batch, height, width, classes]; images as of `logits`."""
        return jax.nn.softmax(self.logits(dict(images)) / self.temperature, axis=-1)

    def predict(self, *, units: Units, **images: Images) -> np.ndarray:
        """Returns the probability of each class in images, float32 [n, height, width, classes].

        A pixel without data in any of the images is NaN. Each image is computed at once: for a scene of many thousand
        pixels a side take `python -m dual_encoder.predict`, which works in windows.

        Args:
          units: 'physical', floats in the units of `sensors`; 'stored', integers as in the data set.
          images: of each of `sensors`, s1=..., s2=...: an array [height, width, bands] or [n, height, width, bands],
            or the path of a raster, as of `stored_images`.

        Raises:
          UserError: an unknown or missing image; images that do not fit.

        >>> segmenter = load_segmentation("runs/flood")
        >>> decibels = np.full((64, 96, 2), (-11.0, -17.5))
        >>> decibels[:, :5] = np.nan
        >>> probabilities = segmenter.predict(s1=decibels, units="physical")
        >>> probabilities.shape, bool(np.isnan(probabilities[0, 0, 4]).all()), segmenter.classes
        ((1, 64, 96, 2), True, ('dry', 'wet'))
        """
        if set(images) != set(self.sensors):
            raise UserError(f"images of {', '.join(sorted(images)) or 'no sensor'} given; expected "
                            f"{' and '.join(self.sensors)}")
        whole = {name: stored_images(images[name], spec, units, name) for name, spec in self.sensors.items()}
        if len(shapes := {image.shape[:3] for image in whole.values()}) > 1:
            raise UserError(f"the images have the shapes {' and '.join(str(list(one)) for one in sorted(shapes))}; "
                            "expected one number, height and width")
        shown = np.all([spec.holds_data(whole[name]) for name, spec in self.sensors.items()], axis=0)
        rows = [np.asarray(self.probabilities({name: image[row:row + 1] for name, image in whole.items()}))
                for row in range(len(shown))]
        return np.where(shown[..., None], np.concatenate(rows), np.float32(np.nan))


def load_segmentation(workdir: epath.PathLike, step: int | None = None, available: Sequence[str] = ()) -> Segmenter:
    """Reads a segmentation run.

    Args:
      workdir: of the run.
      step: of the checkpoint; None takes the one that the run chose, or else the newest.
      available: as of `Segmenter`.

    Raises:
      UserError: no such run, or a damaged one.

    >>> segmenter = load_segmentation("runs/flood")
    >>> segmenter.classes, list(segmenter.sensors), segmenter.sensors["s1"].bands, segmenter.sensors["s1"].unit
    (('dry', 'wet'), ['s1'], ('VV', 'VH'), 'dB (sigma0, GRD)')
    """
    return Segmenter(load_model(workdir, step), available, workdir)

