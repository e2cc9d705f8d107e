"""Tables of raw data in Parquet, read within a bound of memory: a file of 48 KB may hold a column of 6 GB."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dual_encoder.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

_LARGEST = 1 << 30  # bytes of the columns that are read
_LONGEST = 10_000  # letters of a text in a table


def read(path: pathlib.Path, types: Mapping[str, Any], optional: Sequence[str] = ()) -> "pyarrow.Table":
    """Reads columns of a table.

    Args:
      path: the file.
      types: name of a column -> Arrow type that it is turned into.
      optional: those that may be missing.

    Raises:
      UserError: missing, damaged or too large; a column that is missing or of another type.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise UserError(f"'{path}' is missing; it is the table of the images, fetch it with them")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [name for name in types if name not in optional or name in file.schema_arrow.names]
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise UserError(f"'{path}' has no column {' '.join(missing)}; fetch it again")
            _check_size(file.metadata, names, path)
            # Texts stay as numbers and a dictionary, so that repeated texts take no memory before they are looked at.
            texts = [name for name in names if _is_text(file.schema_arrow.field(name).type)]
        table = pyarrow.parquet.read_table(path, columns=names, read_dictionary=texts)
        for name in texts:
            _check_texts(table[name], name, path)
        return table.select(names).cast(pyarrow.schema([(name, types[name]) for name in names]))
    except (pyarrow.ArrowException, KeyError, OSError, UnicodeDecodeError, OverflowError) as error:
        raise UserError(f"'{path}' cannot be read as a table with {', '.join(types)} ({one_line(error, 120)}); fetch "
                        "it again") from error


def check_row_group(metadata: Any, group: int, columns: Sequence[str], largest: int, name: str) -> None:
    """Raises UserError if columns of a row group hold more than `largest` bytes, by the file's own account."""
    if (size := _bytes(metadata.row_group(group), columns)) > largest:
        raise UserError(f"{name} holds {size} bytes, expected at most {largest}; fetch the published file")


def _check_size(metadata: Any, columns: Sequence[str], path: pathlib.Path) -> None:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    size = sum(_bytes(group, columns) for group in groups)
    if max(size, 8 * metadata.num_rows) > _LARGEST:
        raise UserError(f"'{path}' promises {metadata.num_rows} rows of {size} bytes, expected at most {_LARGEST} "
                        "bytes; fetch it again")


def _bytes(group: Any, columns: Sequence[str]) -> int:
    """Returns the bytes of columns in a row group, unpacked, as the file declares them."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _check_texts(column: Any, name: str, path: pathlib.Path) -> None:
    import pyarrow.compute

    for chunk in column.chunks:
        texts = chunk.dictionary if hasattr(chunk, "dictionary") else chunk
        longest = pyarrow.compute.max(pyarrow.compute.binary_length(texts)).as_py() or 0
        if longest > _LONGEST:
            raise UserError(f"'{path}': column {name} holds a text of {longest} bytes, expected at most {_LONGEST}; "
                            "fetch it again")


def _is_text(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_binary(kind)
