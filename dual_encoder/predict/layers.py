"""What a map holds for each pixel: the class, and perhaps the probability of each class and the uncertainty."""

import dataclasses
from collections.abc import Sequence

import numpy as np

NO_DATA = 255
PERMANENT = "permanent water"
_PERMANENT_COLOUR = (120, 170, 220)
_WET = ("water", "flood")


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a map, all uint8 with 255 = no data.

    Attributes:
      classes: names; with `permanent` the last one is 'permanent water', which no model predicts.
      colours: red, green and blue of each class.
      predicted: number of classes that the model has.
      probabilities: True: a layer for each class of the model, in per cent.
      uncertainty: True: a layer with the entropy of the classes, in per cent of the largest possible one, log(classes).
      temperature: the logits are divided by it before they become probabilities; it changes no class.
    """

    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    predicted: int
    probabilities: bool
    uncertainty: bool
    temperature: float = 1.0

    @classmethod
    def of(cls, classes: Sequence[str], colours: Sequence[tuple[int, int, int]], probabilities: bool, uncertainty: bool,
           permanent: bool, temperature: float = 1.0) -> "Layers":
        """Returns the layers of a model with these classes; `permanent` adds the class of permanent water."""
        return cls((*classes, *[PERMANENT] * permanent), (*colours, *[_PERMANENT_COLOUR] * permanent), len(classes),
                   probabilities, uncertainty, temperature)

    @property
    def count(self) -> int:
        """Number of layers: the classes, the probabilities, the uncertainty."""
        return 1 + self.predicted * self.probabilities + self.uncertainty

    @property
    def wet(self) -> list[int]:
        """The classes of the model whose names speak of water or flood."""
        return [number for number, name in enumerate(self.classes[:self.predicted])
                if any(word in name.lower() for word in _WET)]

    def make(self, logits: np.ndarray, shown: np.ndarray, permanent: np.ndarray | None = None) -> np.ndarray:
        """Returns uint8 [layers, height, width].

        Args:
          logits: float32 [height, width, classes of the model].
          shown: bool [height, width], False for pixels without data.
          permanent: bool [height, width], True for permanent water; a class of `wet` there becomes permanent water.
        """
        best = logits.argmax(axis=-1)
        if permanent is not None:
            best = np.where(permanent & np.isin(best, self.wet), self.predicted, best)
        layers = [best]
        if self.probabilities or self.uncertainty:
            power = np.exp((logits - logits.max(axis=-1, keepdims=True)) / np.float32(self.temperature))
            share = power / power.sum(axis=-1, keepdims=True)
            if self.probabilities:
                layers += list(np.moveaxis(np.rint(100 * share), -1, 0))
            if self.uncertainty:
                entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(axis=-1)
                layers.append(np.rint(100 * entropy / np.log(max(2, self.predicted))))
        return np.where(shown, np.stack(layers), NO_DATA).astype(np.uint8)
