"""Plans of experiments: which initialisations are compared on which tasks, and how often.

    python -m dual_encoder.experiment --plan=configs/experiment.py[:VARIANT] --out=DIR

Variants, with the data and the hardware:

    python -m dual_encoder.experiment --plan=configs/experiment.py --out=runs/quick
        The sample of `make demo`: land cover per image and water per pixel, of 32 places. It shows all parts of an
        experiment; 32 places tell little. A CPU with 2 cores: under 10 minutes. `make experiment` runs it.

What comes out, in DIR: report.html with verdicts, curves and tables; results.csv; images.csv; tables.md; tables.tex;
and the workdir of every run. The keys are described in dual_encoder/experiment/plan.py.
"""

from typing import Any

from ml_collections import ConfigDict

VARIANTS = ("quick",)


def get_config(variant: str = "quick") -> ConfigDict:
    """Returns the plan of one variant: 'quick'."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    return _quick()


def _quick() -> ConfigDict:
    pairs = {"data": {"dir": "data/s1s2_pairs/bigearthnet/1.0.0", "split": "train+validation+test"},
             "schedule": {"epochs": 30, "checkpoint_every": 0, "keep": 1}}
    return ConfigDict({
        "title": "Sample of BigEarthNet: two sensors or one?",
        "initialisations": [
            _initialisation("dual_encoder", pretrain="configs/pretrain.py:smoke", keys=pairs),
            _initialisation("simclr_s2", pretrain="configs/pretrain.py:smoke", keys=pairs | {
                "inputs": "s2", "loss": {"name": "nt_xent"}, "augment": _STRONG}),
            _initialisation("random", like="simclr_s2", cell_keys={"representation": "random"}),
            _initialisation("statistics", like="simclr_s2", cell_keys={"representation": "statistics"}),
        ],
        "tasks": [{
            "name": "land_cover",
            "config": "configs/probe.py",
            "keys": {"inputs": "s2", "data": {"dir": "data/s1s2_tiles/bigearthnet_land_cover/1.0.0",
                                              "split": "train+validation+test"}},
            "metric": "linear/micro_f1",
            "candidates": [],
        }, {
            "name": "water",
            "config": "configs/probe.py:segmentation",
            "keys": {"inputs": "s2", "data": {"dir": "data/s1s2_tiles/bigearthnet_water_weak/1.0.0",
                                              "split": "train+validation+test"}},
            "metric": "linear/miou",
            "candidates": [],
        }],
        "encoder": {},
        "fractions": (0.5, 1.0),
        "candidate_fraction": 1.0,
        "folds": 4,
        "groups": "place",
        "pretrain_per_fold": True,
        "seeds": 3,
        "pretrain_seeds": 1,
        "keep_models": True,
        "comparisons": [("dual_encoder", "simclr_s2"), ("dual_encoder", "random"), ("dual_encoder", "statistics")],
        "margin": 0.01,
    })


_STRONG: dict[str, Any] = {
    "min_area": 0.2, "sar_gain_db": 1.0, "sar_band_gain_db": 0.5, "sar_looks": 4, "optical_brightness": 0.4,
    "optical_band_gain": 0.1, "optical_contrast": 0.4, "blur": 0.5, "to_grey": 0.2}


def _initialisation(name: str, **keys: Any) -> dict[str, Any]:
    """Returns the keys of an initialisation; those that are not given are empty."""
    empty = {"pretrain": "", "keys": {}, "init_from": "", "like": "", "cell_keys": {}, "tasks": ()}
    return {"name": name} | empty | keys
