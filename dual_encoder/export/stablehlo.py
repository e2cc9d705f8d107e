"""A whole model as StableHLO of jax.export: model.stablehlo, for CPUs, NVIDIA GPUs and TPUs.

Batch, height and width are symbolic. JAX keeps such a file readable for six months of releases or more; the card says
which version wrote it (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

import jax

from dual_encoder.export import graph
from dual_encoder.export.source import Content, Source

PLATFORMS = ("cpu", "cuda", "tpu")
SMALLEST = 32  # px; the deepest map of a ResNet has one pixel


def write(source: Source) -> Content:
    """Returns the export of a source; UserError if the run has no such model."""
    sides = jax.export.symbolic_shape("batch, height, width",
                                      constraints=[f"{side} >= {SMALLEST}" for side in ("height", "width")])
    exported = jax.export.export(jax.jit(source.program), platforms=PLATFORMS)(source.described(*sides))
    return graph.content(source, {"model.stablehlo": bytes(exported.serialize())}, load, "jax")


def load(folder):
    """Returns a function: images by name to outputs by name."""
    import pathlib

    import jax

    data = (pathlib.Path(folder) / "model.stablehlo").read_bytes()
    return jax.export.deserialize(bytearray(data)).call
