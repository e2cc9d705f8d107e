"""Contrastive pre-training of a dual encoder.

Paper-scale run (TPU pod or GPU node; two ResNet-50 on ~1M pairs of 264 px):

    python main.py --config=configs/pretrain.py --workdir=runs/pretrain --config.data.dir=DIR

Variants:

    python main.py --config=configs/pretrain.py:smoke --workdir=runs/smoke     the real sample, under 2 minutes on a CPU
    python main.py --config=configs/pretrain.py:ombria --workdir=runs/ombria   490 real pairs of 256 px, on a CPU
    python main.py --config=configs/pretrain.py:vit --workdir=runs/vit         paper scale with two ViT-B/16
    python main.py --config=configs/pretrain.py:simclr_s2 --workdir=runs/simclr_s2   one sensor alone, or simclr_s1

DIR is what `python -m data_prep build` prints; images of less than 224 px need a smaller --config.augment.crop. The
paper does not publish its hyper-parameters; these follow SimCLR (LARS, warm-up, cosine, temperature) and Dual-SimCLR
(head). The small variants use AdamW and CLIP's learnable temperature; `vit` the optimizer of MoCo v3 (Chen et al. 2021,
its published commands).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "paper") -> ConfigDict:
    """Returns the configuration of one variant: 'paper', 'smoke', 'ombria', 'vit', 'simclr_s1' or 'simclr_s2'."""
    config = ConfigDict({
        "task": "pretrain", "seed": 0, "batch_size": 4096, "inputs": "s1+s2",
        "data": {"dir": "", "split": "train", "weights": (), "eval_split": "test", "statistics": "", "threads": 16,
                 "processes": 0, "max_bad_records": 0},
        "encoder": {"family": "resnet", "depth": 50, "width": 64, "norm": "batch", "patch": 16, "image_size": 224,
                    "pool": "token", "positions": "learned", "remat": False, "dtype": "bfloat16"},
        "projection": {"hidden": 2048, "dim": 128},
        "loss": {"name": "info_nce", "temperature": 0.1, "learnable_temperature": False, "bias": -10.0,
                 "false_negatives": "mask", "chunk": 0, "off_diagonal": 0.0051, "common": 0.875,
                 "vicreg": (25.0, 25.0, 1.0)},
        "augment": {"crop": 224, "flips": True, "turns": True, "sar_gain_db": 0.0, "sar_looks": 0,
                    "optical_brightness": 0.0, "optical_contrast": 0.0},
        "train": {"micro_batch": 0},
        "optimizer": {"name": "lars", "learning_rate": 0.3, "scaling": "linear", "warmup": 0.1, "weight_decay": 1e-6,
                      "momentum": 0.9, "clip_norm": 0.0, "ema": 0.0},
        "schedule": {"epochs": 100, "steps": 0, "log_every": 50, "eval_every": 2000, "checkpoint_every": 1000,
                     "keep": 3},
    })
    if variant in ("smoke", "ombria"):
        config.encoder.update({"depth": 18, "width": 32, "dtype": "float32"})
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
    elif variant == "vit":
        config.encoder.update({"family": "vit", "depth": 12, "width": 768})
        config.optimizer.update({"name": "adamw", "learning_rate": 1.5e-4, "warmup": 40 / 300, "weight_decay": 0.1})
        config.schedule.epochs = 300
    elif variant in ("simclr_s1", "simclr_s2"):  # the baseline of the paper: positives by augmentation alone
        config.inputs = variant.removeprefix("simclr_")
        config.loss.name = "nt_xent"
        # Strengths are ours: brightness and contrast as DeCUR's, speckle as of the 4.4 looks of a GRD image.
        config.augment.update({"sar_gain_db": 1.0, "sar_looks": 4, "optical_brightness": 0.4, "optical_contrast": 0.4})
    elif variant != "paper":
        raise ValueError(f"unknown variant '{variant}'; valid: paper, smoke, ombria, vit, simclr_s1, simclr_s2")
    return config
