"""The shapes in the signatures of the losses are checked in tests: a wrong one names the argument."""

import jax.numpy as jnp
import pytest

from dual_encoder.losses import contrastive, correlation


@pytest.mark.parametrize("call, argument", [
    (lambda z: contrastive.info_nce(z, z[1:], jnp.float32(1.0)), "z2"),
    (lambda z: contrastive.info_nce(z, z[:, 1:], jnp.float32(1.0)), "z2"),
    (lambda z: contrastive.nt_xent(z, z, jnp.ones(1)), "scale"),
    (lambda z: contrastive.info_nce(z, z, jnp.float32(1.0), location=jnp.zeros(4)), "location"),
    (lambda z: correlation.barlow(z.astype(jnp.int32), z, 0.1), "z1"),
])
def test_a_wrong_shape_or_dtype_names_the_argument(call, argument):
    with pytest.raises(Exception, match=f"typechecking parameter '{argument}'"):
        call(jnp.ones((4, 8)))
