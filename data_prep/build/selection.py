"""The choice of records, and of the split of each."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping

from data_prep.pairing import DAY
from data_prep.record import Entry, Pair, Tile, gap, timed, unknown_times
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec

USUAL_DEGREES = 1.0  # side of a block
_SIDES = (USUAL_DEGREES, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
_SPLITS = ("train", "validation", "test")  # by area


@dataclasses.dataclass(frozen=True)
class Filters:
    """The limits that a record must keep; each is off at its default.

    Attributes:
      max_gap_days: most days between the images; a record whose times are unknown is unusable.
      min_valid: least share of pixels with data, in every image, 0..1.
      max_cloud: most cloud in percent, as the data set states it; a record without the figure is unusable.
      keep_unlabelled: take tiles without a labelled pixel, too.
    """

    max_gap_days: float = math.inf
    min_valid: float = 0.0
    max_cloud: float = 100.0
    keep_unlabelled: bool = False

    def __post_init__(self):
        for name, low, high in (("max_gap_days", 0, math.inf), ("min_valid", 0, 1), ("max_cloud", 0, 100)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"--{name.replace('_', '-')}={getattr(self, name)} must be between {low} and {high}")

    def to_text(self) -> str:
        """Returns the filters that are on, 'max_gap_days=3 min_valid=0.9'; '' if none is."""
        return " ".join(f"{field.name}={getattr(self, field.name):g}" for field in dataclasses.fields(self)
                        if getattr(self, field.name) != field.default)

    def refuse(self, item: Entry | Pair | Tile) -> str:
        """Returns why the time gap or the cloud rules out an entry or a record; '' if neither does, or is unknown."""
        seconds = gap(item.times)
        if seconds is not None and seconds / DAY > self.max_gap_days:
            images = " and ".join(feature.upper() for feature in timed(item.times))
            return f"{seconds / DAY:.2f} days between {images}, --max-gap-days={self.max_gap_days:g}"
        if item.cloud > self.max_cloud:
            return f"{item.cloud:.1f} % cloud, --max-cloud={self.max_cloud:g}"
        return ""

    def require_known(self, item: Pair | Tile) -> None:
        """Raises UserError if a filter that is on needs a fact that the record lacks."""
        if self.max_gap_days < math.inf and (gone := unknown_times(item.times)):
            raise UserError(f"record '{item.id}': acquisition time of {gone[0].upper()} is unknown, --max-gap-days "
                            "cannot be checked; drop the filter or add the time")
        if self.max_cloud < 100 and math.isnan(item.cloud):
            raise UserError(f"record '{item.id}': cloud is unknown, --max-cloud cannot be checked; drop the filter or "
                            "add the figure")

    def refuse_pixels(self, item: Pair | Tile, sensors: Mapping[str, SensorSpec]) -> str:
        """Returns why the pixels without data rule out a record; '' if they do not."""
        for feature, spec in sensors.items():
            image = item.images[feature]
            whole = spec.no_data is None or bool((image[..., 0] != spec.no_data).all())  # true of most; fast
            valid = 1.0 if whole else float(spec.holds_data(image).mean())
            if valid == 0:
                return f"no pixel of {feature} holds data"
            if valid < self.min_valid:
                return f"{valid:.1%} of the pixels of {feature} hold data, --min-valid={self.min_valid:g}"
        return ""


def area(item: Entry, degrees: float) -> str:
    """Returns the spatial block of an entry: its cell of `degrees` x `degrees`; its own block if that is unknown."""
    if math.isnan(item.lat) or math.isnan(item.lon):
        return item.block or item.location_id
    return f"{math.floor(item.lat / degrees)}_{math.floor(item.lon / degrees)}_{degrees:g}"


def hashed_split(block: str) -> str:
    """Returns 'train' (80 %), 'validation' (10 %) or 'test' (10 %) by a hash: no block is in two splits."""
    tenth = int.from_bytes(hashlib.sha256(block.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"


def fitting_degrees(entries: Iterable[Entry]) -> float | None:
    """Returns the largest side of blocks that gives each split two places or more; None if no side does.

    Retrieval needs two places, and the larger the blocks, the less do images at their borders resemble each other.
    """
    places: dict[tuple[float, str], set[str]] = {(side, split): set() for side in _SIDES for split in _SPLITS}
    for entry in entries:
        for side in _SIDES:
            found = places[side, hashed_split(area(entry, side))]
            if len(found) < 2:
                found.add(entry.location_id)
        if all(len(places[USUAL_DEGREES, split]) == 2 for split in _SPLITS):
            break
    return next((side for side in _SIDES if all(len(places[side, split]) == 2 for split in _SPLITS)), None)
