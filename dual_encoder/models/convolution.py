"""Convolution and max-pooling. TPUs use XLA's own operations.

On a CPU both are rewritten into forms that XLA compiles to faster code; on a GPU only pooling is. The form is chosen
when a program is lowered for a platform. Each rewrite gives the same sums; only their order may differ. The factors
were measured with jaxlib 0.10.2 on a CPU, if not said otherwise:

  patches           If the kernel is larger than the image, XLA's convolution takes 20 times as long as the matrix
                    product of the image's patches. Such convolutions and those with 1x1 kernels are matrix products.
  input gradient    At stride 2 XLA's input gradient takes up to 14 times as long as this form for 3x3 kernels: multiply
                    the gradient by the kernel, then add up the resulting patches.
  fusion barrier    A kernel gradient needs transposed copies of its inputs. XLA fuses these copies with the operations
                    before them, and computes these again in a slow order: 31 of the 212 ms of a step.
  parts             A kernel gradient reads its inputs many times. In parts that fit the processor's cache it takes two
                    thirds of the time in the first layers, and one third in the first convolution.
  longer rows       The rows of a kernel gradient have 3 pixels, too few for two threads. In these parts the channels of
                    the input become columns of the rows: a step takes 102 ms instead of 113 (width 16, 64 px).
  pixel groups      XLA's fast code for convolutions needs more than 16 output channels. With 8 to 16 of them, several
                    pixels are computed as one: half of the time, for a third more arithmetic.
  operand order     Inside a loop XLA does not put the operands of a convolution into the order that its fast code
                    needs. So both gradients are written in that order.
  max-pooling       XLA visits one element after the other, and its gradient is a scatter. Maxima of shifted images take
                    0.3 ms instead of 1.0, and their gradient 0.6 instead of 4.1. On a GPU the scatter moves three times
                    the bytes.

`python -m benchmarks.convolutions` measures each convolution, benchmarks/train_step.py the whole step.
"""

import functools
import math
import os
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

# The version of jaxlib that the factors above come from. With a newer one tests/test_workarounds.py fails until the
# forms are measured again.
_MEASURED_WITH = "0.10"
_POOLING_MEASURED_WITH = "0.10"  # on a CPU and on a GPU


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the cross-correlation with torch's padding of (size - 1) / 2 on each side.

    Args:
      x: [batch, height, width, channels].
      kernel: [size, size, channels, features], `size` odd, of the dtype of `x`.
      stride: step from one output pixel to the next, along rows and columns.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), features], of the dtype of `x`.
    """
    def on_cpu(x, kernel):
        if _is_faster_as_patches(x, kernel):
            return _patches(x, len(kernel), stride) @ kernel.reshape(-1, kernel.shape[-1])
        return _convolve_pixel_groups(x, kernel, stride)

    def by_xla(x, kernel):
        return _convolve_by_xla(x, kernel, stride)

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=by_xla)


def _forward(x, kernel, stride):
    return convolution(x, kernel, stride), (x, kernel)


def _backward(stride, saved, gradient):
    def by_xla(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _convolve_by_xla(x, kernel, stride), x, kernel)[1](gradient)

    def on_cpu(x, kernel, gradient):
        x, gradient = _fusion_barrier(x, kernel), _fusion_barrier(gradient, kernel)
        flat = kernel.reshape(-1, kernel.shape[-1])
        columns, into_x = jax.vjp(lambda x: _patches(x, len(kernel), stride), x)
        if _is_faster_as_patches(x, kernel):
            dkernel = columns.reshape(-1, len(flat)).T @ gradient.reshape(-1, flat.shape[1])
            return into_x(gradient @ flat.T)[0], dkernel.reshape(kernel.shape)
        if stride == 1:
            dx = _input_gradient_at_stride_1(gradient, kernel)
        elif len(kernel) == 3:
            dx, = into_x(gradient @ flat.T)
        else:
            dx, _ = by_xla(x, kernel, gradient)
        return dx, _kernel_gradient(x, gradient, len(kernel), stride)

    return jax.lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=by_xla)


convolution.defvjp(_forward, _backward)


def _fusion_barrier(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x`, and makes XLA store it in memory instead of computing it again inside a transposed copy.

    XLA does not fuse across a `cond` that it cannot evaluate at compile time. The test is `probe == probe`: it fails
    only if the kernel is NaN, and then the result is NaN anyway. The kernel is used because every device holds it.
    """
    probe = kernel[0, 0, 0, 0]
    return jax.lax.cond(probe == probe, lambda x: x, lambda x: jnp.full_like(x, probe), x)


_convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_by_xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the convolution as one operation of XLA."""
    pad = (len(kernel) - 1) // 2  # torch's; 'SAME' would pad unevenly at stride 2
    return _convolve(x, kernel, (stride, stride), [(pad, pad)] * 2)


def _convolve_pixel_groups(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the same as `_convolve_by_xla`. If there are few output channels, it computes several pixels at once.

    With 8 to 16 output channels, 2 to 4 neighbouring pixels of a row become one pixel with 2 to 4 times the channels,
    because XLA's fast CPU path needs more than 16. The kernel of each pixel is padded with zeros at the columns that
    only its neighbours use: a third more arithmetic, in half of the time. The fast path does not divide a small
    convolution among threads, but XLA's other code does: with more than two threads the other code is faster.
    """
    size, channels, features = kernel.shape[1:]
    columns = (x.shape[2] - 1) // stride + 1
    pixels = 32 // features
    even = channels == 1 or channels % 2 == 0  # XLA's fast code takes no other number
    narrow = 8 <= features <= 16 and channels <= 16 and even and columns % pixels == 0
    if not narrow or x.dtype != jnp.float32 or (os.cpu_count() or 1) > 2:
        return _convolve_by_xla(x, kernel, stride)
    more, step = (pixels - 1) * stride, pixels * stride
    shifted = [jnp.pad(kernel, ((0, 0), (shift, more - shift), (0, 0), (0, 0))) for shift in range(0, step, stride)]
    pad = (size - 1) // 2
    right = columns * stride - stride + size - pad - x.shape[2]
    y = _convolve(x, jnp.concatenate(shifted, axis=-1), (stride, step), [(pad, pad), (pad, right)])
    return y.reshape(*y.shape[:2], columns, features)


# XLA's CPU compiler reorders the operands of a convolution for its fast code in the outermost program only, not inside
# loops. So the two gradients are written in the order that the fast code needs.


def _input_gradient_at_stride_1(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the gradient of the input: a convolution of `gradient` with the kernel rotated by 180 degrees."""
    return _convolve_pixel_groups(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns the gradient of the kernel, [size, size, channels, features], computed as a convolution.

    The convolution takes the channels of `x` as its batch, the images as its channels, and `gradient` as its kernel. If
    the sum is computed in parts that fit the processor's cache, the channels of `x` are columns of one image instead:
    the result then has longer rows. Rows of 3 pixels are too short for XLA's fast code, and cannot be divided among
    threads.
    """
    channels = x.shape[3]
    images, rows = _part_size(x, gradient)
    # On several devices each part would need its own sum over the devices.
    whole = jax.device_count() > 1 or images == len(x)
    step = channels if channels >= 16 and not whole else 1  # columns from one pixel to the next
    pad = (size - 1) // 2
    columns = (pad * step, (size - pad + (gradient.shape[2] - 1) * stride - x.shape[2]) * step)
    x = x.reshape(*x.shape[:2], x.shape[2] * step, channels // step)

    def sum_over_rows(x, gradient, top):
        """Returns the sum over some rows of the gradient, of which the first is row number `top`."""
        first = top * stride - pad
        last = first + (gradient.shape[1] - 1) * stride + size
        used = slice(max(first, 0), min(last, x.shape[1]))  # rows of x
        return _convolve(x[:, used].transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (1, 1),
                         [(used.start - first, last - used.stop), columns], rhs_dilation=(stride, stride * step))

    def add_part(number, total):
        x, gradient = (jax.lax.dynamic_index_in_dim(y, number, keepdims=False) for y in parts)
        return sum((sum_over_rows(x, gradient[:, top:top + rows], top) for top in tops), start=total)

    if whole:
        total = sum_over_rows(x, gradient, 0)
    else:
        count, tops = len(x) // images, range(0, gradient.shape[1], rows)
        parts = [y.reshape(count, images, *y.shape[1:]) for y in (x, gradient)]
        zero = jnp.zeros((channels // step, size, size * step, gradient.shape[-1]), x.dtype)
        # Unrolled, because XLA uses another thread only if more than 8 operations are ready to run.
        total = jax.lax.fori_loop(0, count, add_part, zero, unroll=min(count, 16))
    return total.transpose(1, 2, 0, 3).reshape(size, size, channels, -1)


def _part_size(x: jax.Array, gradient: jax.Array) -> tuple[int, int]:
    """Returns how many images, and how many rows of their gradient, to sum over at a time.

    The numbers keep the arrays of a part in the processor's cache, because a kernel gradient reads them many times.
    They were found by trying: parts of 1 MiB, but at least 4 images, or 32 images if there are fewer than 32 output
    channels. A sum in bfloat16 would lose digits between the parts, so it is not split.
    """
    rows = gradient.shape[1]
    image = (x[0].size + gradient[0].size) * x.dtype.itemsize
    least = 4 if gradient.shape[-1] >= 32 else 32
    images = math.gcd(len(x), 2 ** int(math.log2(max(2**20 // image, least))))
    if images < least or x.dtype != jnp.float32:
        return len(x), rows
    return images, min(rows, max(4, 2**20 * rows // (images * image)))


def _is_faster_as_patches(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether the matrix product of patches is faster: if the image is smaller than the kernel, or at 1x1.

    An exported program may leave the size open: then it is not known to be smaller.
    """
    return len(kernel) == 1 or any(isinstance(side, int) and side < len(kernel) for side in x.shape[1:3])


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Returns the patch of each output pixel: [batch, height, width, channels] -> [batch, rows, columns, size * size *
    channels], padded with zeros at the border.
    """
    return jnp.concatenate(list(_window_places(x, size, stride, 0.0)), axis=-1)


def _window_places(x: jax.Array, size: int, stride: int, fill: float) -> Iterator[jax.Array]:
    """Yields, for each place in a window, the pixels of all windows at that place, in the order of the kernel.

    Each is [batch, rows, columns, channels]. `fill` pads the border.
    """
    pad = (size - 1) // 2
    rows, columns = ((side - 1) // stride + 1 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    for top in range(size):
        for left in range(size):
            yield x[:, top:top + stride * (rows - 1) + 1:stride, left:left + stride * (columns - 1) + 1:stride]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Returns the largest value of each 3x3 window, at stride 2 and with torch's padding.

    If several values are the largest, the first one gets the gradient, as in torch and XLA.

    Args:
      x: [batch, height, width, channels] float.

    Returns:
      [batch, ceil(height / 2), ceil(width / 2), channels], of the dtype of `x`.
    """
    def largest(x):
        return functools.reduce(jnp.maximum, _window_places(x, 3, 2, -jnp.inf))

    return jax.lax.platform_dependent(x, cpu=largest, cuda=largest, default=_max_pool_by_xla)


def _max_pool_by_xla(x: jax.Array) -> jax.Array:
    """Returns the pooling as one operation of XLA."""
    # Padding first and then 'VALID' is exact at odd sizes, and exporters support it.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved, gradient):
    def by_xla(x, y, gradient):
        return jax.vjp(_max_pool_by_xla, x)[1](gradient)[0]

    return (jax.lax.platform_dependent(*saved, gradient, cpu=_max_pool_gradient, cuda=_max_pool_gradient,
                                       default=by_xla),)


def _max_pool_gradient(x: jax.Array, y: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient of `x`: for each pixel, the sum over the windows in which it is the first largest value.

    A pixel lies in one or two windows along each axis.
    """
    place = jnp.full(y.shape, 9, jnp.uint8)  # of the first largest value in its window, 0 to 8
    for number, pixels in reversed(list(enumerate(_window_places(x, 3, 2, -jnp.inf)))):
        place = jnp.where(pixels == y, jnp.uint8(number), place)
    after = ((0, 0), (0, 1), (0, 1), (0, 0))
    place, gradient = jnp.pad(place, after, constant_values=9), jnp.pad(gradient, after)
    rows, columns = y.shape[1:3]
    # (windows from the pixel's own one, place of the pixel in it), along one axis. An even pixel is in the middle of
    # its window. The odd pixel after it is the last of the same window and the first of the next one.
    even, odd = ((0, 1),), ((0, 2), (1, 0))

    def sum_over_windows(windows_along_rows, windows_along_columns):
        total: jax.Array | float = 0.0
        for below, row in windows_along_rows:
            for right, column in windows_along_columns:
                here = (slice(None), slice(below, below + rows), slice(right, right + columns))
                total += jnp.where(place[here] == 3 * row + column, gradient[here], 0.0)
        return total

    pixels = jnp.stack([jnp.stack([sum_over_windows(row, column) for column in (even, odd)], axis=3)
                        for row in (even, odd)], axis=2)
    return pixels.reshape(len(x), 2 * rows, 2 * columns, -1)[:, :x.shape[1], :x.shape[2]]


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
