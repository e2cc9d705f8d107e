"""Segmentation fine-tuning from a pre-training run, or from scratch with --config.init_from=

    python main.py --config=configs/finetune.py[:VARIANT] --config.init_from=RUN --workdir=DIR

Variants, with the run that each fits and the hardware:

    python main.py --config=configs/finetune.py:small --config.init_from=RUN --workdir=W --config.data.dir=DIR
        Any data with classes of pixels on any machine: crop, batch and steps follow from the records and the device
        (docs/sizes.md). The encoder is that of RUN.
    python main.py --config=configs/finetune.py:flood_ombria --config.init_from=RUN --workdir=W
        Flood masks of OMBRIA. RUN: configs/pretrain.py:ombria. One GPU, or a CPU in some hours.
    python main.py --config=configs/finetune.py:flood_ombria_change --config.init_from=RUN --workdir=W
        The same with the images before the flood, and their difference. Build the tiles with
        --sensors=s1,s2,s1_before,s2_before. RUN: configs/pretrain.py:ombria.
    python main.py --config=configs/finetune.py:flood --config.init_from=RUN --workdir=W --config.data.dir=DIR
        The Sen1Floods11 layout, radar in. RUN: configs/pretrain.py. One GPU.
    python main.py --config=configs/finetune.py:flood_vit --config.init_from=RUN --workdir=W --config.data.dir=DIR
        The same. RUN: configs/pretrain.py:vit. One GPU.
    python main.py --config=configs/finetune.py:flood_sen1floods11 --config.init_from=RUN --workdir=W
        The same on the official splits, chips of 512 px; --config.data.eval_split=bolivia scores the region that no
        other split holds. RUN: configs/pretrain.py. One GPU.
    python main.py --config=configs/finetune.py:land_cover_dfc2020 --config.init_from=RUN --workdir=W
        Land cover of DFC2020, both sensors in; learns from the contest's validation set, as published comparisons do.
        RUN: configs/pretrain.py with S1 GRD and L1C. One GPU.
    python main.py --config=configs/finetune.py:land_cover_terramesh --config.init_from=RUN --workdir=W
        Land cover of TerraMesh, both sensors in. RUN: configs/pretrain.py with S1 RTC and L2A. A GPU node.
    python main.py --config=configs/finetune.py:water_weak --config.init_from=RUN --workdir=W
        Water, vegetation, other; radar in. RUN: configs/pretrain.py:smoke. A CPU with 2 cores: under 2 minutes.

The labels of water_weak come from spectral indices of the paired optical image; no person drew them. It shows that all
parts work together, not how good a model is.

What comes out, in the workdir: report.html, evaluation/ (IoU, F1 and accuracy per class, pictures), metrics.jsonl,
checkpoints/. Further: --config.inputs=s1|s2|s1+s2, --config.frozen=True, --config.change=difference|concatenation,
--config.decoder=unet|fpn|linear, --config.fusion=early|late, --config.sensor_dropout=0.5,
--config.focal_gamma=2.0, --config.dice=1.0, --config.train_stages=2, --config.layer_decay=0.75;
--config.window=256 predicts larger images in windows that overlap;
--config.data.select_split=held_out --config.schedule.eval_every=50 scores the state that is best on held out places.
"""

from ml_collections import ConfigDict

from dual_encoder.config import defaults
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.optim.schedules import AnyDecay

VARIANTS = ("small", "flood_ombria", "flood_ombria_change", "flood", "flood_vit", "flood_sen1floods11",
            "land_cover_dfc2020", "land_cover_terramesh", "water_weak")


def get_config(variant: str = "flood_ombria") -> ConfigDict:
    """Returns the configuration of one variant; `VARIANTS` are their names."""
    config = ConfigDict({
        "task": "finetune",
        "seed": 0,
        "batch_size": 16,
        "init_from": "",
        "init_step": -1,
        "adapt_bands": "none",
        "inputs": "s1",
        "sizing": "fixed",
        "frozen": False,
        "train_stages": 0,
        "layer_decay": 1.0,
        "fusion": "late",
        "sensor_dropout": 0.0,
        "decoder": "unet",
        "decoder_width": 16,
        "class_weights": "none",
        "focal_gamma": 0.0,
        "dice": 0.0,
        "change": "none",
        "window": 0,
        "overlap": 0.5,
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
            "threads": 2,
            "processes": 0,
            "max_bad_records": 0,
        },
        "encoder": defaults(
            AnyEncoder,
            family="resnet",
            depth=18,
            width=32,
            norm="batch",
            remat=False,
            dtype="float32",
        ),
        "augment": {
            "crop": 128,
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
        "optimizer": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "scaling": "none",
            "warmup": 0.1,
            "decay": defaults(AnyDecay, name="cosine"),
            "weight_decay": 1e-2,
            "momentum": 0.9,
            "clip_norm": 1.0,
            "ema": 0.0,
        },
        "schedule": {
            "epochs": 20,
            "steps": 0,
            "log_every": 20,
            "eval_every": 200,
            "quick_eval_every": 0,
            "quick_eval_records": 1024,
            "train_eval_records": 512,
            "checkpoint_every": 100,
            "keep": 2,
            "log_to": "",
        },
    })
    if variant == "small":
        config.sizing = "auto"
        config.data.dir = ""
    elif variant == "flood_ombria":
        config.data.dir = "data/s1s2_tiles/ombria/1.0.0"
    elif variant == "flood_ombria_change":
        config.data.dir = "data/s1s2_tiles/ombria_s1_s2_s1_before_s2_before/1.0.0"
        config.change = "concatenation"
    elif variant in ("flood", "flood_vit", "flood_sen1floods11"):
        _make_large(config)
        config.class_weights = "inverse"
        config.augment.crop = 256
        config.schedule.epochs = 100
        if variant == "flood_sen1floods11":
            config.data.dir = "data/s1s2_tiles/sen1floods11/1.0.0"
        if variant == "flood_vit":
            config.encoder.family = "vit"
            config.encoder.depth = 12
            config.encoder.width = 768
    elif variant == "land_cover_dfc2020":
        _make_large(config)
        config.inputs = "s1+s2"
        config.data.dir = "data/s1s2_tiles/dfc2020/1.0.0"
        config.data.split = "validation"
        config.augment.crop = 224
        config.schedule.epochs = 50
    elif variant == "land_cover_terramesh":
        _make_large(config)
        config.inputs = "s1+s2"
        config.data.dir = "data/s1s2_tiles/terramesh/1.0.0"
        config.data.eval_split = "validation"
        config.augment.crop = 224
        config.schedule.epochs = 1
    elif variant == "water_weak":
        config.batch_size = 8
        config.data.dir = "data/s1s2_tiles/bigearthnet_water_weak/1.0.0"
        config.data.split = "train+validation"
        config.encoder.width = 16
        config.augment.crop = 96
        config.schedule.epochs = 40
        config.schedule.log_every = 10
        config.schedule.checkpoint_every = 40
    else:
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    return config


def _make_large(config: ConfigDict) -> None:
    """Changes what the variants have in common that start from a ResNet-50 of configs/pretrain.py."""
    config.encoder.depth = 50
    config.encoder.width = 64
    config.encoder.dtype = "bfloat16"
    config.decoder_width = 32
    config.optimizer.learning_rate = 1e-4
