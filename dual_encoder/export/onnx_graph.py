"""Turns a JAX function into an ONNX graph, operation by operation.

It covers the operations of the models here, and raises UserError for any other. There is no kept library for this:
jax2onnx 0.17 cannot be installed beside orbax-checkpoint 0.12, and leaves out paddings; tf2onnx does not read what
jax2tf writes; torch.onnx would need the decoders a second time in PyTorch.

The batch may be symbolic: one symbolic dimension, or multiples of it. What depends on no input is computed while the
graph is made. Broadcasts are left to ONNX: a value may have length 1 along an axis where JAX has more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from dual_encoder.errors import UserError

OPSET = 18  # of ONNX; its reductions and pads are the ones used here

_NAMED = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "neg": "Neg",
          "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf",
          "abs": "Abs", "and": "And", "or": "Or", "not": "Not", "eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual",
          "lt": "Less", "le": "LessOrEqual", "round": "Round"}
_SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
            "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
_END = np.iinfo(np.int64).max


class Value(NamedTuple):
    """A tensor of the graph: `name`, or `array` if it is known; `shape` may have 1 where JAX has more."""

    name: str
    array: np.ndarray | None
    shape: tuple[Any, ...]


def convert(function: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]],
            inputs: Mapping[str, jax.ShapeDtypeStruct], outputs: Sequence[str]) -> Any:
    """Returns the `onnx.ModelProto` of a function; its tensors are laid out as in JAX.

    Args:
      function: name -> array to name -> array; pure.
      inputs: name -> shape and dtype; the first axis may be symbolic (`jax.export.symbolic_shape`).
      outputs: names of the outputs to keep.

    Raises:
      UserError: an operation that is not covered.
    """
    import onnx

    def listed(*arrays: jax.Array) -> list[jax.Array]:
        answers = function(dict(zip(inputs, arrays, strict=True)))
        return [answers[name] for name in outputs]

    closed = jax.make_jaxpr(listed)(*inputs.values())
    graph = _Graph(next((side for spec in inputs.values() for side in spec.shape if not isinstance(side, int)), None),
                   next(iter(inputs)))
    arguments = [Value(name, None, spec.shape) for name, spec in inputs.items()]
    answers = _run(graph, closed.jaxpr, closed.consts, arguments)
    for name, value, variable in zip(outputs, answers, closed.jaxpr.outvars, strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.full(value, variable.aval.shape)], [name]))

    def described(name: str, aval: Any) -> Any:
        sides = [side if isinstance(side, int) else str(side) for side in aval.shape]
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
        return onnx.helper.make_tensor_value_info(name, kind, sides)

    read = {name for node in graph.nodes for name in node.input}
    made = onnx.helper.make_graph(
        graph.nodes, "dual_encoder", [described(*item) for item in inputs.items()],
        [described(name, variable.aval) for name, variable in zip(outputs, closed.jaxpr.outvars, strict=True)],
        [constant for constant in graph.initializers if constant.name in read])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10,
                                   producer_name="dual_encoder")
    onnx.checker.check_model(model)
    return model


class _Graph:
    """The nodes and constants so far.

    Args:
      batch: the symbolic dimension, or None.
      first: name of an input whose first axis has this length.
    """

    def __init__(self, batch: Any, first: str):
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._batch, self._first, self._count = batch, first, 0
        self._lengths: dict[int, str] = {}

    def add(self, kind: str, inputs: Sequence[str], shape: Sequence[Any], **attributes: Any) -> Value:
        """Appends an operation of one output."""
        import onnx

        self._count += 1
        name = f"{kind}_{self._count}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return Value(name, None, tuple(shape))

    def constant(self, array: Any) -> str:
        """Returns the name of a new constant."""
        import onnx

        self._count += 1
        name = f"constant_{self._count}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)),
                                                              name))
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Returns the name of a constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def name(self, value: Value) -> str:
        """Returns the name of a tensor as it is, perhaps with length 1 along some axes."""
        return value.name if value.array is None else self.constant(value.array)

    def full(self, value: Value, shape: Sequence[Any]) -> str:
        """Returns the name of a tensor that has JAX's `shape`."""
        if value.shape == tuple(shape):
            return self.name(value)
        if value.array is not None and all(isinstance(side, int) for side in shape):
            return self.constant(np.broadcast_to(value.array, shape))
        return self.add("Expand", [self.name(value), self._lengths_of(shape, value.shape)], shape).name

    def reshape(self, name: str, shape: Sequence[Any]) -> Value:
        """Reshapes a tensor; at most one side may be symbolic."""
        assert sum(not isinstance(side, int) for side in shape) <= 1, shape
        sides = [side if isinstance(side, int) else -1 for side in shape]
        return self.add("Reshape", [name, self.integers(sides)], shape)

    def transpose(self, name: str, shape: Sequence[Any], order: Sequence[int]) -> Value:
        """Reorders the axes of a tensor of this shape."""
        if list(order) == list(range(len(order))):
            return Value(name, None, tuple(shape))
        return self.add("Transpose", [name], [shape[axis] for axis in order], perm=list(order))

    def _lengths_of(self, shape: Sequence[Any], seen: Sequence[Any]) -> str:
        """Returns the name of an int64 vector: the sides to expand to; 1 keeps a side that is there already."""
        parts = [side if isinstance(side, int) else 1 if old == side else side
                 for side, old in zip(shape, seen, strict=True)]
        if all(isinstance(part, int) for part in parts):
            return self.integers(parts)
        names = [self.integers([part]) if isinstance(part, int) else self._length(part) for part in parts]
        return self.add("Concat", names, (len(parts),), axis=0).name

    def _length(self, side: Any) -> str:
        """Returns the name of an int64 vector of one element: a multiple of the batch."""
        factor = side // self._batch
        assert isinstance(factor, int) and factor * self._batch == side, side
        if factor not in self._lengths:
            batch = self.add("Shape", [self._first], (1,), start=0, end=1).name
            self._lengths[factor] = self.add("Mul", [batch, self.integers([factor])], (1,)).name
        return self._lengths[factor]


def _run(graph: _Graph, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
    """Adds the operations of a jaxpr; returns its outputs."""
    known = dict(zip(jaxpr.constvars, map(_known, consts), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Value:
        return _known(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known |= dict(zip(eqn.outvars, _equation(graph, eqn, [value(atom) for atom in eqn.invars]), strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _known(array: Any) -> Value:
    array = np.asarray(array)
    return Value("", array, array.shape)


def _equation(graph: _Graph, eqn: Any, values: list[Value]) -> list[Value]:
    kind, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    if kind == "platform_index":  # the form for other platforms is one operation, not a rewrite for CPUs
        return [_known(np.int32(params["platforms"].index(None)))]
    if kind == "cond":
        index, *values = values
        if index.array is None:
            raise UserError("onnx: the model holds a branch that depends on its input; use --format=stablehlo")
        branch = params["branches"][int(np.clip(index.array, 0, len(params["branches"]) - 1))]
        return _run(graph, branch.jaxpr, branch.consts, values)
    if kind in _INLINED:
        inner = params[_INLINED[kind]]
        return _run(graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
    if kind in _SAME:
        return values
    whole = all(isinstance(side, int) for out in eqn.outvars for side in out.aval.shape)
    if kind != "broadcast_in_dim" and whole and all(value.array is not None for value in values):
        arrays = [np.broadcast_to(value.array, atom.aval.shape)  # type: ignore[arg-type]
                  for value, atom in zip(values, eqn.invars, strict=True)]
        answer = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **params)
        return [_known(array) for array in (answer if eqn.primitive.multiple_results else [answer])]
    if kind in _NAMED or kind in _ELEMENTWISE:
        names, sides = [graph.name(value) for value in values], _broadcast([value.shape for value in values])
        if kind in _NAMED:
            return [graph.add(_NAMED[kind], names, sides)]
        return [_ELEMENTWISE[kind](graph, names, sides, eqn)]
    if kind == "broadcast_in_dim":
        kept = dict(zip(params["broadcast_dimensions"], values[0].shape, strict=True))
        narrow = tuple(kept.get(axis, 1) for axis in range(len(shape)))
        if values[0].array is not None:
            return [Value("", values[0].array.reshape(narrow), narrow)]
        return [graph.reshape(values[0].name, narrow)]
    if kind not in _OPERATIONS:
        raise UserError(f"onnx: the operation '{kind}' of the model has no translation; use --format=stablehlo or "
                        "saved_model")
    read = 1 if kind == "gather" else len(values)  # the indices of a gather become constants of another operation
    names = [graph.full(value, atom.aval.shape) for value, atom in zip(values[:read], eqn.invars[:read], strict=True)]
    return [_OPERATIONS[kind](graph, names, eqn, values)]


def _broadcast(shapes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Returns the shape of an elementwise operation; scalars fit every shape."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((side for side in sides if not (isinstance(side, int) and side == 1)), 1)
                 for sides in zip(*padded, strict=True))


def _ne(graph, names, shape, eqn):
    return graph.add("Not", [graph.add("Equal", names, shape).name], shape)


def _rsqrt(graph, names, shape, eqn):
    return graph.add("Reciprocal", [graph.add("Sqrt", names, shape).name], shape)


def _square(graph, names, shape, eqn):
    return graph.add("Mul", names * 2, shape)


def _erfc(graph, names, shape, eqn):
    return graph.add("Sub", [graph.constant(np.float32(1)), graph.add("Erf", names, shape).name], shape)


def _integer_pow(graph, names, shape, eqn):
    return graph.add("Pow", [names[0], graph.constant(np.float32(eqn.params["y"]))], shape)


def _is_finite(graph, names, shape, eqn):
    """x - x is 0 for a finite number, and NaN for others."""
    return graph.add("Equal", [graph.add("Sub", names * 2, shape).name, graph.constant(np.float32(0))], shape)


def _select(graph, names, shape, eqn):
    which, no, yes = names  # a bool chooses the second case
    return graph.add("Where", [which, yes, no], shape)


def _convert(graph, names, shape, eqn):
    import onnx

    return graph.add("Cast", names, shape, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"])))


_ELEMENTWISE = {"ne": _ne, "rsqrt": _rsqrt, "square": _square, "erfc": _erfc, "integer_pow": _integer_pow,
                "is_finite": _is_finite, "select_n": _select, "convert_element_type": _convert}


def _reshape(graph, names, eqn, values):
    return graph.reshape(names[0], eqn.outvars[0].aval.shape)


def _transpose(graph, names, eqn, values):
    return graph.transpose(names[0], eqn.invars[0].aval.shape, eqn.params["permutation"])


def _concatenate(graph, names, eqn, values):
    return graph.add("Concat", names, eqn.outvars[0].aval.shape, axis=eqn.params["dimension"])


def _slice(graph, names, eqn, values):
    starts, strides = eqn.params["start_indices"], eqn.params["strides"]
    ends = [end if isinstance(end, int) else _END for end in eqn.params["limit_indices"]]
    vectors = (starts, ends, list(range(len(starts))), strides or [1] * len(starts))
    return graph.add("Slice", [names[0], *map(graph.integers, vectors)], eqn.outvars[0].aval.shape)


def _gather(graph, names, eqn, values):
    """Cuts out one block, `x[:, 3]`: the only gather of the models."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    start = values[1].array
    if start is None or start.ndim != 1 or numbers.operand_batching_dims:
        raise UserError("onnx: a gather of the model has no translation; use --format=stablehlo or saved_model")
    first = dict(zip(numbers.start_index_map, map(int, start), strict=True))
    shape = eqn.invars[0].aval.shape
    axes = sorted(first)
    cut = graph.add("Slice", [names[0], *map(graph.integers, (
        [first[axis] for axis in axes], [first[axis] + sizes[axis] for axis in axes], axes))],
        [sizes[axis] if axis in first else side for axis, side in enumerate(shape)])
    return graph.reshape(cut.name, eqn.outvars[0].aval.shape)


def _pad(graph, names, eqn, values):
    """Pads, and cuts off where the padding is negative."""
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    assert all(interior == 0 for _, _, interior in config) and all(low >= 0 and high >= 0 for low, high, _ in config)
    pads = graph.integers([low for low, _, _ in config] + [high for _, high, _ in config])
    return graph.add("Pad", [names[0], pads, names[1]], shape)


def _reduction(kind):
    def reduce(graph, names, eqn, values):
        axes = graph.integers(eqn.params["axes"])
        return graph.add(kind, [names[0], axes], eqn.outvars[0].aval.shape, keepdims=0)
    return reduce


def _logical(kind):
    """ONNX reduces numbers only."""
    def reduce(graph, names, eqn, values):
        import onnx

        numbers = graph.add("Cast", names, eqn.invars[0].aval.shape, to=onnx.TensorProto.INT32)
        reduced = _reduction(kind)(graph, [numbers.name], eqn, values)
        return graph.add("Cast", [reduced.name], reduced.shape, to=onnx.TensorProto.BOOL)
    return reduce


def _max_pool(graph, names, eqn, values):
    """Channels are the last axis in JAX, and the second in ONNX."""
    params, shape = eqn.params, eqn.invars[0].aval.shape
    window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    assert len(window) == 4 and window[0] == window[3] == 1, window
    assert not any(map(any, padding)) and set(params["base_dilation"]) == set(params["window_dilation"]) == {1}
    x = graph.transpose(names[0], shape, (0, 3, 1, 2))
    y = graph.add("MaxPool", [x.name], [eqn.outvars[0].aval.shape[axis] for axis in (0, 3, 1, 2)],
                  kernel_shape=list(window[1:3]), strides=list(strides[1:3]))
    return graph.transpose(y.name, y.shape, (0, 2, 3, 1))


def _convolution(graph, names, eqn, values):
    """A convolution, or with dilated inputs its transposed form, whose kernel is turned and has its axes swapped."""
    params = eqn.params
    x_axes, kernel_axes, y_axes = params["dimension_numbers"]
    assert params["feature_group_count"] == params["batch_group_count"] == 1 and len(x_axes) == 4
    x = graph.transpose(names[0], eqn.invars[0].aval.shape, x_axes)
    sides = [eqn.outvars[0].aval.shape[axis] for axis in y_axes]
    lows, highs = ([pad[end] for pad in params["padding"]] for end in (0, 1))
    if set(params["lhs_dilation"]) == {1}:
        kernel = graph.transpose(names[1], eqn.invars[1].aval.shape, kernel_axes)
        y = graph.add("Conv", [x.name, kernel.name], sides, strides=list(params["window_strides"]),
                      pads=lows + highs, dilations=list(params["rhs_dilation"]))
    else:
        array = values[1].array
        assert array is not None and set(params["window_strides"]) == set(params["rhs_dilation"]) == {1}
        turned = array.transpose(kernel_axes)[:, :, ::-1, ::-1].swapaxes(0, 1)
        pads = [size - 1 - pad for pad, size in zip(lows + highs, turned.shape[2:] * 2, strict=True)]
        y = graph.add("ConvTranspose", [x.name, graph.constant(turned)], sides,
                      strides=list(params["lhs_dilation"]), pads=pads)
    return graph.transpose(y.name, y.shape, [y_axes.index(axis) for axis in range(4)])


def _dot_general(graph, names, eqn, values):
    """A product of matrices: batch axes first, then rows and columns, each as one axis."""
    (summed_left, summed_right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    shapes = [atom.aval.shape for atom in eqn.invars]
    free = [[axis for axis in range(len(shape)) if axis not in (*summed, *batch)] for shape, summed, batch in zip(
        shapes, (summed_left, summed_right), (batch_left, batch_right), strict=True)]
    batch = [shapes[0][axis] for axis in batch_left]
    rows, columns = ([shape[axis] for axis in axes] for shape, axes in zip(shapes, free, strict=True))
    depth = math.prod(shapes[0][axis] for axis in summed_left)

    def matrix(side, order, sides):
        turned = graph.transpose(names[side], shapes[side], order)
        return turned if turned.shape == tuple(sides) else graph.reshape(turned.name, sides)

    left = matrix(0, (*batch_left, *free[0], *summed_left),
                  (*batch, *(rows if not batch and rows else [math.prod(rows)]), depth))
    right = matrix(1, (*batch_right, *summed_right, *free[1]), (*batch, depth, math.prod(columns)))
    product = graph.add("MatMul", [left.name, right.name], (*left.shape[:-1], math.prod(columns)))
    shape = eqn.outvars[0].aval.shape
    return product if product.shape == tuple(shape) else graph.reshape(product.name, shape)


_OPERATIONS = {"reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape, "transpose": _transpose,
               "concatenate": _concatenate, "slice": _slice, "gather": _gather, "pad": _pad,
               "reduce_sum": _reduction("ReduceSum"), "reduce_max": _reduction("ReduceMax"),
               "reduce_and": _logical("ReduceMin"), "reduce_or": _logical("ReduceMax"),
               "reduce_window_max": _max_pool, "conv_general_dilated": _convolution, "dot_general": _dot_general}
