"""Convolution and max-pooling: XLA's; on a CPU the same sums in forms that XLA compiles well, on a GPU that of pooling.

In jaxlib 0.10.2 a convolution whose kernel is larger than its image takes 20 times as long as the matrix product of
its patches, the input gradient of a strided one up to 14 times; the transposed copies for kernel gradients compute what
they copy once more, and the sums read from memory again what could be in the cache; max-pooling goes element by
element, its gradient through a scatter, which on a GPU moves three times the bytes. The choice is made when a program
is lowered for a platform; TPUs get `jax.lax`. benchmarks/train_step.py measures the whole.
"""

import functools
import math
import os
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
        return _by_neighbours(x, kernel, stride)

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=lambda x, kernel: _xla(x, kernel, stride))


def _forward(x, kernel, stride):
    return convolution(x, kernel, stride), (x, kernel)


def _backward(stride, saved, gradient):
    def by_xla(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _xla(x, kernel, stride), x, kernel)[1](gradient)

    def on_cpu(x, kernel, gradient):
        x, gradient = _held(x, kernel), _held(gradient, kernel)
        flat = kernel.reshape(-1, kernel.shape[-1])
        columns, into_x = jax.vjp(lambda x: _patches(x, len(kernel), stride), x)
        if _is_for_patches(x, kernel):
            dkernel = columns.reshape(-1, len(flat)).T @ gradient.reshape(-1, flat.shape[1])
            return into_x(gradient @ flat.T)[0], dkernel.reshape(kernel.shape)
        if stride == 1:
            dx = _turned(gradient, kernel)
        elif len(kernel) == 3:
            dx, = into_x(gradient @ flat.T)
        else:
            dx, _ = by_xla(x, kernel, gradient)
        return dx, _kernel_gradient(x, gradient, len(kernel), stride)

    return jax.lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=by_xla)


convolution.defvjp(_forward, _backward)


def _held(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x`, in memory: XLA would compute it again, element by element, in the order of a transposed copy.

    A condition that the compiler cannot decide is what it does not look through. It asks whether the kernel, which
    every device has, is a number; if not, all is NaN anyway.
    """
    probe = kernel[0, 0, 0, 0]
    return jax.lax.cond(probe == probe, lambda x: x, lambda x: jnp.full_like(x, probe), x)


_convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = (len(kernel) - 1) // 2  # torch's; 'SAME' would pad unevenly at stride 2
    return _convolve(x, kernel, (stride, stride), [(pad, pad)] * 2)


def _by_neighbours(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`_xla`; where features are few, 2 to 4 neighbouring pixels of a row are computed as one with as many more.

    XLA's fast code wants more than 16 features. The kernel of each pixel has zeros where only its neighbours look: a
    third more arithmetic, in half of the time. But it does not divide a small convolution among threads, as XLA's other
    code does: with more than two that wins.
    """
    size, channels, features = kernel.shape[1:]
    columns = (x.shape[2] - 1) // stride + 1
    pixels = 32 // features
    even = channels == 1 or channels % 2 == 0  # XLA's fast code has no other
    narrow = 8 <= features <= 16 and channels <= 16 and even and columns % pixels == 0
    if not narrow or x.dtype != jnp.float32 or (os.cpu_count() or 1) > 2:
        return _xla(x, kernel, stride)
    more, step = (pixels - 1) * stride, pixels * stride
    shifted = [jnp.pad(kernel, ((0, 0), (shift, more - shift), (0, 0), (0, 0))) for shift in range(0, step, stride)]
    pad = (size - 1) // 2
    right = columns * stride - stride + size - pad - x.shape[2]
    y = _convolve(x, jnp.concatenate(shifted, axis=-1), (stride, step), [(pad, pad), (pad, right)])
    return y.reshape(*y.shape[:2], columns, features)


# XLA's CPU compiler puts convolutions into the order that its fast code wants in the outermost program only, not in
# loops; the two gradients are therefore written in that order.


def _turned(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of the input at stride 1: a convolution with the kernel turned by half a turn."""
    return _by_neighbours(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """The gradient of the kernel: the images are the channels that are summed over, the gradient is the kernel.

    The channels of `x` are the images of that convolution. In parts that the cache holds they lie beside each other in
    its rows instead: rows of 3 pixels are too short for XLA's fast code, and for more than one thread.
    """
    channels = x.shape[3]
    images, rows = _part(x, gradient)
    whole = jax.device_count() > 1 or images == len(x)  # each part would be summed over the devices, one by one
    step = channels if channels >= 16 and not whole else 1  # from a pixel to the next
    pad = (size - 1) // 2
    columns = (pad * step, (size - pad + (gradient.shape[2] - 1) * stride - x.shape[2]) * step)
    x = x.reshape(*x.shape[:2], x.shape[2] * step, channels // step)

    def of(x, gradient, top):
        """The sum over rows of the gradient, the first of which is number `top`."""
        first = top * stride - pad
        last = first + (gradient.shape[1] - 1) * stride + size
        seen = slice(max(first, 0), min(last, x.shape[1]))
        return _convolve(x[:, seen].transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (1, 1),
                         [(seen.start - first, last - seen.stop), columns], rhs_dilation=(stride, stride * step))

    def add(part, total):
        x, gradient = (jax.lax.dynamic_index_in_dim(y, part, keepdims=False) for y in apart)
        return sum((of(x, gradient[:, top:top + rows], top) for top in tops), start=total)

    if whole:
        total = of(x, gradient, 0)
    else:
        parts, tops = len(x) // images, range(0, gradient.shape[1], rows)
        apart = [y.reshape(parts, images, *y.shape[1:]) for y in (x, gradient)]
        zero = jnp.zeros((channels // step, size, size * step, gradient.shape[-1]), x.dtype)
        # Unrolled: XLA gives work to another thread only when it has more than 8 operations to choose from.
        total = jax.lax.fori_loop(0, parts, add, zero, unroll=min(parts, 16))
    return total.transpose(1, 2, 0, 3).reshape(size, size, channels, -1)


def _part(x: jax.Array, gradient: jax.Array) -> tuple[int, int]:
    """How many images, and how many rows of their gradient, to sum over at a time: what is read again and again is to
    stay in the processor's cache.

    Found by trying: parts of 1 MiB, but no fewer than 4 images, or 32 below 32 features. Sums of bfloat16, which would
    lose digits between the parts, are left whole.
    """
    rows = gradient.shape[1]
    image = (x[0].size + gradient[0].size) * x.dtype.itemsize
    least = 4 if gradient.shape[-1] >= 32 else 32
    images = math.gcd(len(x), 2 ** int(math.log2(max(2**20 // image, least))))
    if images < least or x.dtype != jnp.float32:
        return len(x), rows
    return images, min(rows, max(4, 2**20 * rows // (images * image)))


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
    def largest(x):
        return functools.reduce(jnp.maximum, _shifted(x, 3, 2, -jnp.inf))

    return jax.lax.platform_dependent(x, cpu=largest, cuda=largest, default=_xla_max_pool)


def _xla_max_pool(x: jax.Array) -> jax.Array:
    # Padded by hand and pooled as 'VALID': exact at odd sizes, and exporters understand it.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved, gradient):
    def by_xla(x, y, gradient):
        return jax.vjp(_xla_max_pool, x)[1](gradient)[0]

    return (jax.lax.platform_dependent(*saved, gradient, cpu=_max_pool_gradient, cuda=_max_pool_gradient,
                                       default=by_xla),)


def _max_pool_gradient(x: jax.Array, y: jax.Array, gradient: jax.Array) -> jax.Array:
    """Each pixel asks the windows that see it whether it is their largest; there are one or two per axis."""
    place = jnp.full(y.shape, 9, jnp.uint8)  # of the first of the largest in its window
    for number, seen in reversed(list(enumerate(_shifted(x, 3, 2, -jnp.inf)))):
        place = jnp.where(seen == y, jnp.uint8(number), place)
    after = ((0, 0), (0, 1), (0, 1), (0, 0))
    place, gradient = jnp.pad(place, after, constant_values=9), jnp.pad(gradient, after)
    rows, columns = y.shape[1:3]
    # (window after the pixel's own, place of the pixel in it): an even pixel is the middle of its window, the odd one
    # after it the last of the same and the first of the next.
    even, odd = ((0, 1),), ((0, 2), (1, 0))

    def of(seen_by_rows, seen_by_columns):
        total = 0.0
        for below, row in seen_by_rows:
            for right, column in seen_by_columns:
                here = (slice(None), slice(below, below + rows), slice(right, right + columns))
                total += jnp.where(place[here] == 3 * row + column, gradient[here], 0.0)
        return total

    pixels = jnp.stack([jnp.stack([of(row, column) for column in (even, odd)], axis=3) for row in (even, odd)], axis=2)
    return pixels.reshape(len(x), 2 * rows, 2 * columns, -1)[:, :x.shape[1], :x.shape[2]]


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
