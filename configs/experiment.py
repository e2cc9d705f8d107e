"""Plans of experiments: which initialisations are compared on which tasks, and how often.

    python -m dual_encoder.experiment --plan=configs/experiment.py[:VARIANT] --out=DIR

Variants, with the data and the hardware:

    python -m dual_encoder.experiment --plan=configs/experiment.py --out=runs/quick
        The sample of `make demo`: land cover per image and water per pixel, of 32 places. It shows all parts of an
        experiment; 32 places tell little. A CPU with 2 cores: under 10 minutes. `make experiment` runs it.
    python -m dual_encoder.experiment --plan=configs/experiment.py:flood --out=runs/flood --jobs=2
        Floods of OMBRIA, whole scenes held out: dual encoder, SimCLR on radar, random weights, scratch. docs/results.md
        has the commands that make the data. A CPU with 2 cores: about two hours.
    python -m dual_encoder.experiment --plan=configs/experiment.py:land_cover --out=runs/land_cover --jobs=2
        Land cover of EuroSAT RGB, pre-trained on pairs of radar (VH) and RGB. A CPU with 2 cores: half an hour.

What comes out, in DIR: report.html with verdicts, curves and tables; results.csv; images.csv; tables.md; tables.tex;
and the workdir of every run. The keys are described in dual_encoder/experiment/plan.py.
"""

from typing import Any

from ml_collections import ConfigDict

VARIANTS = ("quick", "flood", "land_cover")
_FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)


def get_config(variant: str = "quick") -> ConfigDict:
    """Returns the plan of one variant: 'quick', 'flood' or 'land_cover'."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant '{variant}'; valid: {', '.join(VARIANTS)}")
    config = ConfigDict({
        "title": "",
        "initialisations": [],
        "tasks": [],
        "encoder": {},
        "fractions": _FRACTIONS,
        "candidate_fraction": 0.25,
        "folds": 3,
        "groups": "place",
        "pretrain_per_fold": True,
        "seeds": 5,
        "pretrain_seeds": 1,
        "keep_models": False,
        "comparisons": [],
        "margin": 0.01,
    })
    {"quick": _quick, "flood": _flood, "land_cover": _land_cover}[variant](config)
    return config


def _quick(config: ConfigDict) -> None:
    """The sample of BigEarthNet."""
    every = "train+validation+test"
    pairs = {"data": {"dir": "data/s1s2_pairs/bigearthnet/1.0.0", "split": every},
             "schedule": {"epochs": 30, "checkpoint_every": 0, "keep": 1}}
    config.title = "Sample of BigEarthNet: two sensors or one?"
    config.initialisations = [
        _initialisation("dual_encoder", pretrain="configs/pretrain.py:smoke", keys=pairs),
        _initialisation("simclr_s2", pretrain="configs/pretrain.py:smoke", keys=pairs | {
            "inputs": "s2", "loss": {"name": "nt_xent"}, "augment": _STRONG}),
        _initialisation("random", like="simclr_s2", cell_keys={"representation": "random"}),
        _initialisation("statistics", like="simclr_s2", cell_keys={"representation": "statistics"}),
    ]
    config.tasks = [
        _task("land_cover", config="configs/probe.py", metric="linear/micro_f1", fractions=(1.0,), keys={
            "inputs": "s2", "probes": ("linear",),
            "data": {"dir": "data/s1s2_tiles/bigearthnet_land_cover/1.0.0", "split": every}}),
        _task("water", config="configs/probe.py:segmentation", metric="linear/miou", keys={
            "inputs": "s2", "data": {"dir": "data/s1s2_tiles/bigearthnet_water_weak/1.0.0", "split": every}}),
    ]
    config.fractions = (0.5, 1.0)
    config.folds = 2
    config.seeds = 3
    config.comparisons = [("dual_encoder", "simclr_s2"), ("dual_encoder", "random"), ("dual_encoder", "statistics")]


def _flood(config: ConfigDict) -> None:
    """OMBRIA: radar before and after a flood, scenes held out."""
    every = {"dir": "data/s1s2_pairs/ombria/1.0.0", "split": "train+test"}
    small = {"data": every, "batch_size": 64, "augment": {"crop": 64},
             "schedule": {"steps": 1200, "log_every": 100, "eval_every": 0, "checkpoint_every": 600, "keep": 1}}
    tiles = {"dir": "data/s1s2_tiles/ombria_s1_s2_s1_before_s2_before/1.0.0", "split": "train+test"}
    probe = {"config": "configs/probe.py:segmentation", "metric": "linear/iou/flood"}
    weighed = {"data": tiles, "class_weights": "inverse"}  # a flood covers a third of the pixels, and less of a scene
    config.title = "Floods of OMBRIA on held-out scenes: dual encoder, SimCLR, random weights, scratch"
    config.initialisations = [
        _initialisation("dual_encoder", pretrain="configs/pretrain.py:ombria", keys=small),
        _initialisation("simclr_s1", pretrain="configs/pretrain.py:ombria", keys=small | {
            "inputs": "s1", "loss": {"name": "nt_xent"}, "augment": _STRONG | {"crop": 64}}, tasks=_RADAR),
        _initialisation("random", like="dual_encoder", cell_keys={"representation": "random"}, tasks=_PROBES),
        _initialisation("statistics", like="dual_encoder", cell_keys={"representation": "statistics"}, tasks=_PROBES),
        _initialisation("scratch", tasks=("change_finetuned",)),
    ]
    config.tasks = [
        _task("change_probe", **probe, keys=weighed | {"change": "concatenation"}),
        _task("change_finetuned", config="configs/finetune.py:flood_ombria_change", metric="iou/flood",
              fractions=(0.1,), keys={
                  "data": tiles, "augment": {"crop": 64}, "change": "difference", "decoder_width": 8,
                  "schedule": {"steps": 100, "log_every": 50, "checkpoint_every": 0, "keep": 1}}),
        _task("after_probe", **probe, keys=weighed, fractions=(0.1, 1.0)),
        _task("fused_change_probe", **probe, keys=weighed | {"inputs": "s1+s2", "change": "concatenation"},
              fractions=(0.1,)),
    ]
    config.encoder = {"width": 16}
    config.groups = "data/ombria_groups.csv"
    config.comparisons = [("dual_encoder", "simclr_s1"), ("dual_encoder", "random"), ("dual_encoder", "statistics"),
                          ("dual_encoder", "scratch"), ("simclr_s1", "scratch"), ("simclr_s1", "random")]


_RADAR = ("change_finetuned", "change_probe", "after_probe")
_PROBES = ("change_probe", "after_probe", "fused_change_probe")


def _land_cover(config: ConfigDict) -> None:
    """EuroSAT RGB, pre-trained on pairs of VH and RGB of two cities."""
    pairs = {"data": {"dir": "data/s1s2_pairs/cities/1.0.0", "split": "train"}, "batch_size": 64,
             "augment": {"crop": 64},
             "schedule": {"steps": 600, "log_every": 100, "eval_every": 0, "checkpoint_every": 0, "keep": 1}}
    config.title = "Land cover of EuroSAT RGB: dual encoder, SimCLR, random weights, image statistics"
    config.initialisations = [
        _initialisation("dual_encoder", pretrain="configs/pretrain.py:ombria", keys=pairs),
        _initialisation("simclr_s2", pretrain="configs/pretrain.py:ombria", keys=pairs | {
            "inputs": "s2", "loss": {"name": "nt_xent"}, "augment": _STRONG | {"crop": 64}}),
        _initialisation("random", like="dual_encoder", cell_keys={"representation": "random"}),
        _initialisation("random_features", like="dual_encoder", cell_keys={"representation": "random_features"}),
        _initialisation("statistics", like="dual_encoder", cell_keys={"representation": "statistics"}),
    ]
    config.tasks = [_task("eurosat", config="configs/probe.py:eurosat", metric="linear/accuracy", keys={
        "probes": ("linear",),
        "data": {"dir": "data/s1s2_tiles/eurosat_rgb/1.0.0", "split": "train+validation+test"}})]
    config.encoder = {"width": 16}
    config.pretrain_per_fold = False
    config.pretrain_seeds = 3
    config.comparisons = [("dual_encoder", "simclr_s2"), ("dual_encoder", "random"),
                          ("dual_encoder", "random_features"), ("dual_encoder", "statistics"), ("simclr_s2", "random")]


_STRONG: dict[str, Any] = {
    "min_area": 0.2, "sar_gain_db": 1.0, "sar_band_gain_db": 0.5, "sar_looks": 4, "optical_brightness": 0.4,
    "optical_band_gain": 0.1, "optical_contrast": 0.4, "blur": 0.5, "to_grey": 0.2}


def _initialisation(name: str, **keys: Any) -> dict[str, Any]:
    """Returns the keys of an initialisation; those that are not given are empty."""
    empty = {"pretrain": "", "keys": {}, "init_from": "", "like": "", "cell_keys": {}, "tasks": ()}
    return {"name": name} | empty | keys


def _task(name: str, **keys: Any) -> dict[str, Any]:
    """Returns the keys of a task; those that are not given are empty."""
    return {"name": name, "keys": {}, "candidates": [], "fractions": ()} | keys
