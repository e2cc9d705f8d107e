"""Classification of whole images, from a pre-training run or from scratch with --config.init_from=

    python main.py --config=configs/classify.py[:VARIANT] --config.init_from=RUN --workdir=DIR

The data set has labels per image, as those that this command makes of BigEarthNet v2 (19 classes, several per image):

    python -m data_prep build --importer=bigearthnet --raw=RAW --data_dir=data --kind=tiles --labels=land_cover

Variants, with the run that each fits and the hardware:

    python main.py --config=configs/classify.py:small --config.init_from=RUN --workdir=W --config.data.dir=DIR
        Any data with classes of images on any machine: crop, batch and steps follow from the records and the device
        (docs/sizes.md). The encoder is that of RUN.
    python main.py --config=configs/classify.py --config.init_from=RUN --workdir=W
        RUN: configs/pretrain.py. One GPU.
    python main.py --config=configs/classify.py:land_cover_small --config.init_from=RUN --workdir=W
        RUN: configs/pretrain.py:smoke. A CPU with 2 cores: under 2 minutes on the sample.
    python main.py --config=configs/classify.py:eurosat --config.init_from=RUN --workdir=W
        10 classes of EuroSAT RGB. RUN: configs/pretrain.py on pairs with the sensor s2_rgb. One GPU.
    python main.py --config=configs/classify.py:so2sat --config.init_from=RUN --workdir=W
        17 local climate zones of So2Sat, radar in. RUN: configs/pretrain.py with S1 GRD. One GPU.
    python main.py --config=configs/classify.py:own --config.init_from=RUN --workdir=W
        Own GeoTIFFs with a table of labels (importer geotiff). RUN: configs/pretrain.py. One GPU.

What comes out, in the workdir: report.html, evaluation/ (mean average precision, F1 per class), metrics.jsonl,
checkpoints/. Further: --config.inputs=s1|s2|s1+s2; --config.frozen=True trains the linear layer alone;
--config.fusion=early|late, --config.sensor_dropout=0.5, --config.train_stages=2, --config.layer_decay=0.75.
"""

from ml_collections import ConfigDict

from dual_encoder.config import defaults
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.optim.schedules import AnyDecay

VARIANTS = ("land_cover", "small", "land_cover_small", "eurosat", "so2sat", "own")


def get_config(variant: str = "land_cover") -> ConfigDict:
    """Returns the configuration of one variant; `VARIANTS` are their names."""
    config = ConfigDict({
        "task": "classify",
        "seed": 0,
        "batch_size": 64,
        "init_from": "",
        "init_step": -1,
        "adapt_bands": "none",
        "inputs": "s1+s2",
        "sizing": "fixed",
        "frozen": False,
        "train_stages": 0,
        "layer_decay": 1.0,
        "fusion": "late",
        "sensor_dropout": 0.0,
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
            depth=50,
            width=64,
            norm="batch",
            remat=False,
            dtype="bfloat16",
        ),
        "augment": {
            "crop": 0,
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
            "learning_rate": 1e-4,
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
    config.data.dir = "data/s1s2_tiles/bigearthnet_land_cover/1.0.0"
    if variant == "small":
        config.sizing = "auto"
        config.data.dir = ""
        config.optimizer.learning_rate = 1e-3
    elif variant == "land_cover_small":
        config.batch_size = 8
        config.data.split = "train+validation"
        config.encoder.depth = 18
        config.encoder.width = 16
        config.encoder.dtype = "float32"
        config.augment.crop = 96
        config.optimizer.learning_rate = 1e-3
        config.schedule.log_every = 10
    elif variant == "eurosat":
        config.inputs = "s2"
        config.data.dir = "data/s1s2_tiles/eurosat_rgb/1.0.0"
    elif variant == "so2sat":
        config.inputs = "s1"
        config.data.dir = "data/s1s2_tiles/so2sat/1.0.0"
    elif variant == "own":
        config.data.dir = "data/s1s2_tiles/geotiff/1.0.0"
    elif variant != "land_cover":
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    return config
