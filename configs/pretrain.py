"""Contrastive pre-training of a dual encoder.

Paper-scale run (TPU pod or GPU node; two ResNet-50 on ~1M pairs of 264 px):

    python main.py --config=configs/pretrain.py --workdir=runs/pretrain --config.data.dir=DIR

Variants:

    python main.py --config=configs/pretrain.py:smoke --workdir=runs/smoke     the real sample, under 2 minutes on a CPU
    python main.py --config=configs/pretrain.py:ombria --workdir=runs/ombria   490 real pairs of 256 px, on a CPU

DIR is what `python -m data_prep build` prints; images of less than 224 px need a smaller --config.augment.crop. The
paper does not publish its hyper-parameters; these follow SimCLR (LARS, warm-up, cosine, temperature) and Dual-SimCLR
(head). The small variants use AdamW and CLIP's learnable temperature.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "paper") -> ConfigDict:
    """Returns the configuration of one variant: 'paper', 'smoke' or 'ombria'."""
    config = ConfigDict({
        "task": "pretrain", "seed": 0, "batch_size": 4096,
        "data": {"dir": "", "split": "train", "eval_split": "test", "statistics": "", "threads": 16, "processes": 0},
        "encoder": {"depth": 50, "width": 64, "dtype": "bfloat16"},
        "projection": {"hidden": 2048, "dim": 128},
        "loss": {"temperature": 0.1, "learnable_temperature": False, "false_negatives": "mask"},
        "augment": {"crop": 224, "flips": True, "turns": True, "sar_gain_db": 0.0, "sar_looks": 0,
                    "optical_brightness": 0.0, "optical_contrast": 0.0},
        "optimizer": {"name": "lars", "learning_rate": 0.3, "scaling": "linear", "warmup": 0.1, "weight_decay": 1e-6,
                      "momentum": 0.9, "clip_norm": 0.0},
        "schedule": {"epochs": 100, "steps": 0, "log_every": 50, "eval_every": 2000, "checkpoint_every": 1000,
                     "keep": 3},
    })
    if variant in ("smoke", "ombria"):
        config.encoder = {"depth": 18, "width": 32, "dtype": "float32"}
        config.projection = {"hidden": 256, "dim": 64}
        config.loss.update({"temperature": 0.07, "learnable_temperature": True})
        config.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "weight_decay": 1e-4})
        config.data.threads = 2
    if variant == "smoke":
        config.batch_size = 8
        config.data.dir = "data/s1s2_pairs/bigearthnet/1.0.0"
        config.data.split = "train+validation"
        config.encoder.width = 16
        config.augment.crop = 96
        config.schedule = {"epochs": 60, "steps": 0, "log_every": 10, "eval_every": 0, "checkpoint_every": 40,
                           "keep": 3}
    elif variant == "ombria":
        config.batch_size = 64
        config.data.dir = "data/s1s2_pairs/ombria/1.0.0"
        config.augment.crop = 128
        config.schedule = {"epochs": 100, "steps": 0, "log_every": 20, "eval_every": 200, "checkpoint_every": 100,
                           "keep": 3}
    elif variant != "paper":
        raise ValueError(f"unknown variant '{variant}'; valid: paper, smoke, ombria")
    return config
