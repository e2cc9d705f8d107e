"""Says by its first bytes what a file is, whatever its name says."""

import re

HEAD = 512  # bytes that `kind_of` needs at most
TIFF, JPEG_2000, PNG, JPEG = "GeoTIFF", "JPEG 2000", "PNG", "a JPEG picture"
_STARTS = (
    (TIFF, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (JPEG_2000, (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    (PNG, (b"\x89PNG\r\n\x1a\n",)),
    (JPEG, (b"\xff\xd8\xff",)),
    ("a GIF picture", (b"GIF8",)),
    ("a BMP picture", (b"BM",)),
    ("HDF5 or NetCDF-4", (b"\x89HDF\r\n\x1a\n",)),
    ("NetCDF", (b"CDF\x01", b"CDF\x02", b"CDF\x05")),
    ("HDF4", (b"\x0e\x03\x13\x01",)),
    ("GRIB", (b"GRIB",)),
    ("an ERDAS IMAGINE file", (b"EHFA_HEADER_TAG",)),
    ("a zip archive", (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    ("a gzip archive", (b"\x1f\x8b",)),
    ("a bzip2 archive", (b"BZh",)),
    ("an xz archive", (b"\xfd7zXZ\0",)),
    ("a zstd archive", (b"\x28\xb5\x2f\xfd",)),
    ("a 7z archive", (b"7z\xbc\xaf\x27\x1c",)),
    ("a rar archive", (b"Rar!\x1a\x07",)),
    ("a NumPy array", (b"\x93NUMPY",)),
    ("Parquet", (b"PAR1",)),
    ("an Arrow file", (b"ARROW1",)),
    ("an SQLite or GeoPackage database", (b"SQLite format 3\0",)),
    ("a PDF document", (b"%PDF",)),
    ("a WebP, AVI or WAV file", (b"RIFF",)),
    ("a pickle", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
    ("an EnviSat product", (b'PRODUCT="',)),
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def kind_of(head: bytes) -> str:
    """Returns what a file is: 'GeoTIFF', 'JPEG 2000', 'PNG', or words for people such as 'a zip archive'.

    Args:
      head: the first `HEAD` bytes of the file, or all of them if it is shorter.

    Returns:
      the kind; '' for bytes that are none of the known kinds.
    """
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "nothing but zero bytes at its beginning, as an interrupted copy leaves them"
    for kind, starts in _STARTS:
        if head.startswith(starts):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str:
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "utf-8")
    text = head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")
    if any(ord(sign) < 32 and sign not in "\t\r\n\f" for sign in text) or len(text) < len(head) // 4:
        return ""
    start = text[:200].lower()
    if start.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if start.startswith(("<!doctype html", "<html")) or re.match(r"<\?xml[^>]*>\s*<(!doctype )?html", start):
        return "an HTML page, as a server sends it in place of a file (login, error)"
    if start.startswith("<vrtdataset"):
        return "a virtual raster of GDAL (VRT), which only names other files; write it out with gdal_translate"
    if start.startswith("<"):
        return f"XML, perhaps a server's error message: {_shown(text)}"
    if start.startswith(("{", "[")):
        return f"JSON, perhaps a server's error message: {_shown(text)}"
    return f"text: {_shown(text)}"


def _shown(text: str) -> str:
    return f"'{' '.join(text.split())[:60]}'"
