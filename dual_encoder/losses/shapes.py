"""The shapes of the arguments of a loss, by name. The tests check them at every call (tests/conftest.py).

Arrays of one call that share a name ('batch', 'dim') have the same size there.
"""

from jaxtyping import Array, Float32, Int32

Embeddings = Float32[Array, "batch dim"]
Places = Int32[Array, "batch"]
Scalar = Float32[Array, ""]
