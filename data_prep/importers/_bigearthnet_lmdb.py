"""BigEarthNet v2 in LMDBs, as the wheels of configilm hold it: patch name -> safetensors, one array per band."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.importers import Entry, Reject, _lmdb_pages
from data_prep.importers import _bigearthnet_tables as tables
from dual_encoder.errors import UserError

_NAME = "BigEarthNet-V2-LMDB"


class Lmdbs:
    """All LMDBs under a folder, each with its tables in the same folder. They have no georeference."""

    version = 2

    def __init__(self, raw: pathlib.Path, classes: bool = False):
        """Prepares to read the LMDBs under `raw`; `classes`: the land cover of the tables is read, too."""
        self._raw, self._classes = raw, classes

    def entries(self) -> Iterator[Entry | Reject]:
        """Lists the patches of the tables; those of a later LMDB that an earlier one has are left out."""
        # Bounded depth: a folder of half a million patches must not be walked to find no LMDB.
        paths = sorted(path for depth in range(6) for path in self._raw.glob("*/" * depth + _NAME))
        if not paths:
            raise UserError(f"'{self._raw}' holds neither BigEarthNet-S1 and BigEarthNet-S2 nor a {_NAME}; fetch a "
                            f"sample with `python -m data_prep sample --out={self._raw}`")
        seen: set[str] = set()
        for path in paths:
            name = path.relative_to(self._raw).as_posix()
            _lmdb_pages.check(path / "data.mdb")
            with self._transaction(name) as transaction:
                stored = {bytes(key).decode(errors="replace") for key in transaction.cursor().iternext(values=False)}
            for row in tables.read(path.parent, self._classes):
                if row.patch_id in seen:
                    continue
                seen.add(row.patch_id)
                missing = [key for key in (row.patch_id, row.s1_name) if key not in stored]
                if missing:
                    yield Reject(row.patch_id, f"'{path}' lacks '{missing[0]}', which its table pairs with "
                                               f"'{row.s1_name if missing[0] == row.patch_id else row.patch_id}'")
                else:
                    yield tables.entry(row, {"s1_name": row.s1_name, "lmdb": name}, labels=self._classes)

    def bands(self, entry: Entry, feature: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns band -> [height, width] at native resolution."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        key, path = entry.where["s1_name"] if feature == "s1" else entry.id, self._raw / entry.where["lmdb"]
        with self._transaction(entry.where["lmdb"]) as transaction:
            try:
                bands = load(transaction.get(key.encode()) or b"")
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"'{path}': '{key}' is damaged ({error}); fetch the sample again") from error
        missing = [band for band in names if band not in bands]
        if missing:
            raise UserError(f"'{path}': '{key}' has no band {missing[0]}; fetch the sample again")
        return bands

    @contextlib.contextmanager
    def _transaction(self, name: str) -> Iterator[Any]:
        import lmdb  # here, because the archives do not need it

        # Opened anew each time (less than 0.1 ms): LMDB forbids to open the same one twice in a process.
        try:
            with lmdb.open(str(self._raw / name), readonly=True, lock=False) as environment:
                with environment.begin() as transaction:
                    yield transaction
        except lmdb.Error as error:
            raise UserError(f"'{self._raw / name}' cannot be read as LMDB ({error}); fetch the sample again") from error
