"""Measures how fast shards are built from GeoTIFFs, how the time is divided, and whether memory stays constant.

Method. The raw folders are a BigEarthNet v2 archive (120 px) and an SSL4EO-S12 v1.0 archive (264 px) in their exact
layouts (14 files per pair, uncompressed, native resolution). They contain a few different patches of random pixels, in
two ways:
  from disk     each pair has its own files; before each build their pages are dropped from the page cache, as in an
                archive that is larger than memory;
  from memory   each pair is a hard link to one of the few patches: reading does not use the disk.
1. Workers: `python -m data_prep build` with 1 and with 2 processes, in turns, each the best of --repeats. The ratio is
   that of the rates by the build's own clock, which starts after Python has started and the imports are done.
2. Profile: the build prints how its own time is divided: 'read' is Importer.read (raw files to stored integers),
   'check' and 'write' are the rest. Another build in one process under cProfile gives the share of `raster.read`.
3. Memory: builds of 2,000 and of 20,000 small pairs (own GeoTIFFs of 32 px, hard links). The figure is the largest
   resident set of the command and its workers, counted by the kernel (ru_maxrss of the children).

    python benchmarks/build.py [--pairs=2000] [--repeats=2] [--skip-memory]
"""

import argparse
import contextlib
import cProfile
import io
import json
import os
import pathlib
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import pyarrow
import pyarrow.parquet
import rasterio

ROOT = pathlib.Path(__file__).parent.parent
COARSE = {"B01": 6, "B09": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
UNIQUE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for importer, size, write in (("bigearthnet", 120, write_bigearthnet), ("ssl4eo_s12", 264, write_ssl4eo)):
            for place, place_file in (("disk", shutil.copyfile), ("memory", os.link)):
                write(folder / "raw", options.pairs, place_file)
                speed(folder, importer, size, options.pairs, options.repeats, place)
                if place == "memory":
                    profile(folder, importer)
                shutil.rmtree(folder / "raw")
        if not options.skip_memory:
            memory(folder)


def speed(folder: pathlib.Path, importer: str, size: int, pairs: int, repeats: int, place: str) -> None:
    seconds, shares = {1: [], 2: []}, {}
    for _ in range(repeats):
        for workers in seconds:
            if place == "disk":
                drop_pages(folder / "raw")
            output, _ = build(folder, importer, f"--workers={workers}", "--num-shards=16")
            seconds[workers].append(float(re.search(r"built \d+ records .* in ([\d.]+) s", output)[1]))
            shares[workers] = re.search(r"time of the workers: (.*)", output)[1]
    one, two = min(seconds[1]), min(seconds[2])
    megabytes = pairs * size * size * (2 + len(S2_BANDS)) * 2 / 1e6
    print(f"{importer}, from {place}: {pairs} pairs of 14 GeoTIFFs ({size} px, {megabytes:.0f} MB of records)")
    for workers, best in ((1, one), (2, two)):
        print(f"  {workers} worker(s) {pairs / best:8.1f} pairs/s  {megabytes / best:8.1f} MB/s  {shares[workers]} "
              "(aim: read >= 80 %)")
    print(f"  2 workers / 1 worker: {one / two:.2f} (aim >= 1.7)", flush=True)


def drop_pages(folder: pathlib.Path) -> None:
    """Drops all files of a folder from the kernel's page cache."""
    os.sync()  # the kernel would keep a page that is not written yet
    for path in folder.rglob("*.tif"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def profile(folder: pathlib.Path, importer: str) -> None:
    from data_prep.__main__ import main as data_prep

    profiler = cProfile.Profile()
    with contextlib.redirect_stdout(io.StringIO()):
        profiler.runcall(data_prep, [*command(folder, importer), "--workers=1"])
    shutil.rmtree(folder / "data")
    spent = {(pathlib.Path(file).name, name): cumulative
             for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profiler).stats.items()}
    total = spent["shards.py", "write"]
    for file, name in ((f"{importer}.py", "read"), ("raster.py", "read_bands"), ("radiometry.py", "db_to_int16"),
                       ("radiometry.py", "upsample_native"), ("record.py", "check"), ("shards.py", "serialize")):
        print(f"  profile: {file.removesuffix('.py')}.{name:20s} {spent.get((file, name), 0) / total:6.1%}")


def memory(folder: pathlib.Path) -> None:
    peaks = {}
    for pairs in (2000, 20_000):
        write_own(folder / "raw", pairs)
        _, peaks[pairs] = build(folder, "geotiff", "--workers=2", "--num-shards=8")
        shutil.rmtree(folder / "raw")
    print("memory, 32 px pairs, 2 workers")
    for pairs, peak in peaks.items():
        print(f"  {pairs:6d} pairs: {peak / 1024:.0f} MiB")
    print(f"  20,000 / 2,000: {peaks[20_000] / peaks[2000]:.3f} (aim <= 1.1)")


def command(folder: pathlib.Path, importer: str) -> list[str]:
    return ["build", f"--importer={importer}", f"--raw={folder / 'raw'}", f"--data_dir={folder / 'data'}"]


def build(folder: pathlib.Path, importer: str, *options: str) -> tuple[str, int]:
    """Builds, deletes the result, and returns the output of the command and its peak resident set in KiB."""
    script = ("import resource, subprocess, sys\n"
              "code = subprocess.call([sys.executable, '-m', 'data_prep', *sys.argv[1:]])\n"
              "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
              "sys.exit(code)")
    process = subprocess.run([sys.executable, "-c", script, *command(folder, importer), *options], text=True, cwd=ROOT,
                             capture_output=True)
    if process.returncode:
        sys.exit(process.stderr)
    shutil.rmtree(folder / "data")
    return process.stdout, int(re.search(r"peak (\d+)", process.stdout)[1])


def write_masters(folder: pathlib.Path, size: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(UNIQUE):
        for band in (*S2_BANDS, "VV", "VH"):
            side = size // COARSE.get(band, 1)
            image = (rng.normal(-12, 4, (side, side)).astype(np.float32) if band in ("VV", "VH")
                     else rng.integers(1, 9000, (side, side), np.uint16))
            write_tiff(folder / f"{number}_{band}.tif", image[None], size * 10 / side)


def write_bigearthnet(raw: pathlib.Path, pairs: int, place_file: Callable[..., object]) -> None:
    masters = raw.parent / "masters"
    write_masters(masters, 120)
    rows = {"patch_id": [], "s1_name": [], "split": []}
    for pair in range(pairs):
        place = f"33UUP_{pair // 90:02d}_{pair % 90:02d}"
        s2, s1 = f"S2A_MSIL2A_20170613T101031_N9999_R022_T{place}", f"S1A_IW_GRDH_1SDV_20170613T165043_{place}"
        for folder, name, bands in ((raw / "BigEarthNet-S2" / s2.rsplit("_", 2)[0] / s2, s2, S2_BANDS),
                                    (raw / "BigEarthNet-S1" / s1.rsplit("_", 3)[0] / s1, s1, ("VV", "VH"))):
            folder.mkdir(parents=True)
            for band in bands:
                place_file(masters / f"{pair % UNIQUE}_{band}.tif", folder / f"{name}_{band}.tif")
        for column, value in zip(rows, (s2, s1, "train"), strict=True):
            rows[column].append(value)
    pyarrow.parquet.write_table(pyarrow.table(rows), raw / "metadata.parquet")
    shutil.rmtree(masters)


def write_ssl4eo(raw: pathlib.Path, pairs: int, place_file: Callable[..., object]) -> None:
    masters = raw.parent / "masters"
    write_masters(masters, 264)
    for pair in range(pairs):
        place, month = f"{pair // 4:07d}", 3 * (pair % 4) + 1
        day = f"2020{month:02d}10T"
        s1 = raw / "s1" / place / f"S1A_IW_GRDH_1SDV_{day}174031_{day}174056_032506_03C3BC_30A2"
        s2 = raw / "s2a" / place / f"{day}052649_{day}053037_T44RKT"
        for folder, bands in ((s1, ("VV", "VH")), (s2, S2_BANDS)):
            folder.mkdir(parents=True)
            for band in bands:
                place_file(masters / f"{pair % UNIQUE}_{band}.tif", folder / f"{band.replace('B0', 'B')}.tif")
            (folder / "metadata.json").write_text('{"CLOUDY_PIXEL_PERCENTAGE": 3.5}')
    shutil.rmtree(masters)


def write_own(raw: pathlib.Path, pairs: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("s1", "s2"):
        (raw / name).mkdir(parents=True)
    write_tiff(raw / "s1.tif", rng.normal(-12, 4, (2, 32, 32)).astype(np.float32), 10)
    write_tiff(raw / "s2.tif", rng.integers(1, 9000, (12, 32, 32), np.uint16), 10)
    for pair in range(pairs):
        for name in ("s1", "s2"):
            os.link(raw / f"{name}.tif", raw / name / f"place{pair}_20200101T000000.tif")
    (raw / "geotiff.json").write_text(json.dumps({
        "size": 32, "s1": {"files": "s1/{place}_{date}.tif", "bands": ["VV", "VH"], "unit": "dB", "product": "grd"},
        "s2": {"files": "s2/{place}_{date}.tif", "bands": list(S2_BANDS), "level": "l2a", "offset": 0}}))


def write_tiff(path: pathlib.Path, image: np.ndarray, resolution: float) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with rasterio.open(path, "w", driver="GTiff", count=image.shape[0], height=image.shape[1], width=image.shape[2],
                       dtype=image.dtype, crs="EPSG:32633",
                       transform=rasterio.Affine(resolution, 0, 300_000, 0, -resolution, 5_400_000)) as file:
        file.write(image)


if __name__ == "__main__":
    main()
