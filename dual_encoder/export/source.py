"""What a format writes from, and what it makes: the two types that all formats share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from etils import epath

from dual_encoder.errors import UserError, nearest
from dual_encoder.export import inputs
from dual_encoder.export.network import BOTH, Network, of_encoder, of_run, outputs_of
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.workdir import calibration
from dual_encoder.workdir.calibration import Calibration
from dual_encoder.workdir.checkpoint import LoadedModel, digest_of


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint and what to write of it.

    Attributes:
      model: the checkpoint.
      sensor: name of the images, such as 's1', or 'both'.
      input: form of the images that an exported graph takes.
      size: side of the images in pixels; 0 = as in training.
      workdir: of the run; the card states its calibration. '' = none.
    """

    model: LoadedModel
    sensor: str
    input: inputs.Input = "physical"
    size: int = 0
    workdir: epath.PathLike = ""

    @functools.cached_property
    def network(self) -> Network:
        """The function to export."""
        return of_run(self.model, self.sensor)

    @functools.cached_property
    def encoder_network(self) -> Network:
        """The encoder of the one sensor that `sensor` names, for formats that hold no more."""
        return of_encoder(self.model, self.sensor)

    @property
    def image_size(self) -> int:
        """The side of the images: `size`, or of the random crop, or of the stored image if nothing is cropped."""
        return self.size or self.model.image_size(self.sensor)

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of the model, or None."""
        digest = digest_of(self.model.variables, self.model.sensors)
        return calibration.of_model(self.workdir, digest, tuple(self.network.inputs))[0]

    def program(self, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the outputs of the network for images in the form `input`; pure."""
        return outputs_of(self.network, {name: inputs.prepare(images[name], spec, self.input)
                                         for name, spec in self.network.inputs.items()})

    def described(self, batch: object, height: object, width: object) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns name -> shape and dtype of the images that `program` takes; sides may be symbolic."""
        return {name: jax.ShapeDtypeStruct((batch, height, width, len(spec.bands)), inputs.dtype(spec, self.input))
                for name, spec in self.network.inputs.items()}

    def encoder(self) -> tuple[Mapping[str, Mapping[str, object]], SensorSpec]:
        """Returns the variables and the sensor of the one encoder that `sensor` names.

        Raises:
          UserError: the checkpoint has no such encoder, or one of stacked sensors.
        """
        name, variables = f"{self.sensor}_encoder", self.model.variables
        encoders = sorted(key.removesuffix("_encoder") for key in variables["params"] if key.endswith("_encoder"))
        if self.sensor == BOTH and len(encoders) > 1:
            raise UserError(f"this format holds one encoder, the checkpoint has those of {' and '.join(encoders)}; "
                            "give one of them as --sensor, or --format=stablehlo, saved_model, onnx, npz or orbax")
        if self.sensor not in encoders:
            raise UserError(f"the checkpoint has no encoder of sensor '{self.sensor}'; "
                            f"{nearest(self.sensor, encoders)}")
        if self.sensor not in self.model.sensors:
            stacked = " and ".join(sorted(self.model.sensors))
            raise UserError(f"'{name}' takes the stacked bands of {stacked}; this format describes the bands of one "
                            f"sensor: export a run with config.fusion=late, or --format=stablehlo --sensor={BOTH}")
        return ({kind: variables[kind][name] for kind in ("params", "batch_stats") if name in variables.get(kind, {})},
                self.model.sensors[self.sensor])

    def left_out(self) -> str:
        """Returns a line that names what an export of one encoder leaves out; '' for a pre-training run."""
        if self.model.config["task"] == "pretrain":
            return ""
        parts = sorted(key for key in self.model.variables["params"] if not key.startswith(f"{self.sensor}_encoder"))
        return (f"this format holds the encoder only: {', '.join(parts)} of the fine-tuned model are left out; "
                "--format=stablehlo, saved_model, onnx, npz and orbax hold all of it")


class Content(NamedTuple):
    """What a format makes of a source.

    Attributes:
      title: of the card.
      about: sentences of the card under the title.
      inputs: name of an image -> its sensor.
      input: form of the images that `load` of the format takes.
      layout: their axes, such as '[batch, height, width, bands]', or sizes in place of names.
      outputs: name of an output -> its meaning.
      sizes: a phrase about other sizes of images.
      loading: Markdown for the card: code that loads the files, and what to know about it.
      files: name, with '/' for folders -> content.
      network: returns the function that the export is compared with.
      library: name of the library that loads the files, as model hubs call it.
      note: a line for the person who exports; '' when there is nothing to say.
    """

    title: str
    about: str
    inputs: Mapping[str, SensorSpec]
    input: inputs.Input
    layout: str
    outputs: Mapping[str, str]
    sizes: str
    loading: str
    files: Mapping[str, bytes]
    network: Callable[[], Network]
    library: str
    note: str = ""
