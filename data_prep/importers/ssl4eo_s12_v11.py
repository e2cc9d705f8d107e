"""SSL4EO-S12 v1.1: 246,144 places around cities, four dates each, all bands at 10 m (arXiv 2503.00168).

It was published twice, and both forms are read:

<raw>/{train,val}/{S1GRD,S2L1C,S2L2A}/ssl4eos12_shard_000001.tar           since February 2026
      members ssl4eos12_train_seasonal_data_0000001.zarr.zip, a place each: bands[time 4, band, y 264, x 264]
<raw>/{train,val}/{S1GRD,S2L1C,S2L2A}/ssl4eos12_train_seasonal_data_000001.zarr.zip       "Zarr", March 2025
      64 places each: bands[sample 64, time 4, band, y 264, x 264], one chunk per place and date

The dates of a place make pairs, nearest times first; a record is a Sentinel-2 image with its radar image.

Traps. (1) time_ of S1GRD was sorted while its pixels and file_id were not: times come from file_id alone. (2) S2 values
carry the +1000 offset in the Zarr form; the authors took it out of the tar form. Only the Zarr form has the dimension
'sample'. (3) S1 is float16 dB; 0 or NaN is no data. (4) The products need not list their places in one order.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping

from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers import _zarr_samples as zarr_samples
from data_prep.importers._zarr_samples import PRODUCTS, SPLITS, Ref
from data_prep.importers.ssl4eo_s12 import pair_dates
from data_prep.record import Pair
from data_prep.zarr_zip import ZarrZip
from dual_encoder.errors import UserError
from dual_encoder.imagery.radiometry import remove_s2_offset
from dual_encoder.imagery.s2_offset import OFFSET
from dual_encoder.imagery.sensors import sensor

SIZE = 264


class Importer:
    """Reads SSL4EO-S12 v1.1. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if kind != "pairs":
            raise no_such_kind("ssl4eo_s12_v11", kind, "build --kind=pairs or give --labels=water_weak")
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("s2_l2a", "s2_l1c")}, default=("s1", "s2"), size=SIZE, label=None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Blumenstiel et al. 2025, SSL4EO-S12 v1.1, arXiv 2503.00168; Wang et al. 2023, "
                                   "SSL4EO-S12, arXiv 2211.07044; contains modified Copernicus Sentinel data",
                    "notes": "places lie within about 50 km of large cities and many overlap; S1 GRD dB was rounded to "
                             "float16; bands of 20 m and 60 m repeated to 10 m; the +1000 offset of the Zarr form is "
                             "removed; cloud is the thin and thick cloud of the patch's own mask (SEnSeI v2)"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw = raw
        self._sensors = {feature: sensor(sensors[feature]) for feature in ("s1", "s2")}
        self._products = [PRODUCTS[spec.name] for spec in self._sensors.values()]
        self._folders = zarr_samples.split_folders(raw, self._products)
        # The dates of a place come one after another.
        self._open = functools.lru_cache(maxsize=2)(lambda file, *span: ZarrZip(raw / file, *span))

    def entries(self) -> Iterator[Entry | Reject]:
        for folder in self._folders:
            for found in zarr_samples.samples(self._raw, folder, self._products):
                if isinstance(found, Reject):
                    yield found
                    continue
                name, (ref1, ref2) = found
                if ref1 is None or ref2 is None:  # the first: `samples` lists the last product
                    yield Reject(f"{folder}/{name}", f"not in {folder}/{self._products[0]}")
                    continue
                try:
                    yield from self._places(SPLITS[folder], ref1, ref2)
                except UserError as error:
                    yield Reject(f"{folder}/{name}", str(error))

    def _places(self, split: str, ref1: Ref, ref2: Ref) -> Iterator[Entry | Reject]:
        s1, s2 = self._open(*ref1), self._open(*ref2)
        radar, centres = _dates(s1), [s2.read(name).reshape(-1) for name in ("center_lat", "center_lon")]
        dates = _dates(s2)
        if len(dates) != len(centres[0]) or len(dates) != len(centres[1]):
            raise UserError(f"{s2}: {len(dates)} places, {len(centres[0])} center_lat, {len(centres[1])} center_lon; "
                            "it looks damaged, fetch it again")
        for place in sorted(radar.keys() - dates.keys()):
            yield from (found for found in pair_dates(place, radar[place], []) if isinstance(found, Reject))
        for (place, optical), lat, lon in zip(dates.items(), *centres, strict=True):
            for found in pair_dates(place, radar.get(place, []), optical):
                if isinstance(found, Reject):
                    yield found
                    continue
                (s1_time, s1_index), (s2_time, s2_index) = found
                where = {"s1": ref1, "s2": ref2, "s1_index": s1_index, "s2_index": s2_index}
                yield Entry(f"{place}_{s2_index['time']}", place, split, where, lat=float(lat), lon=float(lon),
                            times={"s1": s1_time, "s2": s2_time})

    def read(self, entry: Entry) -> Pair:
        s1, s2 = self._open(*entry.where["s1"]), self._open(*entry.where["s2"])
        index = entry.where["s2_index"]
        offset = OFFSET if "sample" in index else 0
        images = {"s1": zarr_samples.radar(s1, entry.where["s1_index"], self._sensors["s1"]),
                  "s2": remove_s2_offset(zarr_samples.image(s2, index, self._sensors["s2"].bands), offset)}
        return Pair.of(entry, images=images, source="SSL4EO-S12 v1.1", s2_offset_removed=offset,
                       cloud=zarr_samples.cloud_percent(s2, index))


def _dates(store: ZarrZip) -> dict[str, list[tuple[str, dict[str, int]]]]:
    """Place -> (product name, position in the store's arrays) of each date."""
    many = "sample" in store.dims("bands")
    places = [str(place) for place in store.read("sample").reshape(-1)]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise UserError(f"{store} names the place '{twice}' twice in 'sample'; expected each once, fetch it again")
    file_ids = store.read("file_id")
    if not places or file_ids.size % len(places):
        raise UserError(f"{store}: {file_ids.size} file_id for {len(places)} places; it looks damaged, fetch it again")
    file_ids = file_ids.reshape(len(places), -1)
    return {place: [(str(file_id), ({"sample": number} if many else {}) | {"time": time})
                         for time, file_id in enumerate(row)]
            for number, (place, row) in enumerate(zip(places, file_ids, strict=True))}
