"""Counts the arithmetic of convolutions and matrix products in a traced function, loops included.

XLA's own count takes the body of a loop once, however often it runs, and GPU programs have none.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the floating-point operations of one call; a multiplication and an addition are two.

    Loops without a known length are taken once, the costliest branch of a condition is taken.

    Args:
      function: it is traced, not run.
      arguments: arrays or `jax.ShapeDtypeStruct`s. Over a mesh: of the global arrays; the count is that of all devices.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_operations(equation) for equation in jaxpr.eqns)


def _operations(equation: JaxprEqn) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_count(jaxpr) for value in parameters.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * {"scan": lambda: parameters["length"], "shard_map": lambda: parameters["mesh"].size}.get(
        name, lambda: 1)()


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, (tuple, list)):
        return [jaxpr for one in value for jaxpr in _jaxprs(one)]
    return [value.jaxpr] if isinstance(value, ClosedJaxpr) else [value] if isinstance(value, Jaxpr) else []


def _convolution(equation: JaxprEqn) -> int:
    """Counts the products with values of the input: not those with padding, nor with zeros between values."""
    parameters, (left, right), out = equation.params, equation.invars, equation.outvars[0]
    numbers = parameters["dimension_numbers"]
    sides = [[array.aval.shape[axis] for axis in spec[2:]] for array, spec in zip((left, right, out), numbers,
                                                                                strict=True)]
    positions = 1
    for axis, ((low, _), size, kernel, outputs) in enumerate(zip(parameters["padding"], *sides, strict=True)):
        stride, between = parameters["window_strides"][axis], parameters["lhs_dilation"][axis]
        place = (np.arange(outputs)[:, None] * stride - low
                 + np.arange(kernel)[None] * parameters["rhs_dilation"][axis])
        positions *= int(((place >= 0) & (place <= (size - 1) * between) & (place % between == 0)).sum())
    batch, features = (out.aval.shape[numbers.out_spec[i]] for i in (0, 1))
    return 2 * batch * features * right.aval.shape[numbers.rhs_spec[1]] * positions
