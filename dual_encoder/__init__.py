"""Contrastive pre-training of Sentinel-1 / Sentinel-2 dual encoders; docs/architecture.md describes the rooms."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dual_encoder.inference.encoder import load as load
    from dual_encoder.inference.segmenter import load_segmentation as load_segmentation

__version__ = "0.1.0"

# Functions for notebooks -> where they are. They are imported at their first use: `import dual_encoder` loads no JAX.
_FUNCTIONS = {"load": "inference.encoder", "load_segmentation": "inference.segmenter"}

# Modules of 0.1.0 that have moved -> where they are now. To be removed with version 0.3.0.
_MOVED = {
    "atomic": "storage.atomic", "checkpoint": "workdir.checkpoint", "chips": "plan.chips",
    "compilation_cache": "runtime.compilation_cache", "curves": "report.curves", "dataset_info": "data.manifest",
    "files": "storage.files", "flops": "plan.flops", "heap": "runtime.heap", "hlo": "plan.hlo",
    "hooks": "training.hooks", "input": "data.records", "layout": "data.record_layout", "lock": "storage.lock",
    "memory": "data.batch_memory", "mesh": "runtime.mesh", "metrics": "workdir.metrics", "order": "data.order",
    "plan_figures": "plan.table", "quicklook": "imagery.pictures", "sensors": "imagery.sensors",
    "step_program": "plan.step_program", "tf_example": "data.tf_example", "tfrecord": "data.tfrecord",
    "train_state": "state", "trainer": "training.loop",
}


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"dual_encoder.{_FUNCTIONS[name]}"), name)
    if name in _MOVED:
        raise ImportError(f"dual_encoder.{name} has moved to dual_encoder.{_MOVED[name]}; change the import "
                          "(CHANGELOG.md lists all moves)")
    raise AttributeError(f"module 'dual_encoder' has no attribute '{name}'")
