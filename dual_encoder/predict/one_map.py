"""Makes one map: opens its scenes, computes the strips, writes the files."""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dual_encoder import __version__
from dual_encoder.console import Progress, clock, say
from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from dual_encoder.inference.frozen_maps import PixelModel
from dual_encoder.predict import aoi, areas, hectares, polygons, preview, strips
from dual_encoder.predict.description import open_scenes
from dual_encoder.predict.layers import Layers
from dual_encoder.predict.part import Part
from dual_encoder.predict.scene import Faults, OnGrid, Scene
from dual_encoder.predict.windows import choose
from dual_encoder.predict.write import write_cog


@dataclasses.dataclass(frozen=True)
class Request:
    """What a map shall be; the flags of `python -m dual_encoder.predict`.

    Attributes:
      paths: name of an image ('s1', 's2', 's1_before', ...) -> its scene.
      out: the map.
      description: geotiff.json; '' = that of the scene.
      area: west,south,east,north, or a file of polygons; '' = the whole scene.
      probabilities, uncertainty: write '<out>_probabilities.tif', '<out>_uncertainty.tif', too.
      preview, polygons: files to write; '' = none.
      minimum: hectares of the smallest polygon.
      simplify: pixels by which the outline of a polygon may move.
      permanent: mask of permanent water; '' = none.
      areas: file of the areas of classes with intervals; '' = none.
      districts, district_key: polygons whose areas are wanted, too, and the property with their names; '' = none.
      level: of the intervals, one of `area_errors.LEVELS`.
      window, margin: in pixels; 0 and -1 = by the model.
      strict: a part of a scene that cannot be read is an error.
    """

    paths: Mapping[str, str]
    out: pathlib.Path
    description: str = ""
    area: str = ""
    probabilities: bool = False
    uncertainty: bool = False
    preview: str = ""
    polygons: str = ""
    minimum: float = 0.0
    simplify: float = 1.0
    permanent: str = ""
    areas: str = ""
    districts: str = ""
    district_key: str = "name"
    level: float = 0.9
    window: int = 0
    margin: int = -1
    strict: bool = False


def make(segmenter: PixelModel, request: Request, permanent: Callable[[Grid], np.ndarray] | None) -> None:
    """Makes a map, and prints what it holds.

    Raises:
      UserError: scenes, model and flags do not fit together, or the disk refuses. Finished strips stay.
    """
    started = time.monotonic()
    out = request.out
    out.parent.mkdir(parents=True, exist_ok=True)
    if request.areas:
        areas.check_calibration(segmenter.calibration, segmenter.not_calibrated, request.level)
    with contextlib.ExitStack() as stack:
        scenes = open_scenes(request.paths, segmenter.sensors, stack, request.description, request.strict)
        job = _job(segmenter, request, scenes, permanent)
        districts = _districts(job, request)
        height, width = job.area.shape
        say(f"map of {height} x {width} pixels in windows of {job.windows.window}, {job.windows.step} pixels apart"
            + ("" if segmenter.facts.shift_invariant else "; this model's answers depend on the window (docs/maps.md)"))
        part = Part(out, _plan(job, request), job.layers.count * height * width)
        stack.callback(part.close)
        faults = {name: scene.scene.faults for name, scene in scenes.items()}
        for name, earlier in part.faults().items():
            faults[name].lost |= earlier["lost"]
            faults[name].strange += earlier["strange"]
        counts, total = strips.Counts(), height * width
        size = sum(np.dtype(scene.spec.dtype).itemsize * len(scene.spec.bands) for scene in scenes.values())
        with Progress("Mpx", round(total / 1e6, 1), lambda: (round(counts.pixels / 1e6, 1), size * counts.pixels, "")):
            strips.compute(job, part, counts)
        _write(job, part, out, _tags(job))
    _report_faults(scenes)
    part.remove()
    for line in _facts(out, job, request, districts):
        say(line)
    seconds = time.monotonic() - started
    say(f"map: {out} ({clock(seconds)}, {height * width / 1e6 / seconds:.3g} Mpx/s)")


def _job(segmenter: PixelModel, request: Request, scenes: Mapping[str, Scene | OnGrid],
         permanent: Callable[[Grid], np.ndarray] | None) -> strips.Job:
    grid, facts = next(iter(scenes.values())).grid, segmenter.facts
    windows = choose(facts.stride, facts.transformer, facts.trained_on, request.window, request.margin)
    layers = Layers.of(segmenter.classes, segmenter.colours, request.probabilities, request.uncertainty,
                       permanent is not None, segmenter.temperature)
    if permanent is not None and not layers.wet:
        raise UserError(f"--permanent-water is given, but no class of the model ({', '.join(segmenter.classes)}) is "
                        "water or flood; leave it out")
    return strips.Job(segmenter, scenes, grid, windows,
                      aoi.area(request.area, grid) if request.area else aoi.whole(grid), layers, permanent)


def _plan(job: strips.Job, request: Request) -> dict[str, Any]:
    """Returns all that the strips depend on, as JSON values."""
    return {"version": __version__, "model": job.segmenter.digest, "window": job.windows.window,
            "margin": job.windows.margin, "layers": job.layers.count, "temperature": job.layers.temperature,
            "edges": "reflected and filled", "classes": list(job.layers.classes),
            "rows": list(job.area.rows), "columns": list(job.area.columns),
            "files": [_file(path) for path in (request.area, request.permanent) if path],
            "scenes": {name: scene.scene.facts for name, scene in job.scenes.items()}}


def _file(path: str) -> list[Any]:
    if not os.path.exists(path):
        return [path]
    facts = os.stat(path)
    return [os.path.abspath(path), facts.st_size, facts.st_mtime_ns]


def _tags(job: strips.Job) -> dict[str, str]:
    tags = {"SOFTWARE": f"dual_encoder {__version__}", "MODEL_DIGEST": job.segmenter.digest,
            "MODEL_STEP": str(job.segmenter.facts.step), "MODEL_TRAINED_WITH": job.segmenter.facts.trained_with}
    found = job.segmenter.calibration
    tags |= {"CALIBRATED": f"yes, on {found.data}" if found else "no", "TEMPERATURE": f"{job.layers.temperature:.6g}"}
    for name, scene in job.scenes.items():
        tags |= {f"INPUT_{name.upper()}": scene.scene.name,
                 f"INPUT_{name.upper()}_TIME": scene.scene.time or "not known"}
    return tags | {f"CLASS_{number}": name for number, name in enumerate(job.layers.classes)}


def _write(job: strips.Job, part: Part, out: pathlib.Path, tags: Mapping[str, str]) -> None:
    """Writes the files of all layers; the map itself last, so that it is there only if all are."""
    grid, layers = job.area.grid(job.grid), job.layers
    last = 1 + layers.predicted * layers.probabilities

    def some(first: int, behind: int) -> Iterable[np.ndarray]:
        return (strip[first:behind] for strip in part.strips(job.rows))

    if layers.probabilities:
        names = [f"probability of {name}, per cent" for name in layers.classes[:layers.predicted]]
        write_cog(beside(out, "probabilities"), some(1, last), grid, names, part.folder, tags)
    if layers.uncertainty:
        write_cog(beside(out, "uncertainty"), some(last, last + 1), grid, ["entropy, per cent of log(classes)"],
                  part.folder, tags)
    write_cog(out, some(0, 1), grid, ["class"], part.folder, tags, layers.colours)


def beside(out: pathlib.Path, what: str) -> pathlib.Path:
    """Returns the path of a further file of a map: 'map_probabilities.tif'."""
    return out.with_name(f"{out.stem}_{what}{out.suffix}")


def _districts(job: strips.Job, request: Request) -> list[areas.District]:
    """Returns the parts whose areas are wanted, the whole map first."""
    layer = areas.read_districts(request.districts, request.district_key, job.grid) if request.districts else []
    return [areas.District(areas.WHOLE), *layer]


def _facts(out: pathlib.Path, job: strips.Job, request: Request, districts: Sequence[areas.District]) -> Iterable[str]:
    """Yields lines about the map; writes picture, polygons and areas."""
    layers, found = job.layers, job.segmenter.calibration
    sizes, bounds = hectares.by_class(out, len(layers.classes)), {}
    if request.areas and found:
        measured = areas.measure(out, layers.classes, districts, found, request.level)
        areas.write(pathlib.Path(request.areas), measured, request.level, out)
        bounds = areas.bounds_of_map(measured, request.level)
    for name, size in zip(layers.classes, sizes.tolist(), strict=True):
        yield (f"  {name}: {size:.2f} ha, {size / max(sizes.sum(), 1e-12):.1%} of the pixels with data"
               f"{bounds.get(name, '')}")
    if request.areas and found:
        empty = len(districts) - len({id(area.district) for area in measured})
        yield f"areas: {request.areas}" + f"; {empty} districts have no pixel with data" * (empty > 0)
    if request.preview:
        title = ", ".join(f"{scene.scene.name} {scene.scene.time}".strip() for scene in job.scenes.values())
        preview.write_preview(pathlib.Path(request.preview), out, layers.classes, layers.colours, title)
        yield f"preview: {request.preview}"
    if request.polygons:
        count, total = polygons.write_polygons(pathlib.Path(request.polygons), out, layers.classes, request.minimum,
                                               request.simplify)
        yield f"polygons: {request.polygons}, {count} of {request.minimum:g} ha or more, {total:.2f} ha together"


def _report_faults(scenes: Mapping[str, Scene | OnGrid]) -> None:
    for scene in (one.scene for one in scenes.values()):
        faults: Faults = scene.faults
        for number, (where, why) in enumerate(faults.lost.items()):
            if number == 5:
                say(f"  and {len(faults.lost) - 5} more parts of '{scene.name}'")
                break
            say(f"no data: {where}: {why}")
        if faults.lost:
            say(f"{len(faults.lost)} parts of '{scene.name}' could not be read and are no data in the map; fetch the "
                "file again (--strict stops there)")
        if faults.strange:
            say(f"some pixels of '{scene.name}' hold values that its unit cannot have; they are no data in the map "
                "(--strict stops there)")
