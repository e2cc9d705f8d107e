"""python -m dual_encoder.plan: figures of the compiled step against slow counts, the search, and the command."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import pathlib
import re
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from configs import finetune, pretrain
from dual_encoder.config import parse
from dual_encoder.data.batches import batches
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import shapes
from dual_encoder.errors import UserError
from dual_encoder.models import resnet
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.plan import __main__ as plan
from dual_encoder.plan import chips, flops, hlo, step_program, table
from dual_encoder.plan.remedies import find_remedies
from dual_encoder.plan.search import largest_batch
from dual_encoder.plan.step_program import Memory, StepProgram
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import AnyConfig, build_without_weights
from dual_encoder.training.step import compile_step, init_state, train_step
from tests import commands
from tests.runs import VIT_FLAGS

# ml_collections 1.1 loads configuration files in a way that importlib will not offer for ever.
pytestmark = [pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
              pytest.mark.usefixtures("short_resnet")]

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--config=configs/pretrain.py:smoke", "--size=40", "--config.encoder.width=8", "--config.augment.crop=32",
        "--config.projection.hidden=16", "--config.projection.dim=8")


def configure(folder="unread", **changes):
    values = pretrain.get_config("smoke")
    values.data.dir, values.data.split = str(folder), "train"
    values.encoder.width, values.batch_size, values.augment.crop = 8, 8, 32
    values.projection = {"hidden": 16, "dim": 8}
    values.update_from_flattened_dict(changes)
    return parse(AnyConfig, values.to_dict())


# Collectives


def compiled_text(function, specs, *arguments, axes=("d",), sides=(8,)):
    devices = Mesh(np.array(jax.devices()).reshape(sides), axes, axis_types=(AxisType.Auto,) * len(axes))
    mapped = jax.shard_map(function, mesh=devices, in_specs=specs, out_specs=specs, check_vma=False)
    return jax.jit(mapped).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("function, kind, values", [
    (lambda x: lax.psum(x, "d"), "all-reduce", 8 * 3),
    (lambda x: lax.all_gather(x, "d", tiled=True), "all-gather", 64 * 3),
    (lambda x: lax.psum_scatter(x, "d", tiled=True), "reduce-scatter", 8 * 3),
    (lambda x: lax.ppermute(x, "d", [(i, (i + 1) % 8) for i in range(8)]), "collective-permute", 8 * 3),
    (lambda x: lax.all_to_all(x, "d", 0, 0, tiled=True), "all-to-all", 8 * 3),
])
def test_each_collective_of_a_real_program_is_read(function, kind, values):
    """64 rows of 3 float32 on 8 devices; each value crosses in 4 bytes."""
    [one] = hlo.collectives(compiled_text(function, P("d"), jax.ShapeDtypeStruct((64, 3), jnp.float32)), 8)
    assert (one.kind, sum(size for size, _ in one.arrays), one.bytes, one.group, one.times) == (
        kind, values, 4 * values, 8, 1)
    assert "shard_map" in one.source


def test_tuples_groups_and_loops_of_a_real_program_are_read():
    def function(x):
        both = lax.psum((x, x[:1]), "a")
        return lax.psum(both[0], "b") + both[1], lax.scan(lambda c, _: (lax.psum(c * 0.5, "b"), None), x, length=5)[0]

    x = jax.ShapeDtypeStruct((64, 3), jnp.float32)
    text = compiled_text(function, P(("a", "b")), x, axes=("a", "b"), sides=(2, 4))
    found = sorted((one.group, one.times, sorted(one.arrays), one.bytes) for one in hlo.collectives(text, 8))
    assert found == [(2, 1, [(3, 12), (24, 96)], 108), (4, 1, [(24, 96)], 96), (4, 5, [(24, 96)], 96)]


# What TPUs and GPUs write, after programs of libtpu 0.0.42 and JAX's CUDA plug-in 0.10.2.
ASYNC = """HloModule m, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%step.1 (p: f32[4,2]) -> f32[16,2] {
  %p = f32[4,2]{1,0:T(8,128)} parameter(0)
  ROOT %gather.1 = f32[16,2]{1,0:T(8,128)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['x'=2,'y'=4] {'x','y'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%step.2 (p.2: f32[4,2]) -> f32[16,2] {
  %p.2 = f32[4,2]{1,0:T(8,128)} parameter(0)
  ROOT %gather.2 = f32[16,2]{1,0:T(8,128)S(1)} all-gather(%p.2), channel_id=7, replica_groups=mesh['x'=2,'y'=4] {'x','y'}, dimensions={0}, frontend_attributes={chain_id="0"}
}

%wrapped (p.3: bf16[32]) -> bf16[8] {
  %p.3 = bf16[32]{0} parameter(0)
  ROOT %scatter = bf16[8]{0} reduce-scatter(%p.3), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%sum
}

%body (state: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %state = (s32[], f32[4,2]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %value = f32[4,2]{1,0} get-tuple-element(%state), index=1
  %sent = (f32[4,2]{1,0}, f32[4,2]{1,0}, u32[], u32[]) collective-permute-start(%value), channel_id=4, source_target_pairs={{0,1},{1,0}}
  %arrived = f32[4,2]{1,0} collective-permute-done(%sent)
  ROOT %next = (s32[], f32[4,2]{1,0}) tuple(%number, %arrived)
}

%condition (state.2: (s32[], f32[4,2])) -> pred[] {
  %state.2 = (s32[], f32[4,2]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x: f32[4,2], y: bf16[32]) -> f32[16,2] {
  %x = f32[4,2]{1,0:T(8,128)} parameter(0), metadata={op_name="state.params['a (b)']"}
  %y = bf16[32]{0} parameter(1)
  %zero = s32[] constant(0)
  %reduced = (f32[4,2]{1,0}, /*index=1*/bf16[32]{0}) all-reduce-start(%x, %y), channel_id=1, replica_groups=mesh['x'=8] {'x':(2)4}, to_apply=%sum, metadata={op_name="jit(f)/sum"}
  %reduced.2 = (f32[4,2]{1,0}, bf16[32]{0}) all-reduce-done(%reduced)
  %f.1 = f32[16,2]{1,0} fusion(%x), kind=kCustom, calls=%step.1
  %f.2 = f32[16,2]{1,0} fusion(%x), kind=kCustom, calls=%step.2
  %a.1 = ((bf16[32]{0}), bf16[8]{0}, u32[]) async-start(%y), calls=%wrapped
  %a.2 = bf16[8]{0} async-done(%a.1), calls=%wrapped
  %first = (s32[], f32[4,2]{1,0}) tuple(%zero, %x)
  %last = (s32[], f32[4,2]{1,0}) while(%first), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %all = f32[16,2]{1,0} add(%f.1, %f.2)
}
"""  # noqa: E501 (lines of a program)


def test_asynchronous_collectives_count_once():
    found = {one.kind: one for one in hlo.collectives(ASYNC, 8)}
    assert len(hlo.collectives(ASYNC, 8)) == len(found) == 4
    facts = {kind: (one.bytes, one.group, one.times) for kind, one in found.items()}
    assert facts == {
        "all-reduce": (4 * 8 + 2 * 32, 4, 1), "all-gather": (4 * 8 * 8, 8, 1), "reduce-scatter": (2 * 32, 4, 1),
        "collective-permute": (4 * 8, 8, 3)}
    assert found["all-reduce"].source == "jit(f)/sum" and found["all-gather"].source == ""


@pytest.mark.parametrize("devices", [2, 5, 8])
def test_bytes_sent_are_those_of_a_ring(devices):
    """A ring in NumPy: every device passes a chunk on in each round; the sums come out right and the bytes add up."""
    values = np.arange(devices * devices * 3, dtype=np.float32).reshape(devices, devices, 3)  # device, chunk, value
    held, sent = values.copy(), {"reduce-scatter": 0, "all-gather": 0}
    for kind, rounds in itertools.product(sent, range(devices - 1)):
        shift = kind == "all-gather"
        chunks = [(device + shift - rounds) % devices for device in range(devices)]
        passed = [held[device, chunk].copy() for device, chunk in enumerate(chunks)]
        for device, chunk in enumerate(chunks):
            there = (device + 1) % devices
            held[there, chunk] = passed[device] + (0 if kind == "all-gather" else held[there, chunk])
        sent[kind] += passed[0].nbytes
    np.testing.assert_array_equal(held, np.broadcast_to(values.sum(axis=0), held.shape))
    whole = values[0].nbytes
    for kind in (*sent, "all-reduce"):
        one = hlo.Collective(kind, ((devices * 3, whole),), devices, 1, "")
        assert one.sent == pytest.approx(sent.get(kind, sum(sent.values())))


# Memory traffic and operations


def test_memory_traffic_is_the_compilers_count_and_loops_count():
    """Without loops XLA's own count is the reference; with a loop, XLA's count of the same loop written out."""
    def step(x, w):
        return jnp.tanh(x @ w) + 1.0

    def looped(x, ws):
        return lax.scan(lambda x, w: (step(x, w), None), x, ws)[0]

    def written_out(x, ws):
        return functools.reduce(step, ws, x)

    x, ws = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((6, 64, 64), jnp.float32)
    loop, flat = (jax.jit(f).lower(x, ws).compile() for f in (looped, written_out))
    expected = flat.cost_analysis()["bytes accessed"]
    assert hlo.memory_traffic(flat.as_text()) == pytest.approx(expected, rel=0.02)
    # A loop copies a matrix (16 kB) that the other form reads in place, and its counter: at most 2 of 5 arrays more.
    assert expected <= hlo.memory_traffic(loop.as_text()) <= 1.4 * expected
    assert loop.cost_analysis()["bytes accessed"] < 0.5 * expected, "XLA takes a body once: the reason of our count"


def test_memory_on_the_chip_costs_nothing_and_slices_cost_what_they_take():
    text = """HloModule m

%body (p: f32[100,8], i: s32[]) -> f32[1,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %s = f32[1,8]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,8}
}

%body.2 (q: f32[100,8], v: f32[1,8], j: s32[]) -> f32[100,8] {
  %q = f32[100,8]{1,0} parameter(0)
  %v = f32[1,8]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %z.2 = s32[] constant(0)
  %m = f32[1,8]{1,0} negate(%v)
  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%q, %m, %j, %z.2)
}

ENTRY %main (p.1: f32[100,8], i.1: s32[]) -> f32[100,8] {
  %p.1 = f32[100,8]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %f = f32[1,8]{1,0:T(2,128)S(1)} fusion(%p.1, %i.1), kind=kLoop, calls=%body
  %n = f32[1,8]{1,0:S(1)} negate(%f)
  %c = ((f32[100,8]{1,0}), f32[10,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p.1), slice={[0:10], [0:8]}
  %d = f32[10,8]{1,0:S(1)} slice-done(%c)
  %row = f32[1,8]{1,0} copy(%n)
  %u.1 = f32[100,8]{1,0} dynamic-update-slice(%p.1, %row, %i.1, %i.1)
  ROOT %out = f32[100,8]{1,0} fusion(%u.1, %row, %i.1), kind=kLoop, calls=%body.2
}
"""
    read_by_fusion, read_by_slice, written_by_copy = 32 + 4, 320, 32
    in_place, in_place_by_fusion = 32 + 32, (32 + 4) + 32  # a row read and written; 99 rows stay where they are
    assert hlo.memory_traffic(text) == (read_by_fusion + read_by_slice + written_by_copy + in_place
                                        + in_place_by_fusion)


def brute_force_convolution(size, kernel, stride, padding, between, dilation):
    """Multiplications of one channel along one axis, place by place."""
    spread = np.zeros((size - 1) * between + 1, bool)
    spread[::between] = True
    padded = np.concatenate([np.zeros(padding[0], bool), spread, np.zeros(padding[1], bool)])
    reach = (kernel - 1) * dilation + 1
    return sum(int(padded[start:start + reach:dilation].sum()) for start in range(0, len(padded) - reach + 1, stride))


@pytest.mark.parametrize("size, kernel, stride, padding, between, dilation, groups", [
    (9, 3, 1, (1, 1), 1, 1, 1), (9, 7, 2, (3, 3), 1, 1, 1), (8, 3, 2, (0, 1), 1, 2, 2), (5, 3, 1, (2, 2), 2, 1, 4),
    (7, 1, 3, (0, 0), 1, 1, 1)])
def test_a_convolution_counts_products_with_values_only(size, kernel, stride, padding, between, dilation, groups):
    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (stride, 1), (padding, (1, 1)), lhs_dilation=(between, 1),
                                        rhs_dilation=(dilation, 1), dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                        feature_group_count=groups)

    x, w = jnp.zeros((2, size, 6, 4)), jnp.zeros((kernel, 3, 4 // groups, 8))
    per_channel = (brute_force_convolution(size, kernel, stride, padding, between, dilation)
                   * brute_force_convolution(6, 3, 1, (1, 1), 1, 1))
    assert flops.count(convolve, x, w) == 2 * 2 * 8 * (4 // groups) * per_channel


def test_operations_of_loops_conditions_meshes_and_gradients_are_counted():
    x, w = jnp.zeros((8, 16)), jnp.zeros((16, 16))
    product = 2 * 8 * 16 * 16
    assert flops.count(lambda x, w: x @ w, x, w) == product
    assert flops.count(lambda x, w: lax.scan(lambda x, _: (x @ w, None), x, length=5)[0], x, w) == 5 * product
    assert flops.count(lambda x, w: lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), x, w) == 2 * product
    assert flops.count(jax.grad(lambda w, x: (x @ w).sum()), w, x) == product  # the value is not needed
    assert flops.count(jax.value_and_grad(lambda w, x: (x @ w).sum()), w, x) == 2 * product
    assert flops.count(jax.value_and_grad(jax.checkpoint(lambda w, x: jnp.sin(x @ w).sum())), w, x) == 3 * product
    assert flops.count(lambda x, w: (x @ w, x @ w @ w)[0], x, w) == product
    split = jax.shard_map(lambda x, w: x @ w, mesh=mesh.make(), in_specs=(P("data"), P()), out_specs=P("data"))
    assert flops.count(jax.jit(split), x, w) == product


def resnet_by_hand(width, size, bands, blocks):
    """(operations of all convolutions, those of the first) for one image, forward; only products with pixels count.

    blocks: of two convolutions each, for each layer.
    """
    def convolution(size, kernel, stride, inside, outside):
        positions = brute_force_convolution(size, kernel, stride, (kernel // 2, kernel // 2), 1, 1)
        return 2 * positions**2 * inside * outside

    first = convolution(size, 7, 2, bands, width)
    total, size, inside = first, size // 4, width
    for layer, count in enumerate(blocks):
        outside, stride = width * 2**layer, 2 if layer else 1
        total += convolution(size, 3, stride, inside, outside)
        total += convolution(size, 1, stride, inside, outside) if stride == 2 else 0
        size, inside = size // stride, outside
        total += (2 * count - 1) * convolution(size, 3, 1, outside, outside)
    return total, first


@pytest.fixture(scope="module")
def program(write_dataset):
    """The compiled step of a small configuration on eight devices, and the records that it is for."""
    config = configure(write_dataset())
    records = Records(config.data.dir, "train", config.features)
    task = build_without_weights(config, records, mesh.make())
    return config, records, task, step_program.compile_program(config, task, records.info, mesh.make(), steps=10)


def test_the_plan_is_of_the_step_that_training_runs(program):
    """Same memory as training.step.compile_step on a real state and a real batch, placed as the trainer places them."""
    config, records, task, planned = program
    devices = mesh.make()
    optimizer = make_optimizer(config.optimizer, config.batch_size, 10, task.frozen)
    state = init_state(task, optimizer, config, devices)
    batch = next(batches(records, seed=0, batch_size=8, rows=range(8), start=0, stop=1, threads=1, processes=0))
    batch = mesh.to_global(batch, devices)
    expected = {name: (array.shape, array.dtype) for name, array in batch.items()}
    abstract = step_program.batch_shapes(task, records.info, 8)
    assert {name: (array.shape, array.dtype) for name, array in abstract.items()} == expected
    step = compile_step(task, optimizer, config, devices)
    stats = step.lower(state, batch).compile().memory_analysis()
    memory = planned.memory
    assert (memory.arguments, memory.outputs, memory.aliased, memory.temporaries, memory.code) == (
        stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes,
        stats.temp_size_in_bytes, stats.generated_code_size_in_bytes)
    assert memory.next_batch == sum(array.nbytes for array in batch.values()) / 8
    assert memory.aliased > 0.9 * planned.state, "the state is donated"
    assert memory.total == sum(dataclasses.astuple(memory)) - 2 * memory.aliased
    assert planned.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert planned.state == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_a_program_that_jax_cannot_read_is_one_line(program, monkeypatch):
    """Like the programs of a libtpu for a later JAX; the stand-in fails in the same call."""
    def unreadable():
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: unknown opcode 131\nof a later version")

    config, records, task, _ = program
    step = types.SimpleNamespace(compile=lambda options: types.SimpleNamespace(as_text=unreadable))
    monkeypatch.setattr(step_program, "compile_step", lambda *_: types.SimpleNamespace(lower=lambda *_: step))
    with pytest.raises(UserError, match=r"cannot read the program.*\(INVALID_ARGUMENT: unknown opcode 131\); "):
        step_program.compile_program(config, task, records.info, mesh.make(), steps=10)


def count_both(config, records, task, blocks):
    """Asserts that the operations of a step are those of a hand count; returns them.

    Forward, and two products as large going back: for the input (not of the first layer) and for the kernel.
    """
    encoders = [resnet_by_hand(8, 32, len(spec.bands), blocks) for spec in records.info.sensors.values()]
    head = 2 * (64 * config.projection.hidden + config.projection.hidden * config.projection.dim)
    by_hand = config.batch_size * sum(3 * (total + head) - first for total, first in encoders)
    optimizer = make_optimizer(config.optimizer, config.batch_size, 10, task.frozen)
    state = jax.eval_shape(lambda: init_state(task, optimizer, config, mesh.make()))
    counted = flops.count(functools.partial(train_step, task=task, optimizer=optimizer, seed=0, ema=0.0), state,
                          step_program.batch_shapes(task, records.info, config.batch_size))
    similarities = 2 * config.batch_size**2 * config.projection.dim  # forward once, backward at most four times
    assert by_hand + similarities <= counted <= by_hand + 5 * similarities
    return counted


def test_operations_are_those_of_a_hand_count(program):
    config, records, task, planned = program
    counted = count_both(config, records, task, (1, 1, 1, 1))
    # The compiler counts more operations: mostly the optimizer, 20 or so per parameter on every device. On a CPU the
    # images of 2 and 1 pixels go through patches: of their 9 products, 4 and 1 are with pixels and counted by hand.
    assert counted / 8 <= planned.flops < 9 / 4 * counted / 8 + 30 * planned.parameters
    assert planned.bytes_accessed == pytest.approx(planned.traffic, rel=0.02)  # no loop of weight in this program
    with mock.patch.dict(resnet._LAYOUTS, {18: (False, (2, 2, 2, 2))}):  # a whole ResNet-18 again
        count_both(config, records, build_without_weights(config, records, mesh.make()), (2, 2, 2, 2))


def test_what_crosses_is_predicted_by_the_parameters(program):
    """Gradients; per channel of a BatchNorm 2 sums forward and 1 or 2 back; one sensor's embeddings and gradients."""
    config, _, task, planned = program
    params, stats = jax.eval_shape(task.init, jax.random.key(0))
    gradients, channels = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, stats))
    embeddings = config.batch_size * 2 * config.projection.dim
    others = config.batch_size * 10 + 20  # some values per pair, and the sums that become metrics
    crossing = sum(one.times * one.bytes for one in planned.collectives)
    assert 4 * (gradients + 1.5 * channels + embeddings) <= crossing
    assert crossing <= 4 * (gradients + 2 * channels + embeddings + others)


@pytest.mark.parametrize("variant", ["flood_ombria", "flood_ombria_change"])
def test_finetuning_has_a_plan_without_checkpoint_or_tiles(variant):
    values = finetune.get_config(variant)
    values.encoder.width, values.batch_size, values.augment.crop, values.decoder_width = 8, 8, 32, 8
    values.init_from, values.class_weights, values.data.dir = "nowhere", "none", "unread"
    config = parse(AnyConfig, values.to_dict())
    records = shapes(40, ("s1_grd", "s2_l2a"), classes=3, two_dates=variant.endswith("change"))
    devices = mesh.make(jax.devices()[:2])
    task = build_without_weights(config, records, devices)
    planned = step_program.compile_program(config, task, records.info, devices, steps=1)
    assert planned.flops > 0 and planned.memory.temporaries > 0
    assert {one.group for one in planned.collectives} == {2}


# The search


@pytest.mark.parametrize("multiple", [1, 8, 256])
@pytest.mark.parametrize("guess_error", [None, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("truth", [0, 255, 256, 1000, 5000, 33_333, 1_000_000])
def test_the_search_ends_beside_the_truth(multiple, guess_error, truth):
    asked = []

    def fits(batch):
        asked.append(batch)
        return batch <= truth

    def guess(batch):
        return 0 if guess_error is None else int(truth * guess_error)

    low, high, _ = largest_batch(fits, multiple, 4096, fits(4096), guess, questions=64)
    assert low <= truth and (low == 0 or low % multiple == 0) and (high is None or high > truth)
    assert high - low <= max(multiple, low // 16)
    assert len(asked) == len(set(asked)), "no question twice"
    assert all(batch % multiple == 0 for batch in asked)


def test_the_search_stops_asking():
    asked = []
    low, high, _ = largest_batch(lambda batch: asked.append(batch) or True, 8, 64, True, questions=3)
    assert len(asked) == 3 and low == max(asked) and high is None
    assert largest_batch(lambda batch: False, 8, 8, False) == (0, 8, "")
    assert largest_batch(lambda batch: True, 8, 64, True, lambda batch: 3 * batch, questions=2) == (576, None, "")


# The figures and the text


def test_times_are_figures_over_published_peaks():
    chip = chips.CHIPS["v5e"]
    program = StepProgram(
        parameters=10**6, state=10**7, memory=Memory(10, 8, 8, 100, 5, 1), flops=197e12 * 0.010,
        bytes_accessed=None, traffic=int(819e9 * 0.030), compile_seconds=1.0,
        collectives=(hlo.Collective("all-reduce", ((25 * 10**7, 10**9),), 2, 2, ""),))
    one = table.figures(program, chip, 2048, steps=1000)
    assert one["seconds_at_peak"] == pytest.approx({"arithmetic": 0.010, "memory": 0.030, "links": 2 * 10**9 / 200e9})
    assert one["bound_by"] == "memory" and one["hours_at_best"] == pytest.approx(1000 * 0.030 / 3600)
    assert one["pairs_per_second_at_best"] == pytest.approx(2048 / 0.030) and one["memory"]["total"] == 116
    text = "\n".join(table.lines(one, chip, 100))
    assert "does not fit" in text and "30.00 ms at 819 GB/s" in text and "bound by memory" in text
    assert one["input_bytes_per_second_at_best"] == pytest.approx(1 / 0.030)
    assert "all-reduce" in text and "1,000 steps of the schedule: 0.01 hours" in text
    assert "fits; TPU v5e has 16" in "\n".join(table.lines(one, chip, chip.usable))
    assert "seconds_at_peak" not in table.figures(program, None, 8, 0)


@pytest.fixture
def made_up(monkeypatch):
    """Programs that need 1 GiB and 1 MiB per row of a micro-batch; from a batch of 20,000 the compiler refuses."""
    def compile_program(config, task, info, devices, steps):
        rows = (config.train.micro_batch or config.batch_size) // devices.size
        if config.batch_size >= 20_000:
            raise step_program.TooLarge("Ran out of memory on HBM")
        return StepProgram(10**6, 2**30, Memory(2**30, 2**30, 2**30, rows * 2**20, 0, 0), 1e9, 1e9, 10**9, (), 1.0)

    monkeypatch.setattr(plan, "compile_program", compile_program)
    return ("--topology=cpu:8", *TINY)


@pytest.fixture
def made_up_chip(made_up, monkeypatch):
    """The same on one v5e: 15.75 GiB, and 1/819 s for the 10**9 bytes that a step moves."""
    monkeypatch.setattr(plan, "topology", lambda name: (jax.devices()[:1], chips.CHIPS["v5e"]))
    cached = jax.config.jax_enable_compilation_cache
    yield ("--topology=v5e:1x1", *TINY)
    jax.config.update("jax_enable_compilation_cache", cached)


@pytest.mark.parametrize("schedule, steps, hours", [
    (["--config.schedule.epochs=3600", "--pairs=6559999"], 3600 * 819, 1),  # 819 whole batches an epoch
    (["--config.schedule.epochs=3600", "--pairs=6559999", "--config.schedule.steps=5896800"], 2 * 3600 * 819, 2),
    ([], None, None),
])
def test_steps_and_hours_are_those_of_the_schedule(made_up_chip, tmp_path, capsys, schedule, steps, hours):
    plan.main([*made_up_chip, "--config.batch_size=8000", "--no-search", f"--json={tmp_path / 'plan.json'}", *schedule])
    out, _ = capsys.readouterr()
    one = json.loads((tmp_path / "plan.json").read_text())["plans"]["8000"]
    assert one["steps"] == steps and one["hours_at_best"] == (hours and pytest.approx(hours))
    assert ("steps of the schedule" in out) == bool(steps)
    assert not steps or f"{steps:,} steps of the schedule: {hours}.00 hours at best" in out
    assert "of 15.75 (56%): fits; TPU v5e has 16" in out  # 8,000 rows need 8.81 GiB


def test_the_limit_is_what_a_program_may_use_of_the_chip(made_up_chip, capsys):
    """16,000 rows need 16.625 GiB; the 14.75 GiB that the state leaves are enough for 15,104."""
    with pytest.raises(SystemExit) as ended:
        plan.main([*made_up_chip, "--config.batch_size=16000"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 1 and "does not fit: 16.62 of 15.75 GiB" in out
    assert "largest global batch that fits: 15,104 (16,000 does not)" in out
    with pytest.raises(SystemExit):
        plan.main([*made_up_chip, "--config.batch_size=8000", "--memory=8", "--no-search"])
    assert "does not fit: 8.81 of 8.00 GiB" in capsys.readouterr().out


def test_the_search_asks_for_whole_micro_batches(made_up, capsys):
    plan.main([*made_up, "--memory=2", "--config.batch_size=7680", "--config.train.micro_batch=1536"])
    out, err = capsys.readouterr()
    asked = [int(batch.replace(",", "")) for batch in re.findall(r"global batch ([\d,]+) \.\.\.", err)]
    assert len(asked) > 2 and all(batch % 1536 == 0 for batch in asked), asked
    assert "largest global batch that fits: 19,968 (21,504 does not)" in out  # 13 and 14 micro-batches


@pytest.mark.parametrize("rows, memory, outcome", [
    (["--config.batch_size=4096", "--config.train.micro_batch=1024"], 1.1,
     "no global batch in micro-batches of 1,024 rows fits"),
    (["--config.batch_size=256", "--config.train.micro_batch=8"], 1.0005,
     "no global batch in micro-batches of 8 rows fits"),
    (["--config.batch_size=64"], 1.0005, "no global batch fits: one row per device is too much"),
])
def test_where_nothing_fits_no_advice_is_in_vain(made_up, capsys, rows, memory, outcome):
    """A batch is of whole micro-batches, a micro-batch of at least one row per device: neither can be made smaller."""
    with pytest.raises(SystemExit) as ended:
        plan.main([*made_up, f"--memory={memory}", *rows])
    out, _ = capsys.readouterr()
    assert ended.value.code == 1 and outcome in out and "largest global batch" not in out
    advice = re.search("change one of: (.*)", out)[1]
    assert "batch_size" not in advice and "more devices" in advice
    assert advice.startswith("a smaller --config.train.micro_batch") == ("micro_batch" in advice) == (memory == 1.1)


def test_a_batch_of_one_pair_is_not_advised(made_up, capsys):
    """It would fit, but has no negatives; two pairs fit one at a time."""
    with pytest.raises(SystemExit) as ended:
        plan.main([*made_up, "--topology=cpu:1", "--memory=1.0015", "--config.batch_size=64"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 1 and "no global batch fits: two rows are too much" in out
    advice = re.search("change one of: (.*)", out)[1]
    assert "batch_size" not in advice and "train.micro_batch" in advice


def test_a_search_that_stopped_early_does_not_say_that_nothing_fits(made_up, capsys):
    with pytest.raises(SystemExit):
        plan.main([*made_up, "--memory=1.0015", "--config.batch_size=32000000"])
    out, _ = capsys.readouterr()
    assert re.search("largest global batch that fits: less than [1-9]", out) and "no global batch" not in out
    assert "change one of: a smaller --config.batch_size; " in out


@pytest.mark.parametrize("batch, code, outcome", [
    (8, 0, "largest global batch that fits: 8; the search ended early: the compiler fails"),
    (64, 1, "that fits: less than 64, not searched further; the search ended early: the compiler fails")])
def test_a_compiler_that_fails_in_the_search_leaves_the_plan(made_up, monkeypatch, tmp_path, capsys, batch, code,
                                                              outcome):
    real = plan.compile_program

    def compile_program(config, *others):
        if config.batch_size != batch:
            raise UserError("the compiler fails")
        return real(config, *others)

    monkeypatch.setattr(plan, "compile_program", compile_program)
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as ended:
        plan.main([*made_up, "--memory=1.005", f"--config.batch_size={batch}", f"--json={tmp_path / 'plan.json'}"])
    written = json.loads((tmp_path / "plan.json").read_text())
    assert outcome in capsys.readouterr().out and (not code or ended.value.code == code)
    assert list(written["plans"]) == [str(batch)] and written["largest_batch"] == (None if code else batch)
    assert written["fits"] == (not code)


def test_a_compiler_that_fails_is_one_line(program, monkeypatch):
    """With code 2: code 1 says that the configuration does not fit."""
    def fails(options):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such\ninstruction")

    config, records, task, _ = program
    step = types.SimpleNamespace(compile=fails)
    monkeypatch.setattr(step_program, "compile_step", lambda *_: types.SimpleNamespace(lower=lambda *_: step))
    with pytest.raises(UserError, match="the compiler fails at a global batch of .*: INTERNAL: no such instruction; "):
        step_program.compile_program(config, task, records.info, mesh.make(), steps=10)


def test_a_plan_that_fits_names_the_largest_batch(made_up, tmp_path, capsys):
    plan.main([*made_up, "--memory=2", "--pairs=800", f"--json={tmp_path / 'plan.json'}"])
    out, err = capsys.readouterr()
    written = json.loads((tmp_path / "plan.json").read_text())
    low, high = written["largest_batch"], written["smallest_too_large"]
    assert written["fits"] and low <= 8 * 1024 < high and high - low <= low / 16
    assert f"largest global batch that fits: {low:,} ({high:,} does not)" in out
    assert set(written["plans"]) == {"8", str(low)} and written["plans"]["8"]["memory"]["total"] == 2**30 + 2**20
    assert "compiling for 8 devices, global batch 8 ..." in err and written["config"]["encoder"]["width"] == 8


def test_a_plan_that_does_not_fit_exits_1_and_names_what_to_change(made_up, capsys):
    with pytest.raises(SystemExit) as ended:
        plan.main([*made_up, "--memory=2", "--config.batch_size=16000"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 1 and "does not fit: 2.95 of 2.00 GiB" in out
    named = int(re.search(r"--config.batch_size=(\d+);", out)[1])
    assert 8 * 1024 * 15 / 16 <= named <= 8 * 1024
    assert "--config.encoder.dtype=bfloat16" in out and "more devices" in out
    with pytest.raises(SystemExit) as ended:
        plan.main([*made_up, "--memory=2", "--config.batch_size=32000", "--no-search"])
    out, _ = capsys.readouterr()
    assert ended.value.code == 1 and "does not fit: Ran out of memory on HBM\n" in out
    assert "a smaller --config.batch_size" in out and "largest global batch" not in out


def test_tiles_are_not_advised_where_the_objective_has_no_matrix_of_similarities():
    def advice(**loss):
        values = pretrain.get_config("smoke")
        values.data.dir = "not read"
        values.loss.update(loss)
        return find_remedies(parse(AnyConfig, values.to_dict()), 8, 16, 8)

    assert any("loss.chunk" in one for one in advice(name="nt_xent"))
    assert not any("loss.chunk" in one for one in advice(name="vicreg", false_negatives="keep"))


@pytest.mark.parametrize("encoder, told", [
    ({}, True), ({"norm": "group"}, False), ({"family": "vit", "depth": 1, "width": 64}, False)])
@pytest.mark.parametrize("micro_batch", [0, 64])
def test_advice_to_split_the_batch_says_what_becomes_of_batch_norm(micro_batch, encoder, told):
    values = pretrain.get_config("smoke")
    values.data.dir, values.batch_size, values.train.micro_batch = "not read", 128, micro_batch
    values.encoder.update(encoder)
    advice = find_remedies(parse(AnyConfig, values.to_dict()), 0, 128, 8)
    [split] = [one for one in advice if "train.micro_batch" in one]
    assert ("BatchNorm's statistics over that part only" in split) == told
    assert split.startswith("a smaller ") == (split == advice[0]) == bool(micro_batch)


# The command


@pytest.mark.parametrize("arguments, message", [
    (["--topology=v5e:3x3", *TINY], "--topology is 'v5e:3x3'; valid: v5e:{1x1,2x2,"),
    (["--topology=v9:4x4", *TINY], "valid: cpu:N, v4:{2x2x1,"),
    (["--topology=cpu:0", *TINY], "--topology is 'cpu:0'; valid: cpu:N"),
    (["--topology=h100:2x2x2", *TINY], "valid: h100:N, h100:HOSTSxN"),
    (["--topology=cpu:99", *TINY], "this process has 8 simulated CPU devices; use cpu:8"),
    ([*TINY], "the following arguments are required: --topology"),
    (["--topology=cpu:8", *TINY, "--sise=4"], "sise"),
    (["--topology=cpu:8", *TINY, "--size=-40"], "argument --size: is -40, expected 0 or more"),
    (["--topology=cpu:8", *TINY, "--size=large"], "argument --size: invalid int value: 'large'"),
    (["--topology=cpu:8", *TINY, "--pairs=-1"], "argument --pairs: is -1, expected 0 or more"),
    (["--topology=cpu:8", *TINY, "--memory=nan"], "argument --memory: is nan, expected GiB, 0 or more"),
    (["--topology=cpu:8", *TINY, "--memory=inf"], "argument --memory: is inf"),
    (["--topology=cpu:8", *TINY, "--config.encoder.widht=4"], "did you mean 'encoder.width'"),
    (["--topology=cpu:8", *TINY, "--sensors=s1_grd"], "the task needs 's2', the records have ['s1']"),
    (["--topology=cpu:8", *TINY, "--sensors=s1_grd,s1_rtc"], "both sar images"),
    (["--topology=cpu:8", *TINY, "--sensors=s1_grd,s2"], "unknown sensor 's2'"),
    (["--topology=cpu:8", *TINY, "--config.batch_size=12"], "not a multiple of the 8 devices; use 8 or 16"),
    (["--topology=cpu:8", *TINY, "--config.augment.crop=64"], "config.augment.crop is 64, the images have 40 pixels"),
    (["--topology=cpu:8", "--config=configs/pretrain.py"], "config.data.dir is ''; set it, or give the side"),
    (["--topology=cpu:8", "--config=configs/pretrain.py", "--config.data.dir=nowhere"], "nowhere' does not exist"),
    (["--topology=cpu:8", "--config=configs/evaluate.py", "--size=64", "--config.init_from=x"], "plans are for"),
    (["--topology=cpu:8", "--config=configs/finetune.py", "--size=64", "--config.augment.crop=32"],
     "the task needs 'label', the records have ['s1', 's2']; give another data set, or --sensors=s1_grd,s2_l2a, and "
     "--classes=N"),
])
def test_a_mistake_gets_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        plan.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and err.startswith("error: ") and message in err and not out, (out, err)
    assert len(err.splitlines()) == 1


def test_a_compiler_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=r"needs libtpu.*pip install -e '\.\[tpu-plan\]'"):
        chips.topology("v5e:2x2")

    def missing(*args, **kwargs):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(chips.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"pip install -e '\.\[cuda\]'"):
        chips.topology("h100:2x8")


def run(*arguments, **environment):
    return commands.run("-m", "dual_encoder.plan", *arguments, timeout=900, **environment)


@pytest.mark.slow
def test_the_command_fits_does_not_fit_and_reads_a_data_set(write_dataset, tmp_path):
    tiny = (*TINY, *VIT_FLAGS)
    fits = run("--topology=cpu:4", *tiny, "--pairs=1000", "--no-search", f"--json={tmp_path / 'plan.json'}")
    assert fits.returncode == 0, fits.stderr
    assert "cpu:4: 4 x simulated CPU device; global batch 8, 2 per device" in fits.stdout
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["fits"] and written["plans"]["8"]["collectives"]["all-reduce"]["bytes"] > 4 * 100_000
    folder = write_dataset()
    arguments = [argument for argument in tiny if not argument.startswith("--size")]
    refused = run("--topology=cpu:4", *arguments, f"--config.data.dir={folder}", "--config.data.split=train",
                  "--memory=0.001", "--no-search")
    assert refused.returncode == 1 and "does not fit" in refused.stdout, refused.stderr
    assert "s1 int16[40, 40, 2], s2 uint16[40, 40, 12]" in refused.stdout
    mistake = run("--topology=v5e:1x7", *TINY)
    assert mistake.returncode == 2 and mistake.stderr.count("\n") == 1, mistake.stderr


def test_a_second_process_with_libtpu_is_told_to_wait(monkeypatch):
    def locked(*_, **__):
        raise jax.errors.JaxRuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(chips.topologies, "get_topology_desc", locked)
    with pytest.raises(UserError, match="another process of this machine uses libtpu; wait until it ends"):
        chips.topology("v5e:2x2")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu-plan)")
def test_a_tpu_topology_is_compiled_for(tmp_path):
    result = run("--topology=v5e:2x2", *TINY, "--no-search", "--pairs=1000", f"--json={tmp_path / 'plan.json'}",
                 XLA_FLAGS="")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith("compiling")] == [], "libtpu is quiet"
    one = json.loads((tmp_path / "plan.json").read_text())["plans"]["8"]
    # One sensor's embeddings are gathered; libtpu 0.0.42 gathers the places too, 0.0.52 sums them up.
    assert "4 x TPU v5e" in result.stdout and one["collectives"]["all-gather"]["count"] >= 1
    assert one["seconds_at_peak"]["memory"] > 0 and one["memory"]["code"] > 0
    too_large = run("--topology=v5e:2x2", *TINY, "--no-search", "--config.batch_size=400000", XLA_FLAGS="")
    assert too_large.returncode == 1 and "does not fit: " in too_large.stdout, too_large.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None,
                    reason="JAX's CUDA compiler is not installed (extra cuda)")
def test_a_gpu_topology_is_compiled_for(tmp_path):
    result = run("--topology=h100:2", *TINY, "--no-search", f"--json={tmp_path / 'plan.json'}", XLA_FLAGS="")
    assert result.returncode == 0, result.stderr
    one = json.loads((tmp_path / "plan.json").read_text())["plans"]["8"]
    assert "2 x H100 80GB" in result.stdout and one["collectives"]["all-reduce"]["count"] > 0 and one["flops"] > 0
    # Without a GPU there are no tiles of Triton for the products of this many tokens. Only embeddings are gathered:
    # cuDNN's attention is divided by rows.
    result = run("--config=configs/pretrain.py:vit", "--topology=h100:2", "--size=224", "--no-search",
                 "--config.encoder.depth=1", "--config.batch_size=128", f"--json={tmp_path / 'vit.json'}", XLA_FLAGS="")
    assert result.returncode == 0, result.stderr
    one = json.loads((tmp_path / "vit.json").read_text())["plans"]["128"]
    assert one["collectives"]["all-gather"]["bytes"] < 4 * 128 * 128 * 4
