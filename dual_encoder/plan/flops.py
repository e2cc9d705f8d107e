"""Counts the operations of convolutions and matrix products in a traced function, loops included.

XLA's own count includes the body of a loop only once, and GPU programs have no such count.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the number of floating-point operations of one call; a multiplication with an addition counts as two.

    A loop without a known length counts once, and a condition counts as its most expensive branch. For code that
    differs between platforms, the default branch counts.

    Args:
      function: is traced, not run.
      arguments: arrays or `jax.ShapeDtypeStruct`s. On a mesh they have the shapes of the global arrays, and the count
        is the sum over all devices.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _count(jaxpr, [True] * len(jaxpr.outvars))[0]


def _count(jaxpr: Jaxpr, wanted: Sequence[bool]) -> tuple[int, list[bool]]:
    """Counts the operations that the wanted outputs need (the compiler drops the others), and returns which inputs
    these outputs need.
    """
    live = {var for var, want in zip(jaxpr.outvars, wanted, strict=True) if want and not isinstance(var, Literal)}
    total = 0
    for equation in reversed(jaxpr.eqns):
        used = [var in live for var in equation.outvars]
        if any(used):
            operations, needed = _operations(equation, used)
            total += operations
            live.update(var for var, need in zip(equation.invars, needed, strict=True)
                        if need and not isinstance(var, Literal))
    return total, [var in live for var in jaxpr.invars]


def _operations(equation: JaxprEqn, used: list[bool]) -> tuple[int, list[bool]]:
    """Counts the operations of an equation whose `used` outputs are needed, and returns which inputs they need."""
    name, parameters, every = equation.primitive.name, equation.params, [True] * len(equation.invars)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = _shape(equation.invars[0])
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted), every
    if name == "conv_general_dilated":
        return _convolution(equation), every
    inner = [jaxpr for value in parameters.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        platforms = parameters.get("branches_platforms") or ()  # from jax.lax.platform_dependent; None is the default
        branches = [inner[platforms.index(None)]] if None in platforms else inner
        counts, needs = zip(*(_count(branch, used) for branch in branches), strict=True)
        return max(counts), [True, *map(any, zip(*needs, strict=True))]
    if len(inner) == 1 and name != "scan" and len(inner[0].invars) == len(every):  # a call
        operations, needed = _count(inner[0], used)
        return operations * (parameters["mesh"].size if name == "shard_map" else 1), needed
    operations = sum(_count(jaxpr, [True] * len(jaxpr.outvars))[0] for jaxpr in inner)
    return operations * (parameters["length"] if name == "scan" else 1), every


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    assert isinstance(variable.aval, jax.core.ShapedArray)
    return variable.aval.shape


def _jaxprs(value: Any) -> list[Jaxpr]:
    """Returns the programs in a parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [jaxpr for one in value for jaxpr in _jaxprs(one)]
    return [value.jaxpr] if isinstance(value, ClosedJaxpr) else [value] if isinstance(value, Jaxpr) else []


def _convolution(equation: JaxprEqn) -> int:
    """Counts the products with values of the input, without those with padding and with zeros between values."""
    parameters, (left, right), out = equation.params, equation.invars, equation.outvars[0]
    numbers = parameters["dimension_numbers"]
    sides = [[_shape(array)[axis] for axis in spec[2:]]
             for array, spec in zip((left, right, out), numbers, strict=True)]
    positions = 1
    for axis, ((low, _), size, kernel, outputs) in enumerate(zip(parameters["padding"], *sides, strict=True)):
        stride, between = parameters["window_strides"][axis], parameters["lhs_dilation"][axis]
        place = (np.arange(outputs)[:, None] * stride - low
                 + np.arange(kernel)[None] * parameters["rhs_dilation"][axis])
        positions *= int(((place >= 0) & (place <= (size - 1) * between) & (place % between == 0)).sum())
    batch, features = (_shape(out)[numbers.out_spec[i]] for i in (0, 1))
    return 2 * batch * features * _shape(right)[numbers.rhs_spec[1]] * positions
