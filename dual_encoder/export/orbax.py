"""The parameters of a whole model as an Orbax checkpoint: the folder parameters/, without optimizer and step."""

import pathlib
import tempfile

import orbax.checkpoint as ocp

from dual_encoder.export import graph, stored_model
from dual_encoder.export.source import Content, Source


def write(source: Source) -> Content:
    """Returns the export of a source; UserError if the run has no such model."""
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = pathlib.Path(folder) / "parameters"
        checkpointer.save(path, dict(source.network.variables))
        checkpointer.wait_until_finished()
        files = {f"parameters/{file.relative_to(path)}": file.read_bytes()
                 for file in sorted(path.rglob("*")) if file.is_file()}
    return graph.content(source, files | stored_model.description(source), load, "jax", input="stored")


def load(folder):
    """Returns a function: images by name to outputs by name."""
    import pathlib

    import orbax.checkpoint as ocp

    from dual_encoder.export.stored_model import function

    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(pathlib.Path(folder).resolve() / "parameters")
    return function(folder, variables)
