"""Convolution and max-pooling: XLA's on accelerators; on a CPU the same sums in forms that XLA compiles well there.

In jaxlib 0.10.2 a convolution whose kernel is larger than its image takes 20 times as long as the matrix product of
its patches, the input gradient of a strided one up to 14 times; the transposed copies for kernel gradients compute what
they copy once more; the gradient of max-pooling goes through a scatter. The choice is made when a program is lowered
for a platform, so programs for TPU and GPU are those of `jax.lax`. benchmarks/train_step.py measures the whole.
"""

import functools
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Cross-correlation with torch's padding of (size - 1) / 2 on each side.

    Args:
      x: [batch, height, width, channels].
      kernel: [size, size, channels, features], `size` odd, of the dtype of `x`.
      stride: of rows and columns.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), features], of the dtype of `x`.
    """
    def on_cpu(x, kernel):
        if _is_for_patches(x, kernel):
            return _patches(x, len(kernel), stride) @ kernel.reshape(-1, kernel.shape[-1])
        return _xla(x, kernel, stride)

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=lambda x, kernel: _xla(x, kernel, stride))


def _forward(x, kernel, stride):
    return convolution(x, kernel, stride), (x, kernel)


def _backward(stride, saved, gradient):
    def by_xla(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _xla(x, kernel, stride), x, kernel)[1](gradient)

    def on_cpu(x, kernel, gradient):
        x, gradient = _held(x, kernel), _held(gradient, kernel)
        if not _is_for_patches(x, kernel) and (stride == 1 or len(kernel) > 3):
            dx = _turned(gradient, kernel) if stride == 1 else by_xla(x, kernel, gradient)[0]
            return dx, _kernel_gradient(x, gradient, len(kernel), stride)
        flat = kernel.reshape(-1, kernel.shape[-1])
        columns, into_x = jax.vjp(lambda x: _patches(x, len(kernel), stride), x)
        dx, = into_x(gradient @ flat.T)
        dkernel = columns.reshape(-1, len(flat)).T @ gradient.reshape(-1, flat.shape[1])
        return dx, dkernel.reshape(kernel.shape)

    return jax.lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=by_xla)


convolution.defvjp(_forward, _backward)


def _held(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x`, in memory: XLA would compute it again, element by element, in the order of a transposed copy.

    A condition that the compiler cannot decide is what it does not look through. It asks whether the kernel, which
    every device has, is a number; if not, all is NaN anyway.
    """
    probe = kernel[0, 0, 0, 0]
    return jax.lax.cond(probe == probe, lambda x: x, lambda x: jnp.full_like(x, probe), x)


def _xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = (len(kernel) - 1) // 2  # torch's; 'SAME' would pad unevenly at stride 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


# XLA's CPU compiler puts convolutions into the order that its fast code wants in the outermost program only, not in
# loops; the two gradients are therefore written in that order.


def _turned(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of the input at stride 1: a convolution with the kernel turned by half a turn."""
    return _xla(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """The gradient of the kernel: the images are the channels that are summed over, the gradient is the kernel."""
    pad = (size - 1) // 2
    padding = [(pad, size - pad + (outside - 1) * stride - inside)
               for inside, outside in zip(x.shape[1:3], gradient.shape[1:3], strict=True)]
    found = jax.lax.conv_general_dilated(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (1, 1), padding,
                                         rhs_dilation=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return found.transpose(1, 2, 0, 3)


def _is_for_patches(x: jax.Array, kernel: jax.Array) -> bool:
    """True where the matrix product of patches is faster: at images smaller than the kernel, and at 1x1 kernels."""
    return min(x.shape[1:3]) < len(kernel) or len(kernel) == 1


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """[batch, height, width, channels] -> [batch, rows, columns, size * size * channels]."""
    return jnp.concatenate(list(_shifted(x, size, stride, 0.0)), axis=-1)


def _shifted(x: jax.Array, size: int, stride: int, fill: float) -> Iterator[jax.Array]:
    """Yields what each place of a window sees, [batch, rows, columns, channels], in the order of the kernel."""
    pad = (size - 1) // 2
    rows, columns = ((side - 1) // stride + 1 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    for top in range(size):
        for left in range(size):
            yield x[:, top:top + stride * (rows - 1) + 1:stride, left:left + stride * (columns - 1) + 1:stride]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 3x3 window, stride 2, torch's padding; [batch, height, width, channels] float.

    The gradient goes to the first of equal largest values, as in torch and XLA.
    """
    return _xla_max_pool(x)


def _xla_max_pool(x: jax.Array) -> jax.Array:
    # Padded by hand and pooled as 'VALID': exact at odd sizes, and exporters understand it.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _max_pool_forward(x):
    y = _xla_max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved, gradient):
    def by_xla(x, y, gradient):
        return jax.vjp(_xla_max_pool, x)[1](gradient)

    def on_cpu(x, y, gradient):
        places, back = jax.vjp(lambda x: tuple(_shifted(x, 3, 2, -jnp.inf)), x)
        parts, left = [], jnp.ones(y.shape, bool)
        for place in places:
            here = left & (place == y)
            parts.append(jnp.where(here, gradient, 0.0))
            left &= ~here
        return back(tuple(parts))

    return jax.lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=by_xla)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
