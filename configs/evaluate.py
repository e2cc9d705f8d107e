"""Cross-modal retrieval with a pre-trained dual encoder: S1 -> S2 and S2 -> S1 among distinct places.

    python main.py --config=configs/evaluate.py --config.init_from=WORKDIR

With an encoder of one sensor, the partner of an image is the same image turned upside down. A CPU with 2 cores takes
half a minute for the sample of `make demo`.

What comes out, in WORKDIR or in --workdir: evaluation/ (scores and pictures) and report.html, which is written again.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration; data_dir and split default to those of the pre-training run."""
    return ConfigDict({
        "task": "evaluate",
        "init_from": "",
        "init_step": -1,
        "data_dir": "",
        "split": "",
        "batch_size": 64,
    })
