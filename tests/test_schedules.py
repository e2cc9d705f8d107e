"""Learning rates: each decay by hand, behind a warm-up, and the rate that the log shows is the one that was used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dual_encoder.optim.optimizer import learning_rate, make_optimizer, rate_at
from dual_encoder.optim.schedules import Constant, Cosine, CosineRestarts, Linear, warmup_and_decay
from tests.test_optim import config

pytestmark = pytest.mark.quick

STEPS, PEAK = 100, 0.4


def rates(schedule, steps=STEPS):
    return np.array([rate_at(schedule, update) for update in range(1, steps + 1)])


@pytest.mark.parametrize("decay, expected", [
    (Cosine(), lambda t: (1 + np.cos(np.pi * t / STEPS)) / 2),
    (CosineRestarts(cycles=4), lambda t: (1 + np.cos(np.pi * (t % 25) / 25)) / 2),
    (Linear(), lambda t: 1 - t / STEPS),
    (Constant(), lambda t: np.ones_like(t, float)),
])
def test_each_decay_is_its_formula(decay, expected):
    np.testing.assert_allclose(rates(warmup_and_decay(PEAK, 0.0, STEPS, decay)), PEAK * expected(np.arange(STEPS)),
                               rtol=2e-5, atol=1e-7)


def test_a_warm_up_comes_first_and_the_decay_has_the_rest():
    seen = rates(warmup_and_decay(PEAK, 0.2, STEPS, Linear()))
    np.testing.assert_allclose(seen[:21], PEAK * np.arange(21) / 20, rtol=1e-5)
    np.testing.assert_allclose(seen[20:], PEAK * (1 - np.arange(80) / 80), rtol=1e-5)


def test_cosine_with_warm_up_is_that_of_optax():
    reference = optax.warmup_cosine_decay_schedule(0.0, PEAK, 10, STEPS)
    np.testing.assert_array_equal(rates(warmup_and_decay(PEAK, 0.1, STEPS, Cosine())), rates(reference))


def test_more_cycles_than_steps_still_give_a_rate():
    assert np.isfinite(rates(warmup_and_decay(PEAK, 0.0, 2, CosineRestarts(cycles=5)), 2)).all()


def test_the_rate_that_is_shown_is_the_one_that_was_used():
    chosen = config("sgd", warmup=0.3, momentum=0.0, scaling="sqrt", decay=CosineRestarts(cycles=2))
    optimizer, schedule = make_optimizer(chosen, 64, 20), learning_rate(chosen, 64, 20)
    params = {"kernel": jnp.ones(2)}
    state = optimizer.init(params)
    for update in range(1, 21):
        change, state = jax.jit(optimizer.update)(params, state, params)
        np.testing.assert_allclose(-change["kernel"], rate_at(schedule, update), rtol=1e-6)
