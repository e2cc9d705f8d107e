"""Small files that declare, or inflate to, more than a machine has. One for each format that can do it."""

import dataclasses
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable

import h5py
import numcodecs
import numpy as np
import pyarrow
import pyarrow.parquet
import rasterio

_ZEROS = bytes(2**20)


@dataclasses.dataclass(frozen=True)
class Bomb:
    """Replaces the file of a layout that matches `files`."""

    layout: str
    files: str
    name: str
    make: Callable[[bytes], bytes]


def _zeros_in_zip(name: str, header: bytes, megabytes: int, content: bytes) -> bytes:
    """Returns the zip with member `name` replaced by `header` and megabytes of zeros, deflated to a thousandth."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(_ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)  # after a full flush, blocks may be repeated
    packed = start + block * megabytes + packer.flush(zlib.Z_FINISH)
    crc = zlib.crc32(header)
    for _ in range(megabytes):
        crc = zlib.crc32(_ZEROS, crc)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if info.filename != name:
                new.writestr(info, old.read(info))
        marker = b"\xa5" * len(packed)
        new.writestr(zipfile.ZipInfo(name), marker)
    blob = bytearray(out.getvalue().replace(marker, packed))
    size = len(header) + megabytes * len(_ZEROS)
    local, central = blob.find(b"PK\3\4", blob.find(packed) - 40 - len(name)), blob.rfind(b"PK\1\2")
    for place, offset in ((local, 8), (central, 10)):
        struct.pack_into("<H", blob, place + offset, zipfile.ZIP_DEFLATED)
        struct.pack_into("<III", blob, place + offset + 6, crc, len(packed), size)
    return bytes(blob)


def _npz(content: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False,
                                                  "shape": (3, 2, 11000, 11000)})
    return _zeros_in_zip("s1.npy", header.getvalue(), 2770, content)


def _npz_ids(content: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<U1000000", "fortran_order": False, "shape": (700,)})
    return _zeros_in_zip("id.npy", header.getvalue(), 2671, content)


def _zarr(content: bytes) -> bytes:
    """A chunk of 1.6 GB of zeros, where the layout allows some 100 KB."""
    packed = numcodecs.Blosc("zstd", 3, 1).encode(np.zeros(1_600_000_000, np.uint8))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info, packed if info.filename.startswith("bands/0") else old.read(info))
    return out.getvalue()


def _zarr_in_tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for info in old.getmembers():
            inner = _zarr(old.extractfile(info).read())
            info.size = len(inner)
            new.addfile(info, io.BytesIO(inner))
    return out.getvalue()


def _sparse_tar(content: bytes) -> bytes:
    """The first member as a GNU sparse file of 8 GB."""
    with tarfile.open(fileobj=io.BytesIO(content)) as old:
        info = old.getmembers()[0]
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % 0
    header[386:410] = b"%011o\0%011o\0" % (2**33 - 1, 0)
    header[482:495] = b"\0" + b"%011o\0" % (2**33 - 1)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header) + content


def _parquet(content: bytes) -> bytes:
    """Every text and image cell the same 40 MB, stored once."""
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    rows = 100
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_binary(column.type) or pyarrow.types.is_string(column.type):
            value = pyarrow.array([b"x" * 40_000_000], pyarrow.binary()).cast(column.type)
            columns[name] = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, np.int32)), value)
        else:
            columns[name] = pyarrow.array([column[0].as_py()] * rows, column.type)
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, compression="zstd", dictionary_pagesize_limit=2**30,
                                store_schema=False)
    return out.getvalue()


def _hdf5(name: str) -> Callable[[bytes], bytes]:
    def make(content: bytes) -> bytes:
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as archive:
            old, dtype = archive[name].shape, archive[name].dtype
            del archive[name]
            shape = (old[0], old[1], 20000, 20000) if len(old) > 1 else (2**31,)
            archive.create_dataset(name, shape, dtype, compression="gzip", chunks=(1, 1, 500, 500) if len(old) > 1 else
                                   (2**16,))
        return file.getvalue()
    make.__name__ = f"hdf5 {name}"
    return make


def _png(content: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    side = 13000  # fewer pixels than Pillow takes for a bomb, in colour
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(3 * side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return content[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _tiff(content: bytes) -> bytes:
    with warnings.catch_warnings(), rasterio.MemoryFile(content) as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with memory.open() as file:
            profile = file.profile
    profile |= {"width": 60000, "height": 60000, "tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True,
                "compress": "deflate", "BIGTIFF": "YES"}
    with warnings.catch_warnings(), rasterio.MemoryFile() as memory:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with memory.open(**profile):
            pass
        return memory.read()


BOMBS = tuple(Bomb(layout, files, name, make) for layout, files, name, make in (
    ("npz", "*.npz", "images of 2.9 GB in 3 MB", _npz), ("npz", "*.npz", "ids of 2.8 GB in 3 MB", _npz_ids),
    ("SSL4EO-S12 v1.1 Zarr", "train/S2L2A/*.zip", "a chunk of 1.6 GB", _zarr),
    ("SSL4EO-S12 v1.1 tar", "val/S1GRD/*.tar", "a chunk of 1.6 GB", _zarr_in_tar),
    ("TerraMesh", "train/S2L2A/*.tar", "a chunk of 1.6 GB", _zarr_in_tar),
    ("TerraMesh", "train/S1RTC/*.tar", "a sparse member of 8 GB", _sparse_tar),
    ("Major TOM", "Core-S2L2A/images/*.parquet", "100 rows of 40 MB in each column", _parquet),
    ("Major TOM", "Core-S1RTC/metadata.parquet", "100 rows of 40 MB in each column", _parquet),
    ("BigEarthNet v2", "metadata.parquet", "100 rows of 40 MB in each column", _parquet),
    ("MMEarth", "*.h5", "sentinel2 of 20,000 x 20,000", _hdf5("sentinel2")),
    ("MMEarth", "*.h5", "sentinel1 of 20,000 x 20,000", _hdf5("sentinel1")),
    ("MMEarth", "*.h5", "2^31 rows", _hdf5("metadata")),
    ("So2Sat LCZ42", "training.h5", "sen2 of 20,000 x 20,000", _hdf5("sen2")),
    ("OMBRIA", "OmbriaS2/train/AFTER/*.png", "13,000 x 13,000", _png),
    ("Pairs of grey levels", "s2_rgb/*.png", "13,000 x 13,000", _png),
    *((layout, files, "60,000 x 60,000", _tiff) for layout, files in (
        ("GeoTIFF by table", "s2/0.tif"), ("GeoTIFF by name", "s1/*.tif"),
        ("BigEarthNet v2", "BigEarthNet-S2/*/*/*_B02.tif"),
        ("SEN12MS", "*/s2_1/*.tif"), ("DFC2020", "*/dfc_0/*.tif"),
        ("EuroSAT multispectral", "Forest/*.tif"),
        ("Sen1Floods11", "data/flood_events/HandLabeled/S1Hand/*.tif"),
        ("SSL4EO-S12 v1.0", "s2a/*/*/B2.tif")))))
