"""Memory is given out again when nobody can see it any more, and not before."""

import concurrent.futures
import gc

import jax
import numpy as np
import pytest

from dual_encoder.data.batch_memory import Memory

pytestmark = pytest.mark.quick


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_of_an_array_that_is_gone_is_used_again():
    memory = Memory()
    first = memory.empty((3, 40), "uint16")
    assert first.shape == (3, 40) and first.dtype == np.uint16 and first.flags.writeable and first.flags.c_contiguous
    place = address(first)
    del first
    others = [np.empty(240, np.uint8) for _ in range(50)]  # would get it, were it given back
    assert place not in map(address, others)
    assert address(memory.empty((240,), "uint8")) == place, "the number of bytes counts, not shape or dtype"


@pytest.mark.parametrize("view", [
    lambda array: array[1:2, 3:], lambda array: array.reshape(-1)[::2].T, lambda array: array.view(np.uint8),
    lambda array: memoryview(array), lambda array: array[0, 0, ...], lambda array: np.asarray(memoryview(array)),
], ids=["slice", "chain", "dtype", "memoryview", "element", "round trip"])
def test_memory_that_somebody_can_see_is_not_used_again(view):
    memory = Memory()
    array = memory.empty((3, 40), "uint16")
    array[:] = 7
    seen = view(array)
    before = np.array(seen)
    del array
    gc.collect()
    others = [memory.empty((3, 40), "uint16") for _ in range(3)]
    for other in others:
        other[:] = 9
    np.testing.assert_array_equal(np.asarray(seen), before)


def test_memory_that_jax_has_taken_over_is_not_used_again():
    """On a CPU, JAX takes ours without a copy, whatever their size."""
    memory = Memory()
    for size in range(16_384, 16_484):
        array = memory.empty((size,), "uint8")
        array[:] = 7
        place, taken = address(array), jax.device_put(array, jax.devices()[0])
        assert taken.unsafe_buffer_pointer() == place, "a copy"
        del array
        memory.empty((size,), "uint8")[:] = 9
        np.testing.assert_array_equal(taken, 7)


def test_sizes_are_kept_apart_and_threads_get_memory_of_their_own():
    memory = Memory()

    def use(number):
        array = memory.empty((1 + number % 3, 1000), "int64")
        array[:] = number
        return bool((array == number).all())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(2000)))
    assert sum(map(len, memory._free.values())) <= 8 * 3
