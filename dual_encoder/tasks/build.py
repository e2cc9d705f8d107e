"""Makes the task of a configuration."""

import dataclasses

import jax

from dual_encoder.config import FinetuneConfig, PretrainConfig
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.tasks.checks import check_batch, check_crop
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.tasks.segment import Finetune
from dual_encoder.tasks.task import Task


def features(config: PretrainConfig | FinetuneConfig) -> tuple[str, ...]:
    """Returns the tensors of a record that the task of `config` uses."""
    return (*config.inputs.split("+"), *(("label",) if isinstance(config, FinetuneConfig) else ()))


def build_task(config: PretrainConfig | FinetuneConfig, records: Records | Shapes, mesh: jax.sharding.Mesh) -> Task:
    """Returns the configured task with random weights; values that change no shape are left out.

    Raises:
      UserError: the records lack what the task needs, or batch or crop do not fit the devices or the images.
    """
    missing = [name for name in features(config) if name not in records.info.tensors]
    if missing:
        raise UserError(f"the task needs '{missing[0]}', the records have {sorted(records.info.tensors)}; give another "
                        "data set, or --sensors=s1_grd,s2_l2a, and --classes=N for segmentation")
    if isinstance(config, FinetuneConfig):
        config = dataclasses.replace(config, class_weights="none", init_from="")
        task = Finetune(config, records.info.sensors, records, None)
    else:
        task = Pretrain(config, records.info.sensors, mesh)
    check_batch(config, mesh)
    check_crop(config.augment.crop, task, records.info)
    return task
