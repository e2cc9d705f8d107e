"""What records look like, without a data set."""

import dataclasses
from collections.abc import Sequence

from dual_encoder.data.manifest import DatasetInfo, TensorInfo
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import sensor


@dataclasses.dataclass(frozen=True)
class Shapes:
    """In place of `Records` where there is no data: all that a task asks of them here is `info`."""

    info: DatasetInfo


def shapes(size: int, sensors: Sequence[str], classes: int) -> Shapes:
    """Returns what records of one radar and one optical image, and a label for tasks that have classes, look like.

    Args:
      size: side of the images in pixels.
      sensors: names in `sensors.SENSORS`, at most one radar and one optical.
      classes: of the label; 0 has no label.
    """
    specs = {}
    for spec in map(sensor, sensors):
        feature = "s1" if spec.modality == "sar" else "s2"
        if feature in specs:
            raise UserError(f"'{specs[feature].name}' and '{spec.name}' are both {spec.modality} images; give one "
                            "radar and one optical sensor")
        specs[feature] = spec
    tensors = {name: TensorInfo(spec.dtype, (size, size, len(spec.bands))) for name, spec in specs.items()}
    if classes:
        tensors["label"] = TensorInfo("uint8", (size, size))
    names = tuple(f"class{number}" for number in range(classes))
    return Shapes(DatasetInfo("shapes", "", "", specs, tensors, names, {}, {}, ""))
