"""Measures on labelled images how sure a segmentation run may be, and how far its areas are off.

    python -m dual_encoder.calibrate --workdir=runs/flood

It takes the fold that the run holds out, or else the split 'validation'. It writes WORKDIR/calibration.json: a
temperature that makes probabilities frequencies, and the errors of the areas of classes, which give the intervals of
`python -m dual_encoder.predict --areas`. Then it writes report.html again. The classes of maps do not change.
docs/maps.md says what the intervals are good for.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.data import overlap
from dual_encoder.data.batches import in_order
from dual_encoder.data.records import Records
from dual_encoder.data.subsets import groups_of
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.evaluation.area_errors import LEVELS, Squares, shares, sides
from dual_encoder.evaluation.calibration import LIMITS, reliability, temperature
from dual_encoder.evaluation.conformal import places_needed
from dual_encoder.imagery.sensors import IGNORED
from dual_encoder.inference.segmenter import Segmenter
from dual_encoder.report.page import write_report
from dual_encoder.runtime import compilation_cache
from dual_encoder.storage import paths
from dual_encoder.tasks.build import BuiltEvaluation, EvaluateConfig, build_evaluation
from dual_encoder.workdir import calibration as file
from dual_encoder.workdir.calibration import Calibration, ImageShares
from dual_encoder.workdir.checkpoint import LoadedModel, load_model

_LOGITS = 1 << 24  # that the temperature is fitted to, at most; more pixels change it little
_BATCH = 1 << 21  # pixels in a batch
_SHOWN = 500  # images in the picture of shares


def main() -> None:
    """Calibrates the run that the command line names. A user's mistake gives one line and exit code 2."""
    parser = make_parser("dual_encoder.calibrate", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a fine-tuned segmentation run")
    add("--step", type=int, help="checkpoint to take; by default the one that the run chose, or else the newest")
    add("--data", default="", help="data set with the same bands and classes; that of the run by default")
    add("--split", default="", help="its split; by default the fold that the run holds out, or validation")
    add("--groups", default="", help="what counts as one place: place, event, or a CSV file with location_id and "
                                     "group; that of the run by default")
    add("--records", type=int, default=2000, help="images to measure on, evenly spaced (default %(default)s)")
    flags = parser.parse_args()
    exit_on_user_error(lambda: _main(flags), flags.debug)


def _main(flags: argparse.Namespace) -> None:
    if flags.records < 1:
        raise UserError(f"--records is {flags.records}; give 1 or more")
    compilation_cache.start()
    workdir = paths.given(flags.workdir)
    model = load_model(workdir, flags.step)
    segmenter, built = Segmenter(model), _open(flags, model)
    records = built.records.evenly_spaced(flags.records)
    groups = flags.groups or model.config["data"]["subset"]["groups"]
    found = measure(segmenter, records, groups_of(records.location_ids, groups), built.title)
    file.write(workdir, found)
    for line in summary(found):
        say(line)
    for line in overlap.lines(records, [(model.dataset["fingerprint"], split)
                                        for split in model.config["data"]["split"].split("+")], built.held_out):
        say(f"  {line}")
    say(f"calibration: {workdir / file.NAME}; report: {write_report(workdir)}")


def _open(flags: argparse.Namespace, model: LoadedModel) -> BuiltEvaluation:
    """Returns the images to measure on; UserError for a split that the run has learnt from."""
    data = model.config["data"]
    split = flags.split or ("" if data["subset"]["folds"] and not flags.data else "validation")
    try:
        built = build_evaluation(EvaluateConfig(
            task="evaluate", init_from=flags.workdir, init_step=model.step, data_dir=flags.data, split=split, folds=0,
            fold=0, groups="", evaluations=(), batch_size=1))
    except UserError as error:  # it speaks of the keys of configs/evaluate.py
        text = str(error).replace("--config.data_dir", "--data").replace("--config.split", "--split")
        raise UserError(text) from error
    same_data = built.records.info.fingerprint == model.dataset["fingerprint"]
    if same_data and not built.held_out and set(split.split("+")) & set(data["split"].split("+")):
        raise UserError(f"the run has learnt from split '{split}', where it is surer than it may be; give another one "
                        "as --split=test, or --data=FOLDER with other images")
    return built


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a model gives for labelled images.

    Attributes:
      logits, labels: of labelled pixels, float32 [n, classes] and uint8 [n]; drawn at random if there are many.
      pixels: number of all labelled pixels.
      squares: shares of the classes in squares, the largest first.
    """

    logits: np.ndarray
    labels: np.ndarray
    pixels: int
    squares: tuple[Squares, ...]


def look(segmenter: Segmenter, records: Records, places: Sequence[str]) -> Seen:
    """Runs the model over all images.

    Args:
      segmenter: the model.
      records: labelled images.
      places: of each image; all images of a place count as much as those of any other place.

    Raises:
      UserError: a damaged record.
    """
    classes, (height, width) = len(segmenter.classes), records.info.tensors["label"].shape[:2]
    kept = min(1.0, _LOGITS / (classes * height * width * len(records)))
    random = np.random.default_rng(0)
    logits, labels, pixels = [np.empty((0, classes), np.float32)], [np.empty(0, np.uint8)], 0
    squares: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {side: [] for side in sides(height, width)}
    batch_size = min(64, max(1, _BATCH // (height * width)), len(records))
    for batch, valid in in_order(records, batch_size):
        of_batch = np.asarray(segmenter.logits({name: batch[name] for name in segmenter.sensors}))
        for number, label, found in zip(batch["record"][:valid].tolist(), batch["label"], of_batch, strict=False):
            mapped = found.argmax(axis=-1).astype(np.uint8)
            for side, of_side in squares.items():
                of_side.append((number, *shares(label, mapped, classes, side)))
            known = label != IGNORED
            pixels += int(known.sum())
            drawn = known & (random.random(label.shape) < kept)
            logits.append(found[drawn])
            labels.append(label[drawn])
    return Seen(np.concatenate(logits), np.concatenate(labels), pixels,
                tuple(_joined(side, places, of_side) for side, of_side in squares.items()))


def _joined(side: int, places: Sequence[str], found: list[tuple[int, np.ndarray, np.ndarray]]) -> Squares:
    images = tuple(number for number, true, _ in found for _ in true)
    true, mapped = (np.concatenate([row[at] for row in found]) for at in (1, 2))
    return Squares(side, images, tuple(places[number] for number in images), true, mapped)


def measure(segmenter: Segmenter, records: Records, places: Sequence[str], title: str) -> Calibration:
    """Runs the model over all images and returns what was found.

    Args:
      segmenter, records, places: as of `look`.
      title: of the records, such as "split 'validation'".

    Raises:
      UserError: no pixel has a label, or a record is damaged.
    """
    seen, info = look(segmenter, records, places), records.info
    if not len(seen.labels):
        raise UserError(f"no pixel of {title} has a label; give another --split or --data")
    factor, whole = temperature(seen.logits, seen.labels), seen.squares[0]
    shown = tuple(ImageShares(records.ids[number], places[number], tuple(true), tuple(mapped)) for number, true, mapped
                  in zip(whole.images, whole.true.tolist(), whole.mapped.tolist(), strict=True))
    return Calibration(
        segmenter.digest, segmenter.facts.step, tuple(segmenter.sensors), segmenter.classes, info.fingerprint,
        f"{info.name}/{info.config}/{info.version}, {title}", len(records), seen.pixels, factor,
        reliability(seen.logits, seen.labels), reliability(seen.logits / np.float32(factor), seen.labels),
        tuple(of_side.errors() for of_side in seen.squares), shown[::max(1, math.ceil(len(shown) / _SHOWN))])


def summary(found: Calibration) -> list[str]:
    """Returns lines for the console."""
    lines = [f"{found.records} images of {found.data}, {found.pixels} labelled pixels",
             f"  temperature {found.temperature:.3f}: expected calibration error {found.before.error:.4f} -> "
             f"{found.after.error:.4f}, negative log-likelihood {found.before.nll:.4f} -> {found.after.nll:.4f}"]
    if not LIMITS[0] * 1.01 < found.temperature < LIMITS[1] * 0.99:
        lines.append("  the temperature lies at the end of its range: the model is right (or as good as random) nearly "
                     "everywhere on these images, and they say little about its probabilities")
    for area in found.areas:
        of_level = "; ".join(
            f"{level:.0%}: " + (", ".join(f"{name} {value:.3f}" for name, value in zip(found.classes, row, strict=True))
                                if row else f"needs {places_needed(level)} places")
            for level, row in zip(LEVELS, area.radii, strict=True))
        lines.append(f"  errors, {area.squares} squares of {area.side} px in {area.places} places: {of_level}")
    return lines


if __name__ == "__main__":
    main()
