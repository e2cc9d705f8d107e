"""The shapes of the arguments of a loss, by name. The tests check them at every call (tests/conftest.py).

Arrays of one call that share a name ('batch', 'dim') have the same size there. Training uses float32, and float64 works
too.
"""

from jaxtyping import Array, Float, Int32

Embeddings = Float[Array, "batch dim"]
Places = Int32[Array, "batch"]
Scalar = Float[Array, ""]
