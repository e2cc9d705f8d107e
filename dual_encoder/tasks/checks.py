"""Checks of a run before its first step."""

from jax.sharding import Mesh

from dual_encoder.augment import AugmentConfig
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.tasks.task import Task, TaskConfig


def check_batch(config: TaskConfig, mesh: Mesh) -> None:
    """Raises UserError unless batch and micro-batch can be split evenly over the devices."""
    mesh_lib.check_rows("batch_size", config.batch_size, mesh)
    if rows := config.micro_batch_rows():
        mesh_lib.check_rows("train.micro_batch", rows, mesh, of=config.batch_size)


def check_crop(augment: AugmentConfig, task: Task, info: DatasetInfo) -> None:
    """Raises UserError when the images of a data set are smaller than the crop, unless the crop is resampled."""
    if augment.min_area:
        return
    crop = augment.crop
    size = min(side for name in task.sensors for side in info.tensors[name].shape[:2])
    if crop > size:
        raise UserError(f"config.augment.crop is {crop}, the images have {size} pixels; use at most {size}, or 0 for "
                        "whole images")


def check_signal(config: TaskConfig, records: Records, *scored: Records | None) -> None:
    """Raises UserError when the records cannot teach, or cannot measure, what a pre-training run is about.

    An objective with negatives needs two places, unless it takes the pairs of one place for negatives of each other. A
    gallery holds one pair of each place, so retrieval among one place is right by construction.

    Args:
      config: of the run.
      records: to learn from.
      scored: splits that are scored; None is left out.
    """
    if not isinstance(config, PretrainConfig):
        return
    if getattr(config.loss, "false_negatives", "keep") != "keep" and not has_places(records):
        raise UserError(f"the {len(records)} pairs of split '{config.data.split}' of '{config.data.dir}' are of a "
                        "single place: none is a negative of another, and nothing is learnt; train on several places, "
                        "or set --config.loss.false_negatives=keep")
    for part in scored:
        if part is not None:
            check_gallery(part)


def check_gallery(records: Records) -> None:
    """Raises UserError for records of a single place, among which retrieval cannot be wrong."""
    if not has_places(records):
        names = "+".join(dict.fromkeys(part.split for part in records.parts))
        raise UserError(f"split '{names}' of '{records.parts[0].folder}' has a single place: a gallery of 1 gives a "
                        "perfect score to any network; evaluate on another split, or build with a smaller "
                        "--block-degrees")


def has_places(records: Records) -> bool:
    """Returns True if the records are of two places or more; it reads until the second one."""
    places = (records.read_into(number, {})[1] for number in range(len(records)))
    first = next(places, None)
    return any(place != first for place in places)
