"""Files that are sound and lie: wrong types and sizes in the text and the headers of each format, checksums right."""

import ast
import io
import json
import pathlib
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet

from tests.fuzz.damage import Mutation

# Texts of a table or a JSON file, in the place of others. Paths lead out of every folder that a build may write.
TEXTS = ("", " ", "x" * 300, "../../up", "/no/such/folder/x", "a/b", "a\\b", "..", ".", "train+x", "[]", "*", "?",
         "nan",
         "inf", "-1", "1e400", "99999999999999999999", "2020-13-45", "None", "true",
         "\N{LATIN SMALL LETTER E WITH ACUTE}",
         "e\N{COMBINING ACUTE ACCENT}", "\N{RIGHT-TO-LEFT OVERRIDE}txt", "<script>", "$(touch x)", "%s%n", "con", "\t",
         "\0", "a\nb",
         "\ufeffid", '"', ",", ";")
VALUES = (None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), -1e308, [], {}, [[]],
          [None], {"": 0},
          [1, "a"], "\ud800", *TEXTS)
_SIZES = (0, -1, -264, 1, 3, 65537, 2**31, 2**40, 10**11, 2**63)


def json_text(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a value of a JSON text to another type or size; removes, renames or repeats a key; nests deep."""
    try:
        tree = json.loads(content)
    except ValueError:
        return content + b"]"
    kind = random.integers(8)
    if kind == 0:
        return b"[" * 100_000 + b"]" * 100_000
    holders = list(_holders(tree))
    if not holders:
        return json.dumps(_one(VALUES, random)).encode()
    holder = holders[random.integers(len(holders))]
    key = list(holder)[random.integers(len(holder))] if isinstance(holder, dict) else int(random.integers(len(holder)))
    if kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[_one(TEXTS, random)] = holder.pop(key)
    elif kind == 3 and isinstance(holder, dict) and isinstance(holder[key], (int, str)):
        text, name = json.dumps(tree), json.dumps(key) + ": "
        return text.replace(name, f"{name}{json.dumps(_one(VALUES, random))}, {name}", 1).encode()
    else:
        holder[key] = _one(VALUES, random)
    return json.dumps(tree).encode()


def csv_text(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a cell, a separator, a row or the encoding of a table."""
    lines = content.decode(errors="replace").splitlines() or [""]
    row = int(random.integers(len(lines)))
    cells = lines[row].split(",")
    column = int(random.integers(len(cells)))
    kind = random.integers(9)
    if kind <= 2:
        cells[column] = _one(TEXTS, random)
    elif kind == 3:
        del cells[column]
    elif kind == 4:
        cells.insert(column, "")
    lines[row] = ",".join(cells)
    if kind == 5:
        del lines[row]
    elif kind == 6:
        lines.insert(row, _one(("", lines[row], ",,,", "#", '"'), random))
    text = ("\r" if kind == 7 else "\n").join(lines).encode(errors="surrogatepass") + b"\n"
    if kind == 8:
        return _one((b"\xef\xbb\xbf" + text, text.decode(errors="replace").encode("utf-16"), text.replace(b",", b";"),
                     text.replace(b"a", b"\xe9"), text + b"\0" * 50, text * 3), random)
    return text


def zip_members(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a member of a zip: the text of zarr, the header of an array; renames, repeats or removes it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = int(random.integers(len(members)))
    texts = [i for i, (name, _) in enumerate(members) if name.split("/")[-1] in (".zarray", ".zattrs", ".zmetadata",
                                                                                 ".zgroup")]
    if texts and random.random() < 0.7:
        place = int(random.choice(texts))
    name, inner = members[place]
    kind = random.integers(6)
    if kind == 0:
        del members[place]
    elif kind == 1:
        members[place] = _one(("../" + name, "/" + name, name.upper(), name + "/"), random), inner
    elif kind == 2:
        members.append((name + "x", members[random.integers(len(members))][1]))
    elif name.endswith(".npy"):
        members[place] = name, _one((npy_header, npy_values), random)(inner, random)
    else:
        members[place] = name, json_text(inner, random) if place in texts else random.bytes(len(inner))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", _one((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), random)) as archive:
        for name, inner in members:
            archive.writestr(name, inner)
    return file.getvalue()


def npy_header(content: bytes, random: np.random.Generator) -> bytes:
    """Changes shape, type or order in the header of a .npy file."""
    length = struct.unpack("<H", content[8:10])[0]
    header = ast.literal_eval(content[10:10 + length].decode("latin1"))
    kind = random.integers(5)
    if kind <= 1 and header["shape"]:
        place = int(random.integers(len(header["shape"])))
        header["shape"] = tuple(_one(_SIZES, random) if i == place else n for i, n in enumerate(header["shape"]))
    elif kind == 2:
        header["shape"] = _one(((), (10**11,), (2**31, 2**31), "x", (1.5,), None), random)
    elif kind == 3:
        header["descr"] = _one(("|O", "<U100000000", "<f2", "<c16", ">f4", "|V0", [("a", "<f4")], "x", 5, "<M8[s]"),
                               random)
    else:
        header = _one(({}, [], {"shape": (1,)}, header | {"more": 1}, header | {"fortran_order": True}), random)
    text = repr(header).encode("latin1").ljust(117) + b"\n"
    return content[:8] + struct.pack("<H", len(text)) + text + content[10 + length:]


def npy_values(content: bytes, random: np.random.Generator) -> bytes:
    """Changes one value of an array of texts or numbers."""
    array = np.load(io.BytesIO(content))
    value = _one(TEXTS, random) if array.dtype.kind == "U" else _one((0, -1, 2**31, 2**62,
                                                                      127) if array.dtype.kind in "iu" else (
        np.nan, np.inf, 1e300, -91.0), random)
    if array.dtype.kind == "U":
        array = array.astype(f"U{max(len(value), array.dtype.itemsize // 4)}")
    with np.errstate(all="ignore"):
        array.reshape(-1)[random.integers(array.size) if array.size else slice(0)] = np.array(value).astype(array.dtype)
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar_members(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a member of a tar: a zip inside, its name, its type; removes or repeats it."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive.getmembers()]
    place = int(random.integers(len(members)))
    info, inner = members[place]
    kind = random.integers(6)
    if kind == 0:
        del members[place]
    elif kind == 1:
        info.name = _one(("../" + info.name, "/" + info.name, info.name.upper(), "x" * 99, "\0"), random)
    elif kind == 2:
        info.type = _one((tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE), random)
        info.linkname = "../../up"
    elif kind == 3:
        members.append((info, members[0][1]))
    else:
        members[place] = info, zip_members(inner, random)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, inner in members:
            info.size = len(inner) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(inner))
    return file.getvalue()


def parquet_cells(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a cell, a column or its type in a parquet table."""
    table = pyarrow.parquet.read_table(io.BytesIO(content))
    column = int(random.integers(table.num_columns))
    name, kind = table.column_names[column], random.integers(6)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.rename_columns([_one(TEXTS, random) if c == name else c for c in table.column_names])
    elif kind == 2:
        table = table.set_column(column, name, pyarrow.nulls(table.num_rows))
    elif kind == 3:
        table = table.slice(0, int(random.integers(table.num_rows + 1)))
    else:
        cells = table.column(column).to_pylist()
        cells[random.integers(len(cells))] = random.bytes(int(random.integers(3000))) if isinstance(cells[0],
                                                                                                    bytes) else (
            _one(TEXTS, random) if isinstance(cells[0], str) else None)
        if kind == 5:
            cells = [str(cell) for cell in cells]
        table = table.set_column(column, name, pyarrow.array(cells))
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def tiff_tags(content: bytes, random: np.random.Generator) -> bytes:
    """Changes tag, type, count or value of one entry in the first directory of a little-endian TIFF."""
    start, = struct.unpack("<I", content[4:8])
    count, = struct.unpack("<H", content[start:start + 2])
    entry = start + 2 + 12 * int(random.integers(count))
    offset, code = _one(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<H")), random)
    limit = 2 ** (8 * struct.calcsize(code)) - 1
    value = struct.pack(code, min(int(_one((0, 1, 2, 3, 7, 16, 255, 4096, 65535, 2**24, 2**31 - 1, 2**32 - 1), random)),
                                  limit))
    return content[:entry + offset] + value + content[entry + offset + len(value):]


def png_header(content: bytes, random: np.random.Generator) -> bytes:
    """Changes size, depth or colour of a PNG, with the right checksum."""
    fields = list(struct.unpack(">IIBBBBB", content[16:29]))
    place = int(random.integers(7))
    fields[place] = _one((0, 1, 255, 65537, 10**6, 2**31 - 1) if place < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255), random)
    header = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def hdf5_objects(content: bytes, random: np.random.Generator) -> bytes:
    """Removes, replaces or reshapes an object of an HDF5 file."""
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as archive:
        name = list(archive)[random.integers(len(archive))]
        kind = random.integers(7 if "metadata" in archive else 6)  # 6: a text in the table of MMEarth
        if kind == 6:
            name = "metadata"
        old = archive[name]
        shape, dtype, first = old.shape, old.dtype, old[:1]
        if kind == 6:
            row = old[0]
            row[0] = _one(TEXTS, random).encode()[:100]
            old[0] = row
            return _flushed(archive, file)
        del archive[name]
        if kind == 1:
            archive.create_group(name)
        elif kind == 2:
            archive[name] = h5py.SoftLink("/nowhere")
        elif kind == 3:
            archive[name] = h5py.ExternalLink("/no/such/file.h5", "/x")
        elif kind == 4:
            archive.create_dataset(name, data=_one((np.float64(1), "text", np.zeros((0, 3)), np.array([b"x"] * 3)),
                                                   random))
        elif kind == 5:  # declared large, stored small
            huge = tuple(_one((n, n, 10**6, 2**33), random) for n in shape)
            archive.create_dataset(name, huge, dtype, chunks=first.shape, compression="gzip",
                                   maxshape=(None,) * len(shape))
    return file.getvalue()


def _flushed(archive: h5py.File, file: io.BytesIO) -> bytes:
    archive.flush()
    return file.getvalue()


def lmdb_values(content: bytes, random: np.random.Generator) -> bytes:
    """Changes a value or a key of an LMDB of safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "data.mdb").write_bytes(content)
        with lmdb.open(folder, map_size=2**26) as environment, environment.begin(write=True) as transaction:
            rows = list(transaction.cursor())
            key, value = rows[random.integers(len(rows))]
            transaction.delete(key)
            kind = random.integers(4)
            if kind == 0:
                transaction.put(_one((b"../up", b"\xff\xfe", b"x" * 400, key.lower()), random), value)
            elif kind == 1:
                transaction.put(key, _one((b"", b"x", random.bytes(300), value[:-7], value * 2), random))
            else:
                transaction.put(key, safetensors_header(value, random))
        return pathlib.Path(folder, "data.mdb").read_bytes()


def safetensors_header(content: bytes, random: np.random.Generator) -> bytes:
    """Changes the JSON header of a safetensors file, or its length."""
    length, = struct.unpack("<Q", content[:8])
    header = json_text(content[8:8 + length], random)
    return struct.pack("<Q", int(_one((len(header),) * 5 + (2**63, 0, 2**40), random))) + header + content[8 + length:]


def _holders(tree: Any) -> Any:
    """Yields every dictionary and list of a JSON value that is not empty."""
    if isinstance(tree, (dict, list)) and tree:
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(value)


def _one(choices: Any, random: np.random.Generator) -> Any:
    return choices[int(random.integers(len(choices)))]


_BY_SUFFIX: Mapping[str, tuple[Callable[[bytes, np.random.Generator], bytes], ...]] = {
    ".json": (json_text,), ".csv": (csv_text,), ".npz": (zip_members,), ".zip": (zip_members,), ".tar": (tar_members,),
    ".parquet": (parquet_cells,), ".tif": (tiff_tags,), ".png": (png_header,), ".h5": (hdf5_objects,),
    ".mdb": (lmdb_values,),
    ".npy": (npy_header,), ".safetensors": (safetensors_header,)}


def mutations(name: str) -> dict[str, Mutation]:
    """Returns the mutations that know the format of a file of that name; {} if none does."""
    return {mutation.__name__: mutation for mutation in _BY_SUFFIX.get(pathlib.PurePath(name).suffix, ())}
