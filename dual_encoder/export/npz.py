"""The parameters of a whole model as a NumPy archive: parameters.npz, with keys as 'params/s2_encoder/conv1/kernel'."""

import io

import jax
import numpy as np

from dual_encoder.export import graph, stored_model
from dual_encoder.export.source import Content, Source


def write(source: Source) -> Content:
    """Returns the export of a source; UserError if the run has no such model."""
    leaves = jax.tree_util.tree_leaves_with_path(source.network.variables)
    file = io.BytesIO()
    np.savez(file, **{jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves})
    return graph.content(source, {"parameters.npz": file.getvalue()} | stored_model.description(source), load, "jax",
                         input="stored")


def load(folder):
    """Returns a function: images by name to outputs by name."""
    import numpy as np
    from flax.traverse_util import unflatten_dict

    from dual_encoder.export.stored_model import function

    with np.load(f"{folder}/parameters.npz") as archive:
        variables = unflatten_dict(dict(archive), sep="/")
    return function(folder, variables)
