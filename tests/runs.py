"""Small runs for tests: a configuration, its task and records, and training."""

import jax
from etils import epath

from configs import classify, finetune, pretrain
from dual_encoder.config import parse
from dual_encoder.data.records import Records
from dual_encoder.report.page import write_report
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import AnyConfig, Built, make_task
from dual_encoder.training.loop import fit as train

# One block: its step is traced and compiled in a third of the time of a ResNet-18.
VIT = {"family": "vit", "depth": 1, "width": 64, "patch": 8, "image_size": 32, "pool": "mean", "positions": "sincos"}
VIT_FLAGS = tuple(f"--config.encoder.{key}={value}" for key, value in VIT.items())


def configure(folder, variant="smoke", *, family="vit", **changes):
    """The configuration of a small variant, made smaller still.

    folder: the data set; its split 'train' is trained on.
    variant: 'smoke' (pre-training), 'water_weak' (segmentation) or 'land_cover_small' (classification).
    family: of the encoders: 'vit', the fast one, or 'resnet', a ResNet-18 with BatchNorm.
    changes: keys, with '__' for '.': loss__name="barlow"; a dict replaces some keys of a group.
    """
    files = {"smoke": pretrain, "water_weak": finetune, "land_cover_small": classify}
    values = files[variant].get_config(variant)
    values.data.dir, values.data.split = str(folder), "train"
    values.encoder.width, values.batch_size, values.augment.crop = 8, 8, 32
    values.schedule.update({"steps": 2, "log_every": 1, "checkpoint_every": 0})
    if variant == "smoke":
        values.projection.update({"hidden": 16, "dim": 8})
    if variant == "water_weak":
        values.decoder_width = 4
    if family == "vit":
        values.encoder.update(VIT)
    for path, value in changes.items():
        *groups, key = path.split("__")
        group = values
        for name in groups:
            group = group[name]
        group.update({key: value})
    return parse(AnyConfig, values.to_dict())


def open_run(config, pretrained=None, devices=None, sensors=None):
    """(task, records) of a configuration, with the data set's own statistics."""
    records = Records(config.data.dir, config.data.split, config.features,
                      max_bad_records=config.data.max_bad_records)
    return make_task(config, sensors or records.info.sensors, records, devices, pretrained), records


def fit(config, workdir, devices=None, pretrained=None, report=False):
    """Trains to the end; `devices`: all when None. report: with report.html, which takes most of a second."""
    devices = mesh.make(devices)
    task, records = open_run(config, pretrained, devices)
    eval_records = Records(config.data.dir, config.data.eval_split, config.features)
    train(Built(config, task, records, eval_records), devices, epath.Path(workdir),
          after_evaluation=write_report if report else lambda workdir: None)
    if report:
        write_report(workdir)
    return task


def one_device():
    """A mesh of one device."""
    return mesh.make(jax.devices()[:1])
