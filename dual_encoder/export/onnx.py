"""A whole model as ONNX: model.onnx, for images of one size and any batch."""

import jax

from dual_encoder.errors import UserError
from dual_encoder.export import graph, onnx_graph
from dual_encoder.export.source import Content, Source


def write(source: Source) -> Content:
    """Returns the export of a source; UserError if the run has no such model, or `onnx` is not installed."""
    batch, = jax.export.symbolic_shape("batch")
    side = source.image_size
    try:
        model = onnx_graph.convert(source.program, source.described(batch, side, side), list(source.network.outputs))
    except ImportError as error:
        raise UserError(f"--format=onnx needs the package onnx ({error}); run `pip install onnx`") from error
    return graph.content(source, {"model.onnx": model.SerializeToString()}, load, "onnx",
                         sizes="the graph takes no other size; --size=PIXELS exports one for another")


def load(folder):
    """Returns a function: images by name to outputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, dict(images)), strict=True))
