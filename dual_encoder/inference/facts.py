"""The facts of a model that decide how a scene is cut into windows, and that a map states about its origin."""

from typing import Any, NamedTuple

from dual_encoder.models.encoder import TransformerConfig
from dual_encoder.workdir.checkpoint import LoadedModel


class ModelFacts(NamedTuple):
    """Facts of a checkpoint with encoders.

    Attributes:
      stride: pixels per row of the deepest feature map; positions of windows are multiples of it.
      transformer: True if the encoder is one.
      trained_on: side in pixels of the images that it was trained on.
      shift_invariant: True if a pixel's output depends only on the pixels around it, not on the whole image.
      step: of the checkpoint.
      trained_with: name, config and version of the data set.
    """

    stride: int
    transformer: bool
    trained_on: int
    shift_invariant: bool
    step: int
    trained_with: str

    @classmethod
    def of(cls, model: LoadedModel, encoder: Any) -> "ModelFacts":
        """Returns the facts of a checkpoint; `encoder` is the configuration of its encoders."""
        data = "/".join(model.dataset[key] for key in ("name", "config", "version"))
        return cls(max(encoder.strides), isinstance(encoder, TransformerConfig), model.image_size(),
                   encoder.uses_batch_statistics, model.step, data)
