"""The common form of SSL4EO-S12 v1.1 and TerraMesh: samples of many products, each a zarr zip, loose or in tar shards.

<raw>/{train,val}/<PRODUCT>/<file>.zarr.zip                 or
<raw>/{train,val}/<PRODUCT>/<shard>.tar, members <sample>.zarr.zip; the same shard and sample names in every product

Arrays of a zip: bands[(sample,) (time,) band, y, x], also [band, time, y, x]; band: names of the bands;
file_id[(sample,) time]: names of the source products; sample; center_lat, center_lon; cloud_mask in S2 products.
"""

import collections
import contextlib
import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.importers import Reject
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.zarr_zip import SUFFIX, ZarrZip, tar_members
from dual_encoder.errors import UserError
from dual_encoder.imagery.radiometry import db_to_int16
from dual_encoder.imagery.sensors import SensorSpec

SPLITS = {"train": "train", "val": "validation"}  # folder -> name of the split
PRODUCTS = {"s1_grd": "S1GRD", "s1_rtc": "S1RTC", "s2_l1c": "S2L1C", "s2_l2a": "S2L2A"}  # sensor -> folder
_CLOUD, _NO_DATA = (3, 4), 6  # codes of cloud_mask: 0 land, 1 water, 2 snow, 3 thin, 4 thick cloud, 5 shadow, 6 no data

Ref = list  # the place of a zip: [file relative to the raw folder, offset in it, size]; a whole file: 0, None


def split_folders(raw: pathlib.Path, products: Sequence[str]) -> list[str]:
    """Returns those of 'train' and 'val' that hold the last product; UserError if none holds all products."""
    if is_split(raw):
        raise UserError(f"'{raw}' holds the products of one split; --raw must name the folder above it, "
                        f"'{raw.absolute().parent}'")
    if not any(all((raw / split / product).is_dir() for product in products) for split in SPLITS):
        split = "val" if (raw / "val").is_dir() and not (raw / "train").is_dir() else "train"
        missing = next(raw / split / product for product in products if not (raw / split / product).is_dir())
        raise UserError(f"'{missing}' is missing; --raw must name the folder that holds train/ and val/ (or one of "
                        f"them), each with {' and '.join(products)}")
    return [split for split in SPLITS if (raw / split / products[-1]).is_dir()]


def is_split(raw: pathlib.Path) -> bool:
    """Returns True if products lie in `raw` itself: it is the 'train' or the 'val' folder."""
    return any(item.name.endswith((SUFFIX, ".tar")) for product in PRODUCTS.values() if (raw / product).is_dir()
               for item in (raw / product).iterdir())


def samples(raw: pathlib.Path, split: str, products: Sequence[str]) -> Iterator[tuple[str, list[Ref | None]] | Reject]:
    """Lists the zarr zips of the last product and those of the same name in the others.

    Args:
      raw: the folder that holds `split`.
      split: folder name.
      products: folder names.

    Yields:
      (name, one Ref per product, None if a product lacks it), file by file in the order of names, in a tar in its
      own order; a Reject for each damaged tar. Samples that the next product lacks are counted in a line.
    """
    folders = [f"{split}/{product}" for product in products]
    alone = collections.Counter[int]()  # number of a product -> its samples that the next product lacks
    beside = UnmatchedFiles(f"a name that ends in {SUFFIX} or .tar")
    for name in sorted(in_folder(raw, folders[-1], _is_container, beside)):
        if name.endswith(SUFFIX):
            yield name.removesuffix(SUFFIX), [[f"{folder}/{name}", 0, None] if (raw / folder / name).is_file() else None
                                              for folder in folders]
            continue
        shards: list[dict[str, Ref]] = []
        for folder in folders:
            shards.append({})
            try:
                if (raw / folder / name).is_file():
                    for member, offset, size in tar_members(raw / folder / name):
                        shards[-1][member] = [f"{folder}/{name}", offset, size]
            except UserError as error:
                yield Reject(f"{folder}/{name}", str(error))
        for member in shards[-1]:
            yield member, [shard.get(member) for shard in shards]
        for number, (shard, after) in enumerate(itertools.pairwise(shards)):
            alone[number] += len(shard.keys() - after.keys()) if after else 0
    for number, (folder, following) in enumerate(itertools.pairwise(folders)):
        if (raw / folder).is_dir():
            alone[number] += sum(_count(raw / folder / name) for name in in_folder(raw, folder, _is_container, beside)
                                 if not (raw / following / name).is_file())
        if alone[number]:
            what = ("radar images without an optical partner: "
                    if products[number].startswith("S1") and products[number + 1].startswith("S2") else "")
            print(f"left out {alone[number]} {what}zarr zips of {folder} that {following} lacks", flush=True)
    yield from beside.result()


def _is_container(name: str) -> bool:
    return name.endswith((SUFFIX, ".tar"))


def _count(path: pathlib.Path) -> int:
    """Returns the number of zarr zips that a file is or holds."""
    if path.suffix == ".tar":
        with contextlib.suppress(UserError):  # these samples are left out anyway
            return sum(1 for _ in tar_members(path))
    return int(path.name.endswith(SUFFIX))


def image(store: ZarrZip, index: Mapping[str, int], bands: Sequence[str]) -> np.ndarray:
    """Reads one date of `bands`, picked by name.

    Args:
      store: the zip.
      index: position by dimension, such as {'sample': 3, 'time': 1}; dimensions that the array lacks are ignored.
      bands: names, upper case.

    Returns:
      [y, x, band] in the stored dtype.

    Raises:
      UserError: a band is missing; other dimensions; a damaged file.
    """
    names = [str(name).upper() for name in store.read("band").reshape(-1)]
    if missing := [band for band in bands if band not in names]:
        raise UserError(f"{store} holds bands {' '.join(names)} and lacks {' '.join(missing)}; is it another product's "
                        "file?")
    array, dims = _at(store, "bands", index)
    if dims != ["band", "y", "x"]:
        raise UserError(f"{store}: one date of 'bands' has dimensions {' '.join(dims)}, expected band y x")
    return np.moveaxis(array[[names.index(band) for band in bands]], 0, -1)


def radar(store: ZarrZip, index: Mapping[str, int], spec: SensorSpec) -> np.ndarray:
    """Reads one radar image, stored as float dB with NaN or exactly 0 as no data; returns int16 [y, x, band]."""
    db = image(store, index, spec.bands)
    if db.dtype.kind != "f":
        raise UserError(f"{store}: radar is {db.dtype}, expected float dB; is it another product's file?")
    return db_to_int16(np.where(db == 0, np.nan, db))


def cloud_percent(store: ZarrZip, index: Mapping[str, int]) -> float:
    """Returns the percentage of thin and thick cloud among the pixels with data; NaN without a cloud_mask."""
    if "cloud_mask" not in store:
        return math.nan
    mask, _ = _at(store, "cloud_mask", index)
    data = mask != _NO_DATA
    return 100 * float(np.isin(mask, _CLOUD).sum() / data.sum()) if data.any() else math.nan


def _at(store: ZarrZip, array: str, index: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    """Returns array[index] and the names of the dimensions left."""
    dims: Any = store.dims(array)
    index = {name: at for name, at in index.items() if name in dims}
    return store.read(array, **index), [name for name in dims if name not in index]
