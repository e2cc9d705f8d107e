"""A small raw data set of every layout of every importer: two or three records with plausible values."""

import dataclasses
import json
import pathlib
import warnings
from collections.abc import Callable, Iterable

import h5py
import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
import rasterio
import safetensors.numpy
from PIL import Image

from dual_encoder.imagery.sensors import SENSORS
from tests.data_prep.zarr_writing import write_tar, zarr_zip

L2A, L1C = SENSORS["s2_l2a"].bands, SENSORS["s2_l1c"].bands
_COARSE = {"B01": 6, "B09": 6, "B10": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)
_PLACE = rasterio.Affine(10, 0, 600000, 0, -10, 5200000)
_S1_NAMES = ("S1A_IW_GRDH_1SDV_20200510T174031_20200510T174056_032506_03C3BC_30A2",
             "S1B_IW_GRDH_1SDV_20200808T174006_20200808T174031_022835_02B578_CC7B",
             "S1B_IW_GRDH_1SDV_20201109T060646_20201109T060711_024192_02DFBC_9C77",
             "S1A_IW_GRDH_1SDV_20210210T174036_20210210T174101_036531_044A3A_3DC8")
_S2_NAMES = ("20200507T052649_20200507T053037_T44RKT", "20200811T052649_20200811T053037_T44RKT",
             "20201105T053021_20201105T053023_T44RKT", "20210203T053021_20210203T053023_T44RKT")
_PATCHES = ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57", "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_27_58")


@dataclasses.dataclass(frozen=True)
class RawSet:
    """A raw data set and the way to build it.

    Attributes:
      name: of the layout.
      write: writes the files into a folder that exists.
      importer: its name.
      options: further options of `python -m data_prep build`.
    """

    name: str
    write: Callable[[pathlib.Path], None]
    importer: str
    options: tuple[str, ...] = ()


def decibels(size: int, seed: int = 0) -> np.ndarray:
    """Returns VV and VH of a smooth landscape with speckle: float32 [2, size, size], dB."""
    vv = -11 + 3 * _smooth(size, seed) + np.random.default_rng(seed).normal(0, 0.8, (size, size))
    return np.stack([vv, vv - 6.5 - _smooth(size, seed + 9)]).astype(np.float32)


def reflectance(bands: Iterable[str], size: int, seed: int = 0) -> np.ndarray:
    """Returns a smooth landscape without offset: uint16 [bands, size, size], reflectance x 10000."""
    noise = np.random.default_rng(seed)
    return np.stack([900 + 150 * i + 350 * _smooth(size, seed + 3) + noise.normal(0, 40, (size, size))
                     for i, _ in enumerate(bands)]).clip(60, 9000).astype(np.uint16)


def _smooth(size: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(100 + seed).normal(0, 1, (9, 9))
    return np.kron(coarse, np.ones((-(-size // 9),) * 2))[:size, :size]


def _tif(path: pathlib.Path, values: np.ndarray, crs: str = "EPSG:32632", transform: rasterio.Affine | None = _PLACE,
         **profile: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
                           dtype=values.dtype, crs=crs, transform=transform, **profile) as file:
            file.write(values)


def _memory_tif(values: np.ndarray, pixel: float) -> bytes:
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=values.shape[0], width=values.shape[1], dtype=values.dtype,
                         crs="EPSG:32724", transform=rasterio.Affine(pixel, 0, 207800, 0, -pixel, 8917000)) as file:
            file.write(values, 1)
        return memory.read()


def _native(stack: np.ndarray, bands: Iterable[str]) -> dict[str, np.ndarray]:
    """Band -> pixels of its native resolution, from a stack that is all in 10 m."""
    return {band: np.ascontiguousarray(image[::_COARSE.get(band, 1), ::_COARSE.get(band, 1)])
            for band, image in zip(bands, stack, strict=True)}


# npz

def _npz(raw: pathlib.Path, save=np.savez, size: int = 16, **more: object) -> None:
    save(raw / "own.npz", **{
        "id": np.array(["a", "b", "c"]), "s1": np.stack([decibels(size, i) for i in range(3)]),
        "s1_bands": np.array(["VV", "VH"]), "s2": np.stack([reflectance(L2A, size, i) for i in range(3)]),
        "s2_bands": np.array(L2A), "split": np.array(["train", "train", "test"]), "lat": np.array([1.5, 2.5, 3.5]),
        "lon": np.array([1.5, 2.5, 3.5]), "s1_time": np.array([1591552800] * 3),
        "s2_time": np.array([1591552900] * 3)} | more)


def _npz_tiles(raw: pathlib.Path) -> None:
    _npz(raw, np.savez_compressed, label=(np.indices((3, 16, 16))[2] > 7).astype(np.uint8),
         classes=np.array(["land", "water"]))


# GeoTIFF

def _geotiff_table(raw: pathlib.Path, size: int = 24) -> None:
    rows = ["s1,s2,s1_time,s2_time,label,id,location_id,split,lat,lon"]
    for i, split in enumerate(("train", "train", "test")):
        _tif(raw / f"s1/{i}.tif", decibels(size, i))
        _tif(raw / f"s2/{i}.tif", reflectance(L2A, size, i))
        _tif(raw / f"label/{i}.tif", (np.indices((1, size, size))[1] > 9).astype(np.uint8))
        rows.append(f"s1/{i}.tif,s2/{i}.tif,2020-06-07T18:01:00Z,2020-06-04T10:10:31Z,label/{i}.tif,n{i},p{i},"
                    f"{split},4{i}.5,{i}.5")
    (raw / "pairs.csv").write_text("\n".join(rows) + "\n")
    _describe(raw, size)


def _geotiff_names(raw: pathlib.Path, size: int = 24) -> None:
    for i in range(2):
        _tif(raw / f"s1/lagos{i}_20200607T180100.tif", decibels(size, i), compress="deflate", tiled=True, blockxsize=16,
             blockysize=16)
        _tif(raw / f"s2/lagos{i}_20200604T101031.tif", reflectance(L2A, size, i), compress="lzw", predictor=2)
        _tif(raw / f"label/lagos{i}.tif", (np.indices((1, size, size))[1] > 9).astype(np.uint8), compress="deflate")
    _describe(raw, size, s1="s1/{place}_{date}.tif", s2="s2/{place}_{date}.tif", label="label/{place}.tif")


def geotiff_image_labels(raw: pathlib.Path, images: int = 3, size: int = 24) -> None:
    """Writes pairs of images with several classes each; the last one is in the test split."""
    rows = ["s1,s2,id,split,label"]
    for i in range(images):
        _tif(raw / f"s1/{i}.tif", decibels(size, i))
        _tif(raw / f"s2/{i}.tif", reflectance(L2A, size, i))
        rows.append(f"s1/{i}.tif,s2/{i}.tif,n{i},{'train' if i < images - 1 else 'test'},"
                    f"{('forest;river', 'river', 'forest', '')[i % 4]}")
    (raw / "pairs.csv").write_text("\n".join(rows) + "\n")
    _describe(raw, size)
    said = json.loads((raw / "geotiff.json").read_text())
    said["label"] = {"kind": "image_classes", "table": "pairs.csv", "classes": ["forest", "river"]}
    (raw / "geotiff.json").write_text(json.dumps(said))


def _describe(raw: pathlib.Path, size: int, **files: str) -> None:
    sections = {"s1": {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"},
                "s2": {"bands": list(L2A), "level": "l2a", "offset": 0},
                "label": {"classes": {"land": 0, "water": 1}, "ignore": [255]}}
    for feature, pattern in files.items():
        sections[feature]["files"] = pattern
    (raw / "geotiff.json").write_text(json.dumps({"size": size} | sections | {"licence": "none"}))


# BigEarthNet

def _s1_patch(patch: str, number: int) -> str:
    row, column = patch.rsplit("_", 2)[1:]
    return f"S1A_IW_GRDH_1SDV_20170612T165043_33UUP_{row}_{column}"


def _archive(raw: pathlib.Path) -> None:
    for i, patch in enumerate(_PATCHES):
        scene, s1_name = patch.rsplit("_", 2)[0], _s1_patch(patch, i)
        for band, image in zip(("VV", "VH"), decibels(120, i), strict=True):
            _tif(raw / f"BigEarthNet-S1/{s1_name.rsplit('_', 3)[0]}/{s1_name}/{s1_name}_{band}.tif", image[None])
        for band, image in _native(reflectance(L2A, 120, i), L2A).items():
            _tif(raw / f"BigEarthNet-S2/{scene}/{patch}/{patch}_{band}.tif", image[None])
        _tif(raw / f"Reference_Maps/{scene}/{patch}/{patch}_reference_map.tif",
             np.where(np.indices((1, 120, 120))[1] > 60, 211, 512).astype(np.uint16))
    _metadata(raw)


def _metadata(folder: pathlib.Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({
        "patch_id": list(_PATCHES), "labels": [["Arable land"], ["Pastures", "Inland waters"]],
        "split": ["train", "test"],
        "s1_name": [_s1_patch(patch, i) for i, patch in enumerate(_PATCHES)]}), folder / "metadata.parquet")


def _archive_v1(raw: pathlib.Path) -> None:
    rows = []
    for i in range(3):
        patch = f"S2A_MSIL2A_20170613T101031_{26 + i}_57"
        s1_name = f"S1A_IW_GRDH_1SDV_20170612T165043_33UUP_{26 + i}_57"
        for band, image in zip(("VV", "VH"), decibels(120, i), strict=True):
            _tif(raw / f"BigEarthNet-S1-v1.0/{s1_name}/{s1_name}_{band}.tif", image[None])
        for band, image in _native(reflectance(L2A, 120, i), L2A).items():
            _tif(raw / f"BigEarthNet-v1.0/{patch}/{patch}_{band}.tif", image[None])
        (raw / f"BigEarthNet-v1.0/{patch}/{patch}_labels_metadata.json").write_text(json.dumps(
            {"labels": ["Pastures", "Mixed forest"][:1 + i % 2], "projection": "EPSG:32633"}))
        rows.append(f"{patch},{s1_name}")
    for split, row in zip(("train", "val", "test"), rows, strict=True):
        (raw / f"{split}.csv").write_text(row + "\n")


def _lmdb(folder: pathlib.Path) -> None:
    store = folder / "BigEarthNet-V2-LMDB"
    store.mkdir(parents=True)
    with lmdb.open(str(store), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for i, patch in enumerate(_PATCHES):
            vv, vh = decibels(120, i)
            transaction.put(_s1_patch(patch, i).encode(), safetensors.numpy.save({"VH": vh, "VV": vv}))
            transaction.put(patch.encode(), safetensors.numpy.save(_native(reflectance(L2A, 120, i), L2A)))
    (store / "lock.mdb").unlink()


def _lmdb_parquet(raw: pathlib.Path) -> None:
    _lmdb(raw / "BENv2")
    _metadata(raw / "BENv2")


def _lmdb_csv(raw: pathlib.Path) -> None:
    folder = raw / "BENv2"
    _lmdb(folder)
    for what, column, values in (("s1", "s1_name", [_s1_patch(patch, i) for i, patch in enumerate(_PATCHES)]),
                                 ("split", "split", ["train", "test"]),
                                 ("label", "label", ["Arable land", "Pastures"])):
        lines = [f"patch_id,{column}", *(f"{patch},{value}" for patch, value in zip(_PATCHES, values, strict=True))]
        (folder / f"patch_id_{what}_mapping.csv").write_text("\n".join(lines) + "\n")


# SEN12MS, SEN12MS-CR, DFC2020

def _patch(path: pathlib.Path, layer: str, i: int, **profile: object) -> None:
    half = np.indices((1, 256, 256))[1] > 100
    values = {"s1": decibels(256, i), "s2": reflectance(L1C, 256, i), "s2_cloudfree": reflectance(L1C, 256, i),
              "lc": np.where(half, 10, 17).repeat(4, 0).astype(np.uint8),
              "dfc": np.where(half, 5, 10).astype(np.uint8)}[layer]
    _tif(path, values, **profile)


def _sen12ms(raw: pathlib.Path) -> None:
    for i in range(2):
        for layer in ("s1", "s2", "lc"):
            _patch(raw / f"ROIs1158_spring/{layer}_{i + 1}/ROIs1158_spring_{layer}_{i + 1}_p3{i}.tif", layer, i)


def _sen12ms_cr(raw: pathlib.Path) -> None:
    for i in range(2):
        for folder in ("s1", "s2_cloudfree"):
            _patch(raw / folder / f"ROIs1970_fall_13{i}_p839.tif", folder, i)


def dfc2020(raw: pathlib.Path, patches: int = 1) -> None:
    """Writes `patches` of the validation set, and one of the test set."""
    for season, scene, count in (("ROIs0000_validation", "validation", patches), ("ROIs0000_test", "0", 1)):
        for i in range(count):
            for layer in ("s1", "s2", "dfc"):
                _patch(raw / f"{season}/{layer}_{scene}/{season}_{layer}_0_p{i}.tif", layer, len(scene) + i,
                       crs="EPSG:4326", transform=None)


def _dfc2020_lists(raw: pathlib.Path) -> None:
    for i, split in enumerate(("train", "val", "test")):
        for layer in ("s1", "s2", "dfc"):
            _patch(raw / f"dfc2020_s1s2/{layer}/ROIs0000_test_{layer}_0_p{i}.tif", layer, i, crs="EPSG:4326",
                   transform=None)
        (raw / f"dfc2020_s1s2/dfc-{split}-new.csv").write_text(f"ROIs0000_test_dfc_0_p{i}.tif\n")


# Sen1Floods11, OMBRIA

def sen1floods11(raw: pathlib.Path, chips: Iterable[tuple[str, str]] = (("Spain_7370579", "train"),
                                                                        ("Ghana_53713", "valid"))) -> None:
    """Writes (chip, split) of Sen1Floods11."""
    for i, (chip, split) in enumerate(chips):
        hand = raw / "data/flood_events/HandLabeled"
        place = {"crs": "EPSG:4326", "transform": rasterio.Affine(9e-5, 0, i, 0, -9e-5, 38)}
        _tif(hand / f"S1Hand/{chip}_S1Hand.tif", decibels(512, i), **place)
        _tif(hand / f"LabelHand/{chip}_LabelHand.tif", (np.indices((1, 512, 512))[1] > 100).astype(np.int16) - (i == 0),
             **place)
        table = raw / f"splits/flood_handlabeled/flood_{split}_data.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with open(table, "a") as file:
            file.write(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")


def _ombria(raw: pathlib.Path) -> None:
    for split in ("train", "test"):
        for when in ("BEFORE", "AFTER", "MASK"):
            for sensor in ("S1", "S2") if when != "MASK" else ("S1",):
                path = raw / f"Ombria{sensor}/{split}/{when}/{sensor}_{when.lower()}_0001.png"
                path.parent.mkdir(parents=True)
                grey = ((decibels(256, len(split))[0] + 25) * 10).clip(1, 254).astype(np.uint8)
                pixels = np.stack([grey, 255 - grey, grey // 2], -1) if sensor == "S2" else (
                    grey if when != "MASK" else np.where(grey > 140, 255, 0).astype(np.uint8))
                Image.fromarray(pixels).save(path)


# Folders of images

def _grey(size: int, i: int) -> np.ndarray:
    return ((decibels(size, i)[0] + 25) * 10).clip(1, 254).astype(np.uint8)


def eurosat_rgb(raw: pathlib.Path, images: int = 2) -> None:
    """Writes `images` of three classes each; the last one is in the test split."""
    rows = ["id,split"]
    for folder in ("AnnualCrop", "Forest", "River"):
        (raw / folder).mkdir()
        for i in range(1, images + 1):
            Image.fromarray(np.stack([_grey(64, i)] * 3, -1)).save(raw / folder / f"{folder}_{i}.jpg")
            rows.append(f"{folder}/{folder}_{i},{'train' if i < images else 'test'}")
    (raw / "images.csv").write_text("\n".join(rows) + "\n")


def _eurosat_ms(raw: pathlib.Path) -> None:
    for i, folder in enumerate(("AnnualCrop", "Forest")):
        image = reflectance(L1C, 64, i)
        _tif(raw / folder / f"{folder}_{i}.tif", np.concatenate([np.delete(image, 8, 0), image[8:9]]))  # B8A last
    (raw / "images.csv").write_text("id,split,lat,lon\nAnnualCrop/AnnualCrop_0,train,1.5,2.5\nForest/Forest_1,test,,\n")


def _grey_pairs(raw: pathlib.Path) -> None:
    for i in range(2):
        colour = np.stack([_grey(64, i + 5)] * 3, -1)
        for file, pixels in ((f"s1_vh/{i}.jpg", _grey(64, i)), (f"s2_rgb/{i}.png", colour)):
            (raw / file).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(raw / file)


# SSL4EO-S12

def _ssl4eo(raw: pathlib.Path) -> None:
    for i in range(2):
        for band, image in zip(("VV", "VH"), decibels(264, i), strict=True):
            _tif(raw / f"s1/0000007/{_S1_NAMES[i]}/{band}.tif", image[None])
        for band, image in _native(reflectance(L2A, 264, i), L2A).items():
            _tif(raw / f"s2a/0000007/{_S2_NAMES[i]}/{band.replace('B0', 'B')}.tif", image[None])
        for folder, name in (("s1", _S1_NAMES[i]), ("s2a", _S2_NAMES[i])):
            (raw / folder / "0000007" / name / "metadata.json").write_text(json.dumps(
                {"id": name, "properties": {"CLOUDY_PIXEL_PERCENTAGE": 4.2, "system:time_start": 1588829209000}}))


def _v11(product: str, places: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], object]]:
    """Arrays of a file of SSL4EO-S12 v1.1 in the Zarr form."""
    ids, bands = (_S1_NAMES, ("vv", "vh")) if product == "S1GRD" else (_S2_NAMES, L2A)
    images = [[(decibels(264, 4 * p + t) if product == "S1GRD" else reflectance(L2A, 264, 4 * p + t) + 1000)
               for t in range(4)] for p in range(len(places))]
    arrays = {"band": (("band",), np.array(bands)), "sample": (("sample",), np.array(places)),
              "center_lat": (("sample",), [42.5] * len(places)), "center_lon": (("sample",), [125.5] * len(places)),
              "crs": (("sample",), [32651] * len(places)), "file_id": (("sample", "time"),
                                                                       np.array([ids] * len(places))),
              "time_": (("sample", "time"), np.arange(4 * len(places)).reshape(-1, 4) + 10**18),
              "bands": (("sample", "time", "band", "y", "x"),
                        np.array(images).astype("f2" if product == "S1GRD" else "i2"))}
    if product != "S1GRD":
        arrays["cloud_mask"] = ("sample", "time", "y", "x"), np.zeros((len(places), 4, 264, 264), np.uint8)
    return arrays


def _ssl4eo_v11_zarr(raw: pathlib.Path) -> None:
    for product in ("S1GRD", "S2L2A"):
        path = raw / f"train/{product}/ssl4eos12_train_seasonal_data_000001.zarr.zip"
        path.parent.mkdir(parents=True)
        arrays = _v11(product, ("0080717",))
        path.write_bytes(zarr_zip(arrays, {"bands": (1, 1, *arrays["bands"][1].shape[2:]),
                                           "cloud_mask": (1, 1, 264, 264)}))


def _ssl4eo_v11_tar(raw: pathlib.Path) -> None:
    for product in ("S1GRD", "S2L2A"):
        arrays = {name: (dims[1:], np.asarray(values)[0]) if dims[0] == "sample" else (dims, values)
                  for name, (dims, values) in _v11(product, ("0060573",)).items()}
        if product != "S1GRD":
            arrays["bands"] = arrays["bands"][0], arrays["bands"][1] - 1000  # no offset in this form
        write_tar(raw / f"val/{product}/ssl4eos12_shard_000001.tar",
                  {"ssl4eos12_val_seasonal_data_0000000": zarr_zip(arrays)})


# TerraMesh

def terramesh(raw: pathlib.Path, split: str = "train") -> None:
    """Writes a shard of two samples of 'train' or 'val'."""
    for product, bands, dtype in (("S1RTC", ("vv", "vh"), "f2"), ("S2L2A", L2A, "i2"), ("LULC", ("LULC",), "u1")):
        members = {}
        for i in range(2):
            values = {"S1RTC": decibels(264, i), "S2L2A": reflectance(L2A, 264, i),
                      "LULC": 1 + (np.indices((1, 264, 264))[1] > 99)}[product].astype(dtype)[None]
            file_id = _S1_NAMES[i] if product == "S1RTC" else _S2_NAMES[i]
            arrays = {"bands": (("time", "band", "y", "x"), values), "band": (("band",), np.array(bands)),
                      "sample": ((), f"tile{i}"),
                      "time": (("time",), [0]), "center_lat": ((), -25.5), "center_lon": ((), -48.25),
                      "file_id": (("time",), np.array([file_id]))}
            if product == "S2L2A":
                arrays["cloud_mask"] = ("time", "y", "x"), np.zeros((1, 264, 264), np.uint8)
            units = {"units": "days since 2020-05-03 02:07:17"}
            members[f"majortom_{split}_100{i}"] = zarr_zip(arrays, attributes={"time": units})
        write_tar(raw / f"{split}/{product}/majortom_shard_000001.tar", members)


# Major TOM: `SIZE` of the importer is 1068; `trial.py` sets it to this

MAJORTOM_SIZE = 60


def _majortom(raw: pathlib.Path) -> None:
    products = {"Core-S1RTC": "S1A_IW_GRDH_1SDV_20230820T084501_20230820T084526_049950_0601F2_rtc",
                "Core-S2L2A": "S2B_MSIL2A_20230824T131249_N0509_R138_T24LTQ_20230824T200728"}
    for source, product in products.items():
        (raw / source / "images").mkdir(parents=True)
        rows, table = [], []
        for i in range(2):
            power = 10 ** (decibels(MAJORTOM_SIZE, i) / 10)
            bands = ({band: _memory_tif(image, 10) for band, image in zip(("vv", "vh"), power,
                                                                          strict=True)} if "S1" in source else
                     {band: _memory_tif(image + np.uint16(1000), 10 * _COARSE.get(band, 1))
                      for band, image in _native(reflectance(L2A, MAJORTOM_SIZE, i), L2A).items()})
            rows.append({"product_id": product, "grid_cell": f"11{i}D_457L"} | bands)
            table.append({"grid_cell": f"11{i}D_457L", "product_id": product, "crs": "EPSG:EPSG:32724",
                          "timestamp": "20230824T131249",
                          "centre_lat": -9.8, "centre_lon": -41.6, "parquet_row": i,
                          "parquet_url": f"https://hub/{source}/images/part_00001.parquet"}
                         | ({"cloud_cover": 3.5} if "S2" in source else {}))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), raw / source / "images/part_00001.parquet",
                                    row_group_size=1)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), raw / source / "metadata.parquet")


# MMEarth

def _mmearth(raw: pathlib.Path, size: int = 64) -> None:
    s2_names = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B11", "B12", "MSK_CLDPRB", "SCL", "QA60"]
    info = {}
    with h5py.File(raw / "data_1M_v001.h5", "w") as file:
        s2 = file.create_dataset("sentinel2", (3, 13, size, size), "u2", compression="gzip", chunks=(1, 13, size, size))
        s1 = file.create_dataset("sentinel1", (3, 8, size, size), "f4", compression="gzip", chunks=(1, 8, size, size))
        table = file.create_dataset("metadata", (3,), [("tile_id", "S100"), ("S2_type", "S10")], compression="gzip",
                                    chunks=(1,))
        for row in range(3):
            s2[row] = reflectance(L1C, size, row)
            s2[row, 10] = 0
            s1[row] = np.concatenate([decibels(size, row), np.full((6, size, size), -np.inf, np.float32)])
            table[row] = f"tile_{row}", "l2a"
            info[f"tile_{row}"] = {"S2_DATE": f"2019-07-{row + 1:02d}", "CRS": "EPSG:32630", "S2_type": "l2a",
                                   "lat": 40 + row, "lon": -3.5,
                                   "BANDS": {"sentinel2": s2_names, "sentinel1_asc": ["VV", "VH"],
                                             "sentinel1_desc": None}}
    (raw / "data_1M_v001_tile_info.json").write_text(json.dumps(info))
    (raw / "data_1M_v001_splits.json").write_text(json.dumps({"train": [2, 0], "val": [1], "test": []}))


# So2Sat

def so2sat(raw: pathlib.Path, patches: int = 2) -> None:
    """Writes `patches` to learn from, of two classes, and one to test on."""
    bands = SENSORS["so2sat_s2"].bands
    for split, count in (("training", patches), ("testing", 1)):
        with h5py.File(raw / f"{split}.h5", "w") as file:
            power = 10 ** (np.stack([decibels(32, i) for i in range(count)]).astype(float) / 10)
            sen1 = np.zeros((count, 32, 32, 8))
            sen1[..., 5], sen1[..., 4] = power[:, 0], power[:, 1]
            file["sen1"] = sen1
            file["sen2"] = np.stack([np.moveaxis(reflectance(bands, 32, i), 0, -1) for i in range(count)]) / 1e4
            file["label"] = np.eye(17)[np.arange(count) % 2]


RAW_SETS = (
    RawSet("npz", _npz, "npz"), RawSet("npz tiles", _npz_tiles, "npz", ("--kind=tiles",)),
    RawSet("GeoTIFF by table", _geotiff_table, "geotiff", ("--kind=tiles",)),
    RawSet("GeoTIFF by name", _geotiff_names, "geotiff"),
    RawSet("GeoTIFF, labels of images", geotiff_image_labels, "geotiff", ("--kind=tiles",)),
    RawSet("BigEarthNet v2", _archive, "bigearthnet", ("--kind=tiles",)),
    RawSet("BigEarthNet v1", _archive_v1, "bigearthnet", ("--labels=land_cover_43",)),
    RawSet("BigEarthNet LMDB", _lmdb_parquet, "bigearthnet"),
    RawSet("BigEarthNet LMDB, CSV", _lmdb_csv, "bigearthnet", ("--labels=land_cover",)),
    RawSet("SEN12MS", _sen12ms, "sen12ms", ("--kind=tiles",)), RawSet("SEN12MS-CR", _sen12ms_cr, "sen12ms_cr"),
    RawSet("DFC2020", dfc2020, "dfc2020", ("--kind=tiles",)),
    RawSet("DFC2020 lists", _dfc2020_lists, "dfc2020", ("--kind=tiles",)),
    RawSet("Sen1Floods11", sen1floods11, "sen1floods11", ("--kind=tiles",)),
    RawSet("OMBRIA", _ombria, "ombria", ("--kind=tiles",)),
    RawSet("EuroSAT RGB", eurosat_rgb, "image_folders", ("--kind=tiles",)),
    RawSet("EuroSAT multispectral", _eurosat_ms, "image_folders", ("--kind=tiles",)),
    RawSet("Pairs of grey levels", _grey_pairs, "image_folders"),
    RawSet("SSL4EO-S12 v1.0", _ssl4eo, "ssl4eo_s12"), RawSet("SSL4EO-S12 v1.1 Zarr", _ssl4eo_v11_zarr,
                                                             "ssl4eo_s12_v11"),
    RawSet("SSL4EO-S12 v1.1 tar", _ssl4eo_v11_tar, "ssl4eo_s12_v11"),
    RawSet("TerraMesh", terramesh, "terramesh", ("--kind=tiles",)),
    RawSet("Major TOM", _majortom, "majortom"), RawSet("MMEarth", _mmearth, "mmearth"),
    RawSet("So2Sat LCZ42", so2sat, "so2sat", ("--kind=tiles",)),
)


def folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of every layout below `folder`."""
    return {raw_set.name: folder / raw_set.name.replace(" ", "_").replace(",", "") for raw_set in RAW_SETS}


def write_all(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes every raw data set into a folder of its own below `folder`; returns name -> folder."""
    for raw_set in RAW_SETS:
        raw = folders(folder)[raw_set.name]
        raw.mkdir(parents=True)
        raw_set.write(raw)
    return folders(folder)
