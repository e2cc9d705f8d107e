"""The shapes of records, without a data set."""

import dataclasses
from collections.abc import Sequence

from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import DatasetInfo, TensorInfo
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec, before, sensor


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Stands in for `Records` if there is no data set; tasks only read `info`."""

    info: DatasetInfo


def shapes(size: int, sensors: Sequence[str], classes: int, kind: str = "pixel_classes", two_dates: bool = False
           ) -> Shapes:
    """Returns the shapes of records with an image of each sensor, and with a label for tasks that have classes.

    Args:
      size: side of the images in pixels.
      sensors: names in `sensors.SENSORS`, at most one for each feature (one radar and one optical sensor).
      classes: of the label; 0 = no label, unless `kind` is 'number'.
      kind: of the label, as in `LabelSpec`.
      two_dates: with an image before a change beside each image.
    """
    specs: dict[str, SensorSpec] = {}
    for spec in map(sensor, sensors):
        if spec.feature in specs:
            raise UserError(f"'{specs[spec.feature].name}' and '{spec.name}' are both {spec.modality} images; give one "
                            "radar and one optical sensor")
        specs[spec.feature] = spec
    if two_dates:
        specs |= {before(feature): spec for feature, spec in specs.items()}
    tensors = {name: TensorInfo(spec.dtype, (size, size, len(spec.bands))) for name, spec in specs.items()}
    label = None
    if classes or kind == "number":
        label = LabelSpec(kind, tuple(f"class{number}" for number in range(classes)))
        tensors["label"] = TensorInfo(label.dtype, label.shape(size))
    return Shapes(DatasetInfo("shapes", "", "", specs, tensors, label, {}, {}, ""))
