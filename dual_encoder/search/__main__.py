"""Finds the images whose vectors are nearest to that of a query, by their cosine; exactly, or --approximate.

    python -m dual_encoder.search --index=vectors --id=S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_37_88
    python -m dual_encoder.search --index=vectors --at=48.1,11.5 --sensor=s2 --geojson=found.geojson --sheet=found.png
    python -m dual_encoder.search --index=vectors --s1=SCENE.tif --sensor=s2
    python -m dual_encoder.search --index=vectors --html=vectors.html

--index is a folder of `python -m dual_encoder.embed`. A query by one sensor with answers of the other (--sensor) needs
projected vectors. --html writes a page of one file, with a map, a projection and the neighbours of each image.
"""

import argparse
import math
import pathlib

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.search import output, page
from dual_encoder.search.index import Index
from dual_encoder.search.projection import METHODS
from dual_encoder.search.query import Query, answers, by_id, by_image, by_place


def main() -> None:
    """Searches as the command line says; exit code 2 and one line for a user's mistake."""
    flags = _parser().parse_args()
    exit_on_user_error(lambda: _run(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.search", __doc__)
    parser.add_argument("--index", required=True, help="folder of embeddings")
    query = parser.add_mutually_exclusive_group()
    query.add_argument("--id", default="", help="of a record of the index")
    query.add_argument("--at", default="", metavar="LAT,LON", help="degrees; the nearest image is the query")
    query.add_argument("--s1", default="", metavar="FILE", help="a radar image: dB as floats, hundredths as integers")
    query.add_argument("--s2", default="", metavar="FILE", help="an optical image: reflectance, x 10000 as integers")
    parser.add_argument("--from", dest="of", default="", metavar="SENSOR", help="of the query with --id and --at")
    parser.add_argument("--sensor", default="", help="of the answers (default: that of the query)")
    parser.add_argument("--top", type=int, default=10, help="number of answers (default: %(default)s)")
    parser.add_argument("--workdir", default="", help="of the run, for --s1 and --s2 (default: as the index says)")
    parser.add_argument("--data", default="", help="data set of the pictures (default: as the index says)")
    parser.add_argument("--geojson", type=pathlib.Path, metavar="FILE", help="write the answers for a map")
    parser.add_argument("--sheet", type=pathlib.Path, metavar="PNG", help="write the pictures of the answers")
    parser.add_argument("--html", type=pathlib.Path, metavar="FILE", help="write the page of the index")
    parser.add_argument("--projection", choices=METHODS, default="pca", help="of the page (default: %(default)s)")
    parser.add_argument("--approximate", action="store_true", help="search with FAISS: faster for many millions of "
                                                                   "vectors, and it may miss some")
    parser.add_argument("--records", type=int, default=1000, help="most records on the page (default: %(default)s)")
    return parser


def _run(flags: argparse.Namespace) -> None:
    for name in ("top", "records"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected at least 1")
    index = Index(flags.index)
    query = _query(flags, index)
    if query is None and (flags.html is None or flags.geojson or flags.sheet):
        raise UserError("nothing to search for; give --id, --at, --s1 or --s2, or --html for the page")
    if query is not None:
        found = answers(index, query, flags.top, flags.sensor, flags.approximate)
        say(f"query: {query.title}; {flags.sensor or query.sensor} images")
        for line in output.lines(found):
            say(line)
        if flags.geojson:
            output.write_geojson(flags.geojson, query, found)
        if flags.sheet:
            output.write_sheet(flags.sheet, query, found, index, output.Pictures(index, flags.data))
    if flags.html:
        count = page.write(flags.html, index, _pictures(index, flags.data), flags.records, flags.projection)
        say(f"page of {count} records: {flags.html}")


def _query(flags: argparse.Namespace, index: Index) -> Query | None:
    """Returns the query that the flags name; None without one."""
    if flags.id:
        return by_id(index, flags.id, flags.of)
    if flags.at:
        return by_place(index, *_degrees(flags.at), flags.of)
    for sensor in ("s1", "s2"):
        if path := getattr(flags, sensor):
            return by_image(index, sensor, path, flags.workdir)
    return None


def _degrees(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = map(float, text.split(","))
        if abs(latitude) <= 90 and abs(longitude) <= 360 and math.isfinite(latitude + longitude):
            return latitude, longitude
    except ValueError:
        pass
    raise UserError(f"--at is '{text}'; expected LAT,LON in degrees, such as 48.1,11.5")


def _pictures(index: Index, folder: str) -> output.Pictures | None:
    """Returns the pictures, or None with a note: the page goes without them, unless the user names a folder."""
    try:
        return output.Pictures(index, folder)
    except UserError as error:
        if folder:
            raise
        say(f"no pictures: {error}")
        return None


if __name__ == "__main__":
    main()
