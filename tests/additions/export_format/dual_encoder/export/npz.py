"""A toy format: the weights of one encoder as a NumPy archive."""

import io
import json
import os
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from dual_encoder.export.folder import Exported, write_folder

if TYPE_CHECKING:
    from dual_encoder.workdir.checkpoint import LoadedModel


def export(model: "LoadedModel", sensor: str, out: str | os.PathLike) -> Exported:
    """Writes encoder.npz and config.json of one encoder to the folder `out`; see `timm.export`."""
    leaves = jax.tree_util.tree_leaves_with_path(model.variables["params"][f"{sensor}_encoder"])
    archive = io.BytesIO()
    np.savez(archive, **{jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves})
    facts = json.dumps({"dual_encoder": {"sensor": model.sensors[sensor].to_json()}})
    return Exported(write_folder(pathlib.Path(out), {"encoder.npz": archive.getvalue(), "config.json": facts.encode()}),
                    "a toy format")
