"""Batches of records, read ahead: a stream for training, one pass in order for evaluation."""

import multiprocessing.resource_tracker
import signal
from collections.abc import Generator, Iterator
from typing import TypeVar

import grain
import numpy as np
from absl import flags

from dual_encoder.data.records import BatchReader, Records
from dual_encoder.errors import UserError, one_line
from dual_encoder.runtime import limits, stop_request
from dual_encoder.runtime.processes import end_with_parent

T = TypeVar("T")


def batches(records: Records, *, seed: int, batch_size: int, rows: range, start: int, stop: int, threads: int,
            processes: int) -> Generator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batches of steps start, ..., stop - 1; two batches are read ahead.

    A generator: its `close` ends the readers. UserError: a damaged record, a reading process that was killed, or
    batches that do not fit into the memory.

    Args:
      records: the split.
      seed: order of the records.
      batch_size: of the global batch.
      rows: rows of the global batch to read.
      threads, processes: readers (threads of each process); they change the speed only.

    Yields:
      per feature [len(rows), ...], `location` int32 [len(rows)], `record` int32 [len(rows)], as `BatchReader`.
    """
    limits.check_feed(len(rows) * records.record_bytes, processes)
    order = records.order(seed, batch_size)
    reader = BatchReader(records, threads)
    source = grain.MapDataset.range(start, stop).map(lambda step: reader(order.numbers(step)[rows.start:rows.stop]))
    stream = source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    if processes:
        flags.FLAGS.mark_as_parsed()  # Grain's readers ask for flags of its own
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes), end_with_parent)
    reading = iter(stream)
    try:
        for step in range(start, stop):
            try:
                batch = _start_readers(reading) if processes and step == start else next(reading)
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                raise UserError(f"a reading process has died ({one_line(error, 80)}), {limits.why_killed()}; lower "
                                "--config.data.processes and run the same command again") from error
            if records.max_bad_records:
                records.count_bad(order.numbers(step)[rows.start:rows.stop], batch["record"])
            yield batch
    finally:
        reading.close()


def _start_readers(reading: Iterator[T]) -> T:
    """Returns the first batch of the reading processes, and starts them so that they ignore signals to the run."""
    multiprocessing.resource_tracker.ensure_running()  # to start it would unblock the signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stop_request.SIGNALS)
    try:
        return next(reading)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def in_order(records: Records, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, valid) once through the split; the last batch is filled up with its last record.

    `valid` is the number of rows that count. Damaged records that `max_bad_records` allows are left out.
    """
    reader = BatchReader(records)
    for start in range(0, len(records), batch_size):
        numbers = np.arange(start, min(start + batch_size, len(records)))
        batch = reader(numbers)
        records.count_bad(numbers, batch["record"])
        sound = np.flatnonzero(batch["record"] == numbers)
        if len(sound):
            rows = np.append(sound, np.full(batch_size - len(sound), sound[-1]))
            yield {name: array[rows] for name, array in batch.items()}, len(sound)
