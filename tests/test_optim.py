"""The optimizer named is the one used; who is excluded; the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.optim.optimizer import OptimizerConfig, learning_rate, make_optimizer, update_average
from dual_encoder.optim.schedules import Cosine

pytestmark = pytest.mark.quick

PARAMS = {"encoder": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "log_scale": jnp.float32(1.0)}
GRADS = jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS)


def config(name, **values):
    defaults = dict(learning_rate=0.1, scaling="none", warmup=0.0, weight_decay=0.0, momentum=0.9, clip_norm=0.0,
                    ema=0.0, decay=Cosine())
    return OptimizerConfig(name=name, **(defaults | values))


def first_update(optimizer):
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name, kernel, bias", [
    # By hand, first step, rate 0.1: LARS scales kernels by 0.001 |w| / |g|, with |w| / |g| = 2, biases not at all.
    ("sgd", -0.05, -0.05), ("lars", -0.05 * 0.002, -0.05), ("adamw", -0.1, -0.1),
    ("lamb", -0.1, -0.1),
])
def test_first_update_is_that_of_the_named_optimizer(name, kernel, bias):
    update = first_update(make_optimizer(config(name), 256, 100))
    np.testing.assert_allclose(update["encoder"]["kernel"], np.full((3, 2), kernel), rtol=1e-4)
    np.testing.assert_allclose(update["encoder"]["bias"], np.full(2, bias), rtol=1e-4)


def test_lamb_adapts_kernels_only():
    """By hand: the step of Adam, 0.1 in each value, times |w| / |step| for a kernel (here 10) and alone otherwise."""
    params = jax.tree.map(lambda leaf: 10.0 * leaf, PARAMS)
    optimizer = make_optimizer(config("lamb"), 256, 100)
    update = optimizer.update(GRADS, optimizer.init(params), params)[0]
    np.testing.assert_allclose(update["encoder"]["kernel"], np.full((3, 2), -1.0), rtol=1e-4)
    np.testing.assert_allclose(update["encoder"]["bias"], np.full(2, -0.1), rtol=1e-4)
    np.testing.assert_allclose(update["log_scale"], -0.1, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "adamw"])
def test_a_factor_scales_each_step_of_a_parameter_and_0_stops_it(name):
    """Also with momentum and weight decay: two steps on the same gradients."""
    settings = config(name, weight_decay=0.1)

    def steps(factor):
        optimizer, updates = make_optimizer(settings, 256, 100_000, factor=factor), []
        state = optimizer.init(PARAMS)
        for _ in range(2):
            update, state = optimizer.update(GRADS, state, PARAMS)
            updates.append(update)
        return updates

    factors = {("encoder", "kernel"): 0.25, ("encoder", "bias"): 0.0, ("log_scale",): 1.0}
    for plain, scaled in zip(steps(None), steps(factors.get), strict=True):
        np.testing.assert_allclose(scaled["encoder"]["kernel"], 0.25 * plain["encoder"]["kernel"], rtol=1e-6)
        assert not scaled["encoder"]["bias"].any()
        assert scaled["log_scale"] == plain["log_scale"] != 0


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_momentum_carries_the_first_gradient_into_the_second_step(name):
    """Of the bias, which LARS does not adapt: g, then 0.9 g + g."""
    optimizer = make_optimizer(config(name), 256, 100_000)  # so long that the rate stays what it is
    first, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    second, _ = optimizer.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(second["encoder"]["bias"], 1.9 * first["encoder"]["bias"], rtol=1e-4)


@pytest.mark.parametrize("name, kernel", [
    # By hand, first step, rate 0.1, w = 1, g = 0.5, decay 0.2: the kernel's step is that of g + 0.2 w = 0.7 where the
    # decay goes in before (LARS: times 0.001 |w| / |g + 0.2 w|), and of sign(g) + 0.2 w = 1.2 behind Adam (LAMB: times
    # |w| / 1.2 |1|).
    ("sgd", -0.07), ("lars", -0.1 * 0.7 * 0.001 / 0.7), ("adamw", -0.12), ("lamb", -0.1)])
def test_weight_decay_is_as_large_as_configured(name, kernel):
    update = first_update(make_optimizer(config(name, weight_decay=0.2), 256, 100))
    np.testing.assert_allclose(update["encoder"]["kernel"], np.full((3, 2), kernel), rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_adam_remembers_gradients_by_its_usual_decays(name):
    """Of the bias, by hand: gradients 0.5 and -1, means of 0.9 and 0.999, corrected for their start."""
    optimizer = make_optimizer(config(name), 256, 100_000)
    _, state = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)
    update, _ = optimizer.update(jax.tree.map(lambda g: -2 * g, GRADS), state, PARAMS)
    mean = (0.9 * 0.1 * 0.5 - 0.1 * 1) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 0.25 + 0.001 * 1) / (1 - 0.999**2)
    np.testing.assert_allclose(update["encoder"]["bias"], np.full(2, -0.1 * mean / np.sqrt(square)), rtol=1e-4)


@pytest.mark.parametrize("name", ["lars", "lamb", "adamw", "sgd"])
def test_weight_decay_moves_kernels_only(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = make_optimizer(config(name, weight_decay=0.1), 256, 100)
    update = optimizer.update(zero, optimizer.init(PARAMS), PARAMS)[0]
    assert (update["encoder"]["kernel"] < 0).all()
    assert not update["encoder"]["bias"].any() and not update["log_scale"].any()


def test_frozen_parameters_do_not_move():
    update = first_update(make_optimizer(config("adamw", weight_decay=0.1), 256, 100, frozen=("encoder",)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(update["encoder"]))
    assert update["log_scale"] != 0


def test_schedule_warms_up_scales_and_ends_at_zero():
    rate = learning_rate(config("lars", warmup=0.1, learning_rate=0.3, scaling="linear"), 4096, 1000)
    short = learning_rate(config("lars", warmup=0.9), 256, 2)
    square_root = learning_rate(config("lars", learning_rate=0.075, scaling="sqrt"), 4096, 10)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose([rate(0), rate(50), rate(100), rate(550), rate(1000)], [0.0, 2.4, 4.8, 2.4, 0.0],
                                   atol=1e-6)
        assert square_root(0) == pytest.approx(4.8)
        np.testing.assert_allclose([short(0), short(1), short(2)], [0.0, 0.1, 0.0], atol=1e-6)


def test_the_scaling_rule_sees_the_batch():
    updates = [first_update(make_optimizer(config("sgd", scaling="linear"), batch, 100)) for batch in (256, 1024)]
    np.testing.assert_allclose(updates[1]["encoder"]["kernel"], 4 * updates[0]["encoder"]["kernel"], rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    update = first_update(make_optimizer(config("sgd", clip_norm=0.1, momentum=0.0), 256, 100))
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(update["encoder"])))
    assert norm == pytest.approx(0.1 * 0.1 * np.sqrt(8 / 9), rel=1e-5), "the ninth value is a scalar, which Adam trains"


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_scalars_do_not_run_away_at_a_rate_for_kernels(name):
    """At LARS's 4.8 a temperature leaves all bounds within some steps; Adam's step is its rate, by hand 1e-3."""
    optimizer = make_optimizer(config(name, learning_rate=4.8), 256, 1000)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        update, state = optimizer.update(GRADS, state, params)
        np.testing.assert_allclose(update["log_scale"], -1e-3, rtol=1e-3)
        assert update["encoder"]["bias"][0] < -1


def test_the_average_follows_a_hand_count_and_forgets_the_random_weights():
    old, expected = {"w": jnp.full(3, 8.0)}, 8.0
    for step, value in enumerate((1.0, 2.0, 3.0)):
        old = update_average(old, {"w": jnp.full(3, value)}, 0.999, jnp.int32(step))
        decay = min(0.999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(old["w"], np.full(3, expected), rtol=1e-6)
    late = update_average({"w": jnp.float32(0.0)}, {"w": jnp.float32(1.0)}, 0.9, jnp.int32(10**6))
    np.testing.assert_allclose(late["w"], 0.1, rtol=1e-5)
    assert update_average({}, {"w": jnp.ones(3)}, 0.0, jnp.int32(0)) == {}
