"""A toy configuration: a number for each image.

    python main.py --config=configs/regress.py --config.init_from=RUN --workdir=DIR --config.data.dir=DATA
"""

from ml_collections import ConfigDict

from configs import classify


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = classify.get_config("land_cover_small")
    config.task = "regress"
    return config
