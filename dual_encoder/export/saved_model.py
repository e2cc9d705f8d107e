"""A whole model as a TensorFlow SavedModel, made by jax2tf: the folder saved_model/ with the signature of serving.

The program inside is StableHLO (the operation XlaCallModule), so TensorFlow must come with XLA; TFLite does not run it.
"""

import contextlib
import io
import pathlib
import tempfile

from dual_encoder.errors import UserError
from dual_encoder.export import graph
from dual_encoder.export.source import Content, Source
from dual_encoder.export.stablehlo import PLATFORMS, SMALLEST


def write(source: Source) -> Content:
    """Returns the export of a source; UserError if the run has no such model, or TensorFlow is not installed."""
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise UserError(f"--format=saved_model needs TensorFlow ({error}); run `pip install 'tensorflow>=2.21'`"
                        ) from error
    images = source.described(None, None, None)
    function = jax2tf.convert(
        source.program, native_serialization_platforms=PLATFORMS, with_gradient=False,
        polymorphic_shapes=[{name: "batch, height, width, ..." for name in images}],
        polymorphic_constraints=[f"{side} >= {SMALLEST}" for side in ("height", "width")])
    module = tf.Module()
    module.model = tf.function(function, autograph=False, input_signature=[
        {name: tf.TensorSpec(spec.shape, tf.as_dtype(spec.dtype), name) for name, spec in images.items()}])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        tf.saved_model.save(module, folder, signatures={"serving_default": module.model.get_concrete_function()})
        files = {f"saved_model/{path.relative_to(folder)}": path.read_bytes()
                 for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}
    return graph.content(source, files, load, "tensorflow")


def load(folder):
    """Returns a function: images by name to outputs by name."""
    import tensorflow as tf

    loaded = tf.saved_model.load(f"{folder}/saved_model")
    return lambda images: {name: value.numpy() for name, value in loaded.model(
        {name: tf.constant(image) for name, image in images.items()}).items()}
