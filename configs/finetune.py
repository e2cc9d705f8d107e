"""Segmentation fine-tuning from a pre-training run (or from scratch with --config.init_from=).

    python main.py --config=configs/finetune.py:flood_ombria --config.init_from=WORKDIR --workdir=DIR2
    python main.py --config=configs/finetune.py:flood --config.init_from=WORKDIR --workdir=DIR2 --config.data.dir=DIR
    python main.py --config=configs/finetune.py:water_weak --config.init_from=WORKDIR --workdir=DIR2

flood_ombria: flood masks of OMBRIA; fits a checkpoint of configs/pretrain.py:ombria.
flood:        the Sen1Floods11 layout, radar in; fits a checkpoint of configs/pretrain.py.
flood_vit:    the same way, for a checkpoint of configs/pretrain.py:vit.
water_weak:   radar in; water / vegetation / other from spectral indices of the paired optical image. These labels are
              weak: no person drew them. It shows that the plumbing works, on a checkpoint of configs/pretrain.py:smoke.
Further: --config.inputs=s1|s2|s1+s2, --config.frozen=True.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "flood_ombria") -> ConfigDict:
    """Returns the configuration of one variant: 'flood_ombria', 'flood', 'flood_vit' or 'water_weak'."""
    config = ConfigDict({
        "task": "finetune", "seed": 0, "batch_size": 16, "init_from": "", "init_step": -1, "inputs": "s1",
        "frozen": False, "decoder_width": 16, "class_weights": "none",
        "data": {"dir": "", "split": "train", "weights": (), "eval_split": "test", "statistics": "", "threads": 2,
                 "processes": 0, "max_bad_records": 0},
        "encoder": {"family": "resnet", "depth": 18, "width": 32, "norm": "batch", "patch": 16, "image_size": 224,
                    "pool": "token", "positions": "learned", "remat": False, "dtype": "float32"},
        "augment": {"crop": 128, "flips": True, "turns": True, "sar_gain_db": 0.0, "sar_looks": 0,
                    "optical_brightness": 0.0, "optical_contrast": 0.0},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "warmup": 0.1, "weight_decay": 1e-2,
                      "momentum": 0.9, "clip_norm": 1.0, "ema": 0.0},
        "schedule": {"epochs": 20, "steps": 0, "log_every": 20, "eval_every": 0, "checkpoint_every": 100, "keep": 2},
    })
    if variant == "flood_ombria":
        config.data.dir = "data/s1s2_tiles/ombria/1.0.0"
    elif variant in ("flood", "flood_vit"):
        config.encoder.update({"depth": 50, "width": 64, "dtype": "bfloat16"})
        config.decoder_width = 32
        config.class_weights = "inverse"
        config.augment.crop = 256
        config.optimizer.learning_rate = 1e-4
        config.schedule.epochs = 100
        if variant == "flood_vit":
            config.encoder.update({"family": "vit", "depth": 12, "width": 768})
    elif variant == "water_weak":
        config.batch_size = 8
        config.data.dir = "data/s1s2_tiles/bigearthnet_water_weak/1.0.0"
        config.data.split = "train+validation"
        config.encoder.width = 16
        config.augment.crop = 96
        config.schedule.update({"epochs": 40, "log_every": 10, "checkpoint_every": 40})
    else:
        raise ValueError(f"unknown variant '{variant}'; valid: flood_ombria, flood, flood_vit, water_weak")
    return config
