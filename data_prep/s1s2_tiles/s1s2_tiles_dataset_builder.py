"""TFDS builder of labelled Sentinel-1/Sentinel-2 tiles for segmentation."""

import tensorflow_datasets as tfds

from data_prep.build import builder
from data_prep.build.config import make_config


class Builder(builder.ShardBuilder):
    """Tiles; one config per importer with fixed sensors, others by JSON kwargs or `python -m data_prep build`."""

    KIND = "tiles"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        *(make_config(name, "tiles") for name in (
            "bigearthnet", "dfc2020", "ombria", "sen12ms", "sen1floods11", "so2sat", "terramesh")),
        make_config("sen1floods11", "tiles", sensors=("s1", "s2")),
        *(make_config(name, "tiles", labels="water_weak") for name in (
            "bigearthnet", "sen12ms_cr", "sen1floods11", "ssl4eo_s12", "ssl4eo_s12_v11")),
    ]
