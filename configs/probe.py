"""Probes of frozen vectors: nearest neighbours and a linear classifier on labelled images. Nothing is fine-tuned.

    python main.py --config=configs/probe.py --config.init_from=RUN --workdir=W

RUN is a run of configs/pretrain.py. The data set has labels per image, as of `python -m data_prep build ...
--kind=tiles --labels=land_cover` (19 classes of BigEarthNet). A CPU with 2 cores takes half a minute for the sample.

The same probes of a control, which has learnt nothing; a score means little without them:

    python main.py --config=configs/probe.py --config.init_from=RUN --workdir=W2 --config.representation=random

    random            the run's encoders with random weights
    statistics        mean and deviation of each band
    random_features   random convolutional features (Rolf et al. 2021)

What comes out, in the workdir: evaluation/ (scores and tables) and report.html.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration. An empty validation_split holds out a fifth of the places of `split`."""
    return ConfigDict({
        "task": "probe",
        "init_from": "",
        "init_step": -1,
        "representation": "encoder",
        "inputs": "s1+s2",
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
                "seed": 0,
            },
        },
        "probes": ("knn", "linear"),
        "neighbours": 20,
        "seed": 0,
        "batch_size": 64,
    })
