"""Contrastive pre-training of a dual encoder.

    python main.py --config=configs/pretrain.py[:VARIANT] --workdir=DIR

Variants, with the hardware and the time that they are made for:

    python main.py --config=configs/pretrain.py --workdir=W --config.data.dir=DIR
        Paper scale: two ResNet-50 at 224 px on about a million pairs of 264 px. TPU slice or GPU node.
    python main.py --config=configs/pretrain.py:vit --workdir=W --config.data.dir=DIR
        The same with two ViT-B/16.
    python main.py --config=configs/pretrain.py:simclr_s2 --workdir=W --config.data.dir=DIR
        The baseline of the paper: one sensor alone; two strong augmentations of an image are the pair. Also simclr_s1.
    python main.py --config=configs/pretrain.py:simclr_s1s2 --workdir=W --config.data.dir=DIR
        The same baseline with one encoder of the stacked bands of both sensors.
    python main.py --config=configs/pretrain.py:strong --workdir=W --config.data.dir=DIR
        The dual encoder with the augmentations of that baseline, to tell their effect from that of the second sensor.
    python main.py --config=configs/pretrain.py:ombria --workdir=W
        490 real pairs of 256 px. One GPU, or a CPU overnight.
    python main.py --config=configs/pretrain.py:small --workdir=W --config.data.dir=DIR
        Any data on any machine: encoder, crop, batch and steps follow from the records and the device (docs/sizes.md).
    python main.py --config=configs/pretrain.py:smoke --workdir=W
        The real sample that `python -m data_prep sample` fetches. A CPU with 2 cores: under 2 minutes.

DIR is what `python -m data_prep build` prints; images of less than 224 px need a smaller --config.augment.crop. The
time of a run on a machine that you do not have, and whether it fits, is printed by

    python -m dual_encoder.plan --config=configs/pretrain.py --topology=v5e:4x4 --size=264 --pairs=1000000

What comes out, in the workdir: report.html, evaluation/ (retrieval scores and pictures), metrics.jsonl, checkpoints/.

The paper does not publish its hyper-parameters. These follow SimCLR (LARS, warm-up, cosine, temperature) and
Dual-SimCLR (head). The small variants use AdamW and CLIP's learnable temperature; `vit` the optimizer of MoCo v3 (Chen
et al. 2021, its published commands).
"""

from ml_collections import ConfigDict

from dual_encoder.config import defaults
from dual_encoder.losses.choices import AnyObjective
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.optim.schedules import AnyDecay

VARIANTS = ("paper", "small", "smoke", "ombria", "vit", "simclr_s1", "simclr_s2", "simclr_s1s2", "strong")


def get_config(variant: str = "paper") -> ConfigDict:
    """Returns the configuration of one variant: 'paper', 'small', 'smoke', 'ombria', 'vit', 'simclr_s1',
    'simclr_s2', 'simclr_s1s2' or 'strong'.

    `defaults` adds the keys of the alternatives that are not chosen, so that --config.loss.name and the like can choose
    them.
    """
    config = ConfigDict({
        "task": "pretrain",
        "seed": 0,
        "batch_size": 4096,
        "inputs": "s1+s2",
        "sizing": "fixed",
        "fusion": "late",
        "init_from": "",
        "init_step": -1,
        "data": {
            "dir": "",
            "split": "train",
            "weights": (),
            "eval_split": "test",
            "select_split": "auto",
            "subset": {
                "fraction": 1.0,
                "folds": 0,
                "fold": 0,
                "groups": "place",
                "validate": False,
                "seed": 0,
            },
            "statistics": "",
            "threads": 16,
            "processes": 0,
            "max_bad_records": 0,
        },
        "encoder": defaults(
            AnyEncoder,
            family="resnet",
            depth=50,
            width=64,
            norm="batch",
            remat=False,
            dtype="bfloat16",
        ),
        "projection": {
            "hidden": 2048,
            "dim": 128,
        },
        "loss": defaults(
            AnyObjective,
            name="info_nce",
            temperature=0.1,
            learnable_temperature=False,
            false_negatives="mask",
            chunk=0,
        ),
        "augment": {
            "crop": 224,
            "min_area": 0.0,
            "shared_crop": True,
            "flips": True,
            "turns": True,
            "sar_gain_db": 0.0,
            "sar_band_gain_db": 0.0,
            "sar_looks": 0,
            "optical_brightness": 0.0,
            "optical_band_gain": 0.0,
            "optical_contrast": 0.0,
            "blur": 0.0,
            "to_grey": 0.0,
            "drop_band": 0.0,
        },
        "train": {
            "micro_batch": 0,
        },
        "knn": {
            "every": 0,
            "dir": "",
            "split": "train",
            "eval_split": "test",
            "records": 2048,
            "neighbours": 20,
        },
        "optimizer": {
            "name": "lars",
            "learning_rate": 0.3,
            "scaling": "linear",
            "warmup": 0.1,
            "decay": defaults(AnyDecay, name="cosine"),
            "weight_decay": 1e-6,
            "momentum": 0.9,
            "clip_norm": 0.0,
            "ema": 0.0,
        },
        "schedule": {
            "epochs": 100,
            "steps": 0,
            "log_every": 50,
            "eval_every": 2000,
            "quick_eval_every": 0,
            "quick_eval_records": 1024,
            "train_eval_records": 512,
            "checkpoint_every": 1000,
            "keep": 3,
            "log_to": "",
        },
    })
    if variant in ("small", "smoke", "ombria"):
        _make_small(config)
    if variant == "small":
        config.sizing = "auto"
    elif variant == "smoke":
        config.batch_size = 8
        config.data.dir = "data/s1s2_pairs/bigearthnet/1.0.0"
        config.data.split = "train+validation"
        config.encoder.width = 16
        config.augment.crop = 96
        config.schedule.epochs = 60
        config.schedule.log_every = 10
        config.schedule.eval_every = 0
        config.schedule.checkpoint_every = 40
    elif variant == "ombria":
        config.batch_size = 64
        config.data.dir = "data/s1s2_pairs/ombria/1.0.0"
        config.augment.crop = 128
        config.schedule.log_every = 20
        config.schedule.eval_every = 200
        config.schedule.checkpoint_every = 100
    elif variant == "vit":
        config.encoder.family = "vit"
        config.encoder.depth = 12
        config.encoder.width = 768
        config.optimizer.name = "adamw"
        config.optimizer.learning_rate = 1.5e-4
        config.optimizer.warmup = 40 / 300
        config.optimizer.weight_decay = 0.1
        config.schedule.epochs = 300
    elif variant in ("simclr_s1", "simclr_s2"):
        config.inputs = variant.removeprefix("simclr_")
        config.loss.name = "nt_xent"
        _augment_strongly(config)
    elif variant == "simclr_s1s2":
        config.fusion = "early"
        config.loss.name = "nt_xent"
        _augment_strongly(config)
    elif variant == "strong":
        _augment_strongly(config)
    elif variant != "paper":
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    return config


def _augment_strongly(config: ConfigDict) -> None:
    """Sets the augmentations that a method without a second sensor needs.

    Window, blur and grey are SimCLR's, brightness and contrast DeCUR's. Gains are ours; a GRD image has 4.4 looks.
    """
    config.augment.min_area = 0.2
    config.augment.sar_gain_db = 1.0
    config.augment.sar_band_gain_db = 0.5
    config.augment.sar_looks = 4
    config.augment.optical_brightness = 0.4
    config.augment.optical_band_gain = 0.1
    config.augment.optical_contrast = 0.4
    config.augment.blur = 0.5
    config.augment.to_grey = 0.2


def _make_small(config: ConfigDict) -> None:
    """Changes what all small variants have in common."""
    config.data.threads = 2
    config.encoder.depth = 18
    config.encoder.width = 32
    config.encoder.dtype = "float32"
    config.projection.hidden = 256
    config.projection.dim = 64
    config.loss.temperature = 0.07
    config.loss.learnable_temperature = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.scaling = "none"
    config.optimizer.weight_decay = 1e-4
