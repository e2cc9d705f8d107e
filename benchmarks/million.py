"""Measures a data set of a million pairs: the time to open it, its memory, and the time to the first batch.

    python benchmarks/million.py

Method. The data set has 1,000 shards of 1,000 records of --size pixels, as sparse files: they have their full length
(0.46 TB at 128 pixels), but contain only the records of the first batch. Index and manifest are complete. A new process
opens the split and reads the first batch of 64. Times are wall-clock times after the imports. Memory is the growth of
the resident set (VmRSS) since the imports. The peer is a data set of 1,000 records, measured in the same way, to show
the additional cost of a large one. The best of --repeats processes counts.

Targets: opened in less than 2 s, grown by less than 100 MB (batches not counted), first batch in less than 1 s.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import synthetic

from dual_encoder.data import tfrecord
from dual_encoder.data.batches import batches
from dual_encoder.data.order import Order
from dual_encoder.data.records import Records

BATCH, SEED, THREADS = 64, 0, 2
TARGETS = {"open_s": 2.0, "open_mb": 100.0, "first_batch_s": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128, help="image side, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--probe", default="", help=argparse.SUPPRESS)  # for the new process
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options.probe)))
        return
    results = {}
    for records in (options.records, 1000):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder) / "data"
            write(folder, records, options.size)
            runs = [json.loads(subprocess.run([sys.executable, __file__, f"--probe={folder}"], check=True,
                                              capture_output=True, text=True).stdout.splitlines()[-1])
                    for _ in range(options.repeats)]
        results[records] = {name: min(run[name] for run in runs) for name in runs[0]}
    large, small = results[options.records], results[1000]
    print(f"{options.records:,} records against 1,000, {options.size} pixels, best of {options.repeats} processes")
    for name, value in large.items():
        ratio = value / max(small[name], 1e-3)
        target = f", target < {TARGETS[name]}" if name in TARGETS else ""
        print(f"  {name:14} {value:8.3f} against {small[name]:8.3f}, ratio {ratio:.1f}{target}")


def write(folder: pathlib.Path, records: int, size: int) -> None:
    """Writes shards that contain only the records of the first batch, and holes."""
    folder.mkdir()
    shards = max(1, records // 1000)
    each, length = records // shards, len(synthetic.framed(0, size))
    index = np.zeros(records, tfrecord.INDEX_DTYPE)
    index["shard"] = np.arange(records) // each
    index["offset"] = np.arange(records) % each * length + tfrecord.HEADER.size
    index["length"] = length - tfrecord.HEADER.size - tfrecord.FOOTER.size
    entries = []
    for shard in range(shards):
        name = f"s1s2_pairs-train.tfrecord-{shard:05d}-of-{shards:05d}"
        with open(folder / name, "wb") as file:
            file.truncate(each * length)
        entries.append({"file": name, "bytes": each * length, "records": each, "sha256": f"{shard:064x}"})
    for number in Order(SEED, (records,), (), BATCH).numbers(0).tolist():
        shard, offset, _ = index[number].tolist()
        with open(folder / entries[shard]["file"], "r+b") as file:
            file.seek(offset - tfrecord.HEADER.size)
            file.write(synthetic.framed(number, size))
    synthetic.write_manifest(folder, entries, index, size)


def probe(folder: str) -> dict[str, float]:
    """Returns the time and memory that this process needs to open the data set and to read its first batch."""
    before, start = _resident(), time.perf_counter()
    records = Records(folder, "train", ("s1", "s2"))
    opened, open_memory = time.perf_counter(), _resident() - before
    stream = batches(records, seed=SEED, batch_size=BATCH, rows=range(BATCH), start=0, stop=1, threads=THREADS,
                     processes=0)
    batch = next(stream)
    first, memory = time.perf_counter(), _resident() - before
    number = int(batch["record"][5])
    assert (batch["s2"][5] == synthetic.image("s2", number, batch["s2"].shape[1])).all()
    return {"open_s": opened - start, "open_mb": open_memory, "first_batch_s": first - opened, "with_batch_mb": memory}


def _resident() -> float:
    """Returns the resident set in MB."""
    with open(f"/proc/{os.getpid()}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1000


if __name__ == "__main__":
    main()
