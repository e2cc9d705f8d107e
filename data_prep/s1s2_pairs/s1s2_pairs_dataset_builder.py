"""TFDS builder of unlabelled Sentinel-1/Sentinel-2 pairs."""

import tensorflow_datasets as tfds

from data_prep.build import builder
from data_prep.build.config import make_config


class Builder(builder.ShardBuilder):
    """Pairs; one config per importer with fixed sensors, others by JSON kwargs or `python -m data_prep build`."""

    KIND = "pairs"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        *(make_config(name, "pairs") for name in (
            "bigearthnet", "dfc2020", "mmearth", "ombria", "sen12ms", "sen12ms_cr", "sen1floods11", "so2sat",
            "ssl4eo_s12", "ssl4eo_s12_v11", "terramesh")),
        make_config("majortom", "pairs", size=264),
    ]
