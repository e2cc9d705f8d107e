"""Checks of a run before its first step."""

from jax.sharding import Mesh

from dual_encoder.augment import AugmentConfig
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.errors import UserError
from dual_encoder.runtime import mesh as mesh_lib
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
