"""Probes of a frozen encoder: nearest neighbours and a linear classifier on labelled images. Nothing is fine-tuned.

    python main.py --config=configs/probe.py[:VARIANT] --config.init_from=RUN --workdir=W

RUN is a run of configs/pretrain.py. Variants:

    python main.py --config=configs/probe.py --config.init_from=RUN --workdir=W
        Land cover, 19 classes of BigEarthNet per image, as of `python -m data_prep build ... --labels=land_cover`.
        A CPU with 2 cores takes half a minute for the sample.
    python main.py --config=configs/probe.py:eurosat --config.init_from=RUN --workdir=W
        10 classes of EuroSAT RGB. RUN: pre-trained on pairs with the sensor s2_rgb.
    python main.py --config=configs/probe.py:so2sat --config.init_from=RUN --workdir=W
        17 local climate zones of So2Sat, radar in. RUN: pre-trained with S1 GRD.
    python main.py --config=configs/probe.py:own --config.init_from=RUN --workdir=W
        Own GeoTIFFs with a table of labels (importer geotiff).
    python main.py --config=configs/probe.py:segmentation --config.init_from=RUN --workdir=W
        Flood masks of OMBRIA, or any other class for each pixel: logistic regression on the feature maps.

The same probes of a control, which has learnt nothing; a score means little without them:

    python main.py --config=configs/probe.py --config.init_from=RUN --workdir=W2 --config.representation=random

    random            the run's encoders with random weights
    statistics        mean and deviation of each band; of a pixel its values
    random_features   random convolutional features (Rolf et al. 2021)

--config.cache=FOLDER keeps vectors and maps there, so that other probes of the same encoders and data start at once.

What comes out, in the workdir: evaluation/ (scores and tables) and report.html.
"""

from ml_collections import ConfigDict

VARIANTS = ("land_cover", "eurosat", "so2sat", "own", "segmentation")


def get_config(variant: str = "land_cover") -> ConfigDict:
    """Returns the configuration of one variant; `VARIANTS` are their names."""
    config = ConfigDict({
        "task": "probe",
        "init_from": "",
        "init_step": -1,
        "adapt_bands": "none",
        "representation": "encoder",
        "inputs": "s1+s2",
        "change": "none",
        "data": {
            "dir": "data/s1s2_tiles/bigearthnet_land_cover/1.0.0",
            "split": "train",
            "validation_split": "",
            "eval_split": "test",
            "subset": {
                "fraction": 1.0,
                "folds": 0,
                "fold": 0,
                "groups": "place",
                "validate": False,
                "seed": 0,
            },
        },
        "probes": ("knn", "linear"),
        "class_weights": "none",
        "neighbours": 20,
        "seed": 0,
        "batch_size": 64,
        "cache": "",
    })
    if variant == "eurosat":
        config.inputs = "s2"
        config.data.dir = "data/s1s2_tiles/eurosat_rgb/1.0.0"
    elif variant == "so2sat":
        config.inputs = "s1"
        config.data.dir = "data/s1s2_tiles/so2sat/1.0.0"
    elif variant == "own":
        config.data.dir = "data/s1s2_tiles/geotiff/1.0.0"
    elif variant == "segmentation":
        config.inputs = "s1"
        config.data.dir = "data/s1s2_tiles/ombria/1.0.0"
        config.probes = ("linear",)
    elif variant != "land_cover":
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    return config
