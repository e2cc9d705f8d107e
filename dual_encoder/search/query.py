"""Queries of an index, by a row, a place on the Earth or an image; the answers as rows with their facts."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from dual_encoder.errors import UserError
from dual_encoder.errors import nearest as nearest_name
from dual_encoder.evaluation.embedded import unit_vectors
from dual_encoder.imagery import raster
from dual_encoder.inference.encoder import load
from dual_encoder.inference.images import Units, stored_images
from dual_encoder.search.index import Index
from dual_encoder.search.nearest import nearest


@dataclasses.dataclass(frozen=True)
class Query:
    """A vector to search for.

    Attributes:
      vector: unit length, float32 [dim].
      sensor: of its image.
      row: of the image in the index; -1 for an image that is not there.
      title: of the image, for people.
      image: stored integers [height, width, bands], of an image that is not there.
    """

    vector: np.ndarray
    sensor: str
    row: int
    title: str
    image: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """An image that was found: its row, its cosine with the query, and the columns of the row."""

    row: int
    cosine: float
    facts: dict[str, Any]


def by_row(index: Index, row: int) -> Query:
    """Returns the query by a row of the index."""
    facts = index.facts(row)
    return Query(index.vector(row, facts["sensor"]), facts["sensor"], row, f"{facts['id']} ({facts['sensor']})")


def by_id(index: Index, name: str, sensor: str = "") -> Query:
    """Returns the query by the id of a record; `sensor`: of its images, '' = the first. UserError if there is none."""
    ids = np.array(index.column("id"))
    wanted = [index.sensor(sensor)] if sensor else list(index.matrices)
    for one in wanted:
        found = index.rows[one][ids[index.rows[one]] == name]
        if len(found):
            return by_row(index, int(found[0]))
    raise UserError(f"the index has no {' '.join(filter(None, [sensor, 'image']))} with the id '{name}'; its ids look "
                    f"like '{ids[0]}'")


def by_place(index: Index, latitude: float, longitude: float, sensor: str = "") -> Query:
    """Returns the query by the image whose centre is nearest to a place, in degrees.

    Raises:
      UserError: no image has a position.
    """
    rows = index.rows[index.sensor(sensor)] if sensor else np.arange(len(index))
    places = positions(index.column("geometry", rows))
    if np.isnan(places).all():
        raise UserError("no image of the index has a position; search by --id, or by an image")
    row = int(rows[int(np.nanargmin(_distance(places, latitude, longitude)))])
    return by_row(index, row)


def by_image(index: Index, sensor: str, path: str | os.PathLike, workdir: str = "") -> Query:
    """Returns the query by an image file, embedded by the run that made the index.

    Args:
      index: of the images to search among.
      sensor: of the image.
      path: of a raster; floats are in the physical unit of the sensor, integers are stored ones.
      workdir: of the run; '' = the folder that the index names.

    Raises:
      UserError: another run than that of the index, or an image that does not fit.
    """
    run = index.origin["run"]
    encoder = load(workdir or run["path"])
    if encoder.digest != run["digest"]:
        raise UserError(f"'{workdir or run['path']}' is not the run that made the index (digest {encoder.digest[:12]}, "
                        f"expected {run['digest'][:12]}, step {run['step']}); give its folder as --workdir")
    if sensor not in encoder.sensors:
        raise UserError(f"the run has no sensor '{sensor}'; {nearest_name(sensor, encoder.sensors)}")
    with raster.opened(pathlib.Path(path), os.fspath(path)) as files:
        units: Units = "physical" if files[0].dtypes[0].startswith("float") else "stored"
    image = stored_images(path, encoder.sensors[sensor], units, sensor)
    vectors = encoder.encode(units="stored", vectors=index.origin["plan"]["vectors"], batch_size=1, **{sensor: image})
    return Query(unit_vectors(vectors[sensor], os.fspath(path))[0], sensor, -1, f"{path} ({sensor})", image[0])


def answers(index: Index, query: Query, count: int, sensor: str = "", approximate: bool = False) -> list[Answer]:
    """Returns the most similar images, the query itself left out.

    Args:
      index: to search.
      query: as of `by_id`, `by_place` or `by_image`.
      count: of the answers.
      sensor: of the answers; '' = that of the query. Two sensors can be compared only by projected vectors.
      approximate: search with FAISS, as of `approximate.Approximate`.

    Raises:
      UserError: the index lacks the sensor, or holds pooled vectors and the sensors differ; FAISS is not installed.
    """
    sensor = index.sensor(sensor or query.sensor)
    if sensor != query.sensor and index.origin["plan"]["vectors"] != "projected":
        raise UserError(f"the index holds pooled vectors, which cannot compare {query.sensor} with {sensor}; embed "
                        "with --vectors=projected")
    if approximate:
        found, cosines = index.approximate(sensor).nearest(query.vector[None], count + 1)
    else:
        found, cosines = nearest(index.matrices[sensor], query.vector[None], count + 1)
    rows = index.rows[sensor][found[0]]
    kept = [(int(row), float(cosine)) for row, cosine in zip(rows, cosines[0], strict=True) if row != query.row]
    return [Answer(row, cosine, index.facts(row)) for row, cosine in kept[:count]]


def positions(geometries: Sequence[bytes | None]) -> np.ndarray:
    """Returns latitude and longitude of the centres, float64 [n, 2]; NaN = unknown."""
    centres = shapely.centroid(shapely.from_wkb(np.array(geometries, object)))
    return np.stack([shapely.get_y(centres), shapely.get_x(centres)], axis=1)


def _distance(places: np.ndarray, latitude: float, longitude: float) -> np.ndarray:
    """Returns angles on the sphere between places [n, 2] and one place, by the haversine formula, in radians."""
    lat, lon = np.radians(places).T
    here, east = np.radians([latitude, longitude])
    half = np.sin((lat - here) / 2) ** 2 + np.cos(lat) * np.cos(here) * np.sin((lon - east) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
