"""Measures how fast batches reach the training process: ours, tfds.load, a GeoTIFF data set and a plain copy.

    python benchmarks/feed.py

Method. The benchmark writes random pairs (S1: 2 bands int16, S2: 12 bands uint16) of 128 and of 264 pixels once, as one
set of TFRecord shards and as one GeoTIFF per band and pair. Every contestant delivers shuffled NumPy batches of 64
pairs in RAM (s1, s2 and the place), from the page cache, for --seconds; its first batches are not counted.

  ours      dual_encoder.data.batches with --threads: global permutation, every checksum verified, Grain reads ahead
  tfds      the same shards through tfds.builder_from_directory(...).as_dataset, which tfds.load calls: shuffle_files,
            no cache, then repeat, shuffle(--shuffle_buffer), batch, prefetch(AUTOTUNE)
  geotiff   the same pairs, read like the data sets of torchgeo: per band rasterio.open and read, then np.stack, with
            --threads threads (the same number of processes was slower)
  copy      pread of the same bytes and one copy into batches of new memory, with --threads: no checksum, no parsing

They take turns, --repeats times; the best turn of each counts. The benchmark also measures the processor time of each
contestant (all threads) per pair: if other users share the machine, these ratios are more reliable than the rates.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import synthetic

from dual_encoder.data import records as input_lib
from dual_encoder.data.batches import batches

BATCH = 64
TARGETS = {"tfds": 5.0, "geotiff": 10.0, "copy": 0.6}  # ours / peer should be at least this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 264], help="image sides, in pixels")
    parser.add_argument("--peers", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--megabytes", type=int, default=250, help="size of the pairs, for each image side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shuffle_buffer", type=int, default=1000, help="pairs in the shuffle buffer of tfds")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(pathlib.Path(folder), size, options)


def compare(folder: pathlib.Path, size: int, options: argparse.Namespace) -> None:
    """Writes the pairs, runs the contestants in turns, and prints their rates and ratios."""
    pair = sum(int(np.prod(info.shape)) * 2 for info in synthetic.tensors(size).values())
    count = max(2 * BATCH, options.megabytes * 10**6 // pair)
    shards, geotiffs = folder / "s1s2_pairs" / "1.0.0", folder / "geotiffs"
    synthetic.write(shards, count, size, shards=4)
    streams: dict[str, Callable[[], contextlib.AbstractContextManager[Iterator]]] = {
        "ours": lambda: ours(shards, options.threads)}
    if "tfds" in options.peers:
        write_tfds_metadata(shards, size)
        streams["tfds"] = lambda: tfds_batches(shards, options.shuffle_buffer)
    if "geotiff" in options.peers:
        write_geotiffs(geotiffs, count, size)
        streams["geotiff"] = lambda: geotiff_batches(geotiffs, count, options.threads)
    if "copy" in options.peers:
        streams["copy"] = lambda: copied_batches(shards, options.threads)
    for file in folder.rglob("*"):
        if file.is_file():
            file.read_bytes()  # into the page cache
    rates: dict[str, list[float]] = {name: [] for name in streams}
    costs: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(options.repeats):
        for name, open_stream in streams.items():
            with open_stream() as stream:
                rate, cost = measure(stream, options.seconds)
            rates[name].append(rate)
            costs[name].append(cost)
    print(f"\n{size} x {size} pixels, {pair / 1e6:.2f} MB a pair, {count} pairs, {options.threads} threads, "
          f"{len(os.sched_getaffinity(0))} cores, best of {options.repeats} turns")
    print(f"  {'':8} {'pairs/s':>8} {'GB/s':>6} {'processor us/pair':>18}   ours / peer: rate (target), processor")
    for name in streams:
        rate, cost = max(rates[name]), min(costs[name])
        line = f"  {name:8} {rate:8.0f} {rate * pair / 1e9:6.2f} {cost:18.0f}"
        if name in TARGETS:
            line += f"   {max(rates['ours']) / rate:6.2f} ({TARGETS[name]}), {cost / min(costs['ours']):.2f}"
        print(line, flush=True)


def measure(stream: Iterator, seconds: float) -> tuple[float, float]:
    """Returns pairs per second and microseconds of processor time per pair."""
    for _ in range(3):  # threads start, buffers fill
        next(stream)
    start, used, batches = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        s1, s2, place = next(stream)
        assert len(s1) == len(s2) == len(place) == BATCH and s1.dtype == np.int16 and s2.dtype == np.uint16
        batches += 1
    used = time.process_time() - used
    return batches * BATCH / (time.perf_counter() - start), used / (batches * BATCH) * 1e6


@contextlib.contextmanager
def ours(folder: pathlib.Path, threads: int) -> Iterator[Iterator]:
    records = input_lib.Records(folder, "train", ("s1", "s2"))
    stream = batches(records, seed=0, batch_size=BATCH, rows=range(BATCH), start=0, stop=10**9, threads=threads,
                     processes=0)
    yield ((batch["s1"], batch["s2"], batch["location"]) for batch in stream)


@contextlib.contextmanager
def tfds_batches(folder: pathlib.Path, buffer: int) -> Iterator[Iterator]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    data = tfds.builder_from_directory(folder).as_dataset(
        split="train", shuffle_files=True, read_config=tfds.ReadConfig(try_autocache=False))
    data = data.repeat().shuffle(buffer).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    yield ((batch["s1"], batch["s2"], batch["location_id"]) for batch in data.as_numpy_iterator())


@contextlib.contextmanager
def geotiff_batches(folder: pathlib.Path, count: int, threads: int) -> Iterator[Iterator]:
    import rasterio

    def read(number: int) -> tuple[np.ndarray, np.ndarray, str]:
        images = []
        for spec in synthetic.SENSORS.values():
            bands = []
            for band in spec.bands:
                with rasterio.open(folder / f"{number:07d}" / f"{band}.tif") as file:
                    bands.append(file.read(1))
            images.append(np.stack(bands, axis=-1))
        return *images, f"place{number:07d}"

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        while True:
            s1, s2, places = zip(*itertools.islice(pairs, BATCH), strict=True)
            yield np.stack(s1), np.stack(s2), list(places)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pairs = _ahead(pool, read, _shuffled(count), 2 * threads)
        yield stream()


def _ahead(pool: concurrent.futures.Executor, read: Callable, numbers: Iterable[int], depth: int) -> Iterator:
    pending = []
    for number in numbers:
        pending.append(pool.submit(read, number))
        if len(pending) > depth:
            yield pending.pop(0).result()


def _shuffled(count: int) -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        yield from rng.permutation(count).tolist()


@contextlib.contextmanager
def copied_batches(folder: pathlib.Path, threads: int) -> Iterator[Iterator]:
    index = np.load(folder / "train.index.npy")
    info = input_lib.Records(folder, "train", ("s1", "s2")).info
    files = [os.open(folder / entry["file"], os.O_RDONLY) for entry in info.shards["train"]]

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray, list[int]]]:
        numbers = _shuffled(len(index))
        while True:
            batch = [np.empty((BATCH, *tensor.shape), tensor.dtype) for tensor in info.tensors.values()]
            order = list(itertools.islice(numbers, BATCH))
            for done in [pool.submit(fill, batch, order, first) for first in range(threads)]:
                done.result()
            yield *batch, order

    def fill(batch: list[np.ndarray], order: list[int], first: int) -> None:
        rows = [images.reshape(BATCH, -1).view(np.uint8) for images in batch]
        for row in range(first, BATCH, threads):
            shard, offset, length = index[order[row]].item()
            data, at = os.pread(files[shard], length, offset), 0
            for images in rows:
                images[row] = np.frombuffer(data, np.uint8, images.shape[1], at)
                at += images.shape[1]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        yield stream()
    for file in files:
        os.close(file)


def write_tfds_metadata(folder: pathlib.Path, size: int) -> None:
    """Adds the files that make the folder a data set of TFDS."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import absl.logging
    import tensorflow_datasets as tfds

    absl.logging.set_verbosity(absl.logging.ERROR)
    features = {name: tfds.features.Tensor(shape=info.shape, dtype=np.dtype(info.dtype).type,
                                           encoding=tfds.features.Encoding.BYTES)
                for name, info in synthetic.tensors(size).items()}
    features |= {name: tfds.features.Text() for name in ("id", "location_id", "source")}
    features |= {name: tfds.features.Scalar(np.int64) for name in ("s1_time", "s2_time", "s2_offset_removed")}
    features |= {name: tfds.features.Scalar(np.float32) for name in ("lat", "lon", "cloud")}
    shards = json.loads((folder / "manifest.json").read_text())["shards"]["train"]
    template = tfds.core.ShardedFileTemplate(dataset_name="s1s2_pairs", data_dir=folder, split="train",
                                             filetype_suffix="tfrecord")
    split = tfds.core.SplitInfo(name="train", shard_lengths=[shard["records"] for shard in shards],
                                num_bytes=sum(shard["bytes"] for shard in shards), filename_template=template)
    tfds.folder_dataset.write_metadata(data_dir=folder, features=tfds.features.FeaturesDict(features),
                                       split_infos=[split], check_data=False)


def write_geotiffs(folder: pathlib.Path, count: int, size: int) -> None:
    """Writes one file per band and pair, uncompressed."""
    import rasterio

    place = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    for number in range(count):
        (folder / f"{number:07d}").mkdir(parents=True)
        for feature, spec in synthetic.SENSORS.items():
            image = synthetic.image(feature, number, size)
            for band, name in enumerate(spec.bands):
                with rasterio.open(folder / f"{number:07d}" / f"{name}.tif", "w", driver="GTiff", width=size,
                                   height=size, count=1, dtype=spec.dtype, crs="EPSG:32632", transform=place) as file:
                    file.write(image[..., band], 1)


if __name__ == "__main__":
    main()
