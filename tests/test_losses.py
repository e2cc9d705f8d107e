"""Losses against slow references in float64, values and gradients; 1 device == 8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.losses import contrastive, correlation
from dual_encoder.losses.segmentation import cross_entropy
from dual_encoder.losses.tiles import Tiles
from dual_encoder.runtime import mesh

# float32 has 2^-24 relative rounding; sums over a batch of 64 and their gradients add up some 100 such errors.
RTOL = 1e-5
BATCH, DIM, COMMON = 64, 32, 28
PLACES = np.array([i // 2 for i in range(8)] + [9, 9, 9] + [100 + i for i in range(BATCH - 11)], np.int32) * 7919


def embeddings(seed):
    """Four correlated embeddings of a batch, of lengths around 6: s1 and s2 of the same images, each in two views."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(BATCH, DIM))
    return [shared + 0.7 * rng.normal(size=(BATCH, DIM)) for _ in range(4)]


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def log_sum_exp(x):
    return np.log(np.exp(x - x.max()).sum()) + x.max()


def mean_nll(anchor, candidates, positives):
    """Mean over the positives of -log softmax; candidates: number -> vector, positives: some of the numbers."""
    logits = {j: anchor @ candidate for j, candidate in candidates.items()}
    return np.mean([log_sum_exp(np.array(list(logits.values()))) - logits[p] for p in positives])


def info_nce_reference(z1, z2, scale, location=None, positives=False):
    total = 0.0
    for queries, keys in ((unit(z1), unit(z2)), (unit(z2), unit(z1))):
        for i in range(BATCH):
            same = [j for j in range(BATCH) if j != i and location is not None and location[j] == location[i]]
            left_out = [] if positives else same
            candidates = {j: scale * keys[j] for j in range(BATCH) if j not in left_out}
            total += mean_nll(queries[i], candidates, [i, *same] if positives else [i])
    return total / (2 * BATCH)


def nt_xent_reference(z1, z2, scale, location=None, positives=False):
    everything, total = np.concatenate([unit(z1), unit(z2)]), 0.0
    for i in range(2 * BATCH):
        partner = (i + BATCH) % (2 * BATCH)
        same = [j for j in range(2 * BATCH) if j not in (i, partner) and location is not None
                and location[j % BATCH] == location[i % BATCH]]
        left_out = [i] if positives else [i, *same]
        candidates = {j: scale * everything[j] for j in range(2 * BATCH) if j not in left_out}
        total += mean_nll(everything[i], candidates, [partner, *same] if positives else [partner])
    return total / (2 * BATCH)


def iai_simclr_reference(z1, z2, z1_again, z2_again, scale, location=None, positives=False):
    return sum(nt_xent_reference(a, b, scale, location, positives)
               for a, b in ((z1, z2), (z1, z1_again), (z2, z2_again)))


def sigmoid_reference(z1, z2, scale, bias, location=None, positives=False):
    u, v, total = unit(z1), unit(z2), 0.0
    for i in range(BATCH):
        for j in range(BATCH):
            same = location is not None and location[i] == location[j]
            if same and i != j and not positives:
                continue
            y = 1 if i == j or (same and positives) else -1
            total += np.log1p(np.exp(-y * (scale * u[i] @ v[j] + bias)))
    return total / BATCH


def correlation_of(x, y):
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    return covariance / np.sqrt((x.var() + 1e-5) * (y.var() + 1e-5))


def redundancy_reference(z1, z2, target, off_diagonal, dimensions):
    total = 0.0
    for i in dimensions:
        for j in dimensions:
            c = correlation_of(z1[:, i], z2[:, j])
            total += (target - c)**2 if i == j else off_diagonal * c**2
    return total


def barlow_reference(z1, z2):
    return redundancy_reference(z1, z2, 1, 0.0051, range(DIM))


def decur_reference(z1, z2, z1_again, z2_again):
    inter = (redundancy_reference(z1, z2, 1, 0.0051, range(COMMON))
             + redundancy_reference(z1, z2, 0, 0.0051, range(COMMON, DIM)))
    return (inter / 2 + redundancy_reference(z1, z1_again, 1, 0.0051, range(DIM))
            + redundancy_reference(z2, z2_again, 1, 0.0051, range(DIM))) / 3


def vicreg_reference(z1, z2):
    z1, z2 = z1 / 4, z2 / 4  # deviations around 0.3, so that the hinge is not flat
    total = 25 * np.mean([(a - b)**2 for a, b in zip(z1.ravel(), z2.ravel(), strict=True)])
    for z in (z1, z2):
        total += 10 * np.mean([max(0, 1 - np.sqrt(z[:, j].var(ddof=1) + 1e-4)) for j in range(DIM)])
        covariance = np.cov(z.T)
        total += 2 / DIM * sum(covariance[i, j]**2 for i in range(DIM) for j in range(DIM) if i != j)
    return total


def ours_vicreg(z1, z2):
    return correlation.vicreg(z1 / 4, z2 / 4, (25.0, 10.0, 2.0))


SCALED = {  # name -> (ours, reference, embeddings, whether there is a bias)
    "info_nce": (contrastive.info_nce, info_nce_reference, 2, False),
    "nt_xent": (contrastive.nt_xent, nt_xent_reference, 2, False),
    "iai_simclr": (contrastive.iai_simclr, iai_simclr_reference, 4, False),
    "sigmoid": (contrastive.sigmoid, sigmoid_reference, 2, True),
}
UNSCALED = {  # name -> (ours, reference, embeddings)
    "barlow": (lambda *z: correlation.barlow(*z, 0.0051), barlow_reference, 2),
    "decur": (lambda *z: correlation.decur(*z, 0.0051, COMMON), decur_reference, 4),
    "vicreg": (ours_vicreg, vicreg_reference, 2),
}
MODES = {"keep": {}, "mask": {"location": jnp.asarray(PLACES)},
         "positive": {"location": jnp.asarray(PLACES), "positives": True}}


def assert_equals_reference(ours, reference, arguments):
    """Value, and some entries of the gradient of every argument against central differences in float64."""
    narrow = [jnp.asarray(a, jnp.float32) for a in arguments]
    (loss, _), gradients = jax.jit(jax.value_and_grad(ours, argnums=tuple(range(len(narrow))), has_aux=True))(*narrow)
    np.testing.assert_allclose(loss, reference(*arguments), rtol=RTOL)
    for number, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        for index in ([(0, 0), (9, 5), (63, 31)] if np.ndim(argument) else [()]):
            slopes = []
            for step in (1e-5, -1e-5):
                moved = [np.array(a, np.float64) for a in arguments]
                moved[number][index] += step
                slopes.append(reference(*moved))
            expected = (slopes[0] - slopes[1]) / 2e-5
            # Central differences: 1e-5^2 of a third derivative of up to scale^3 = 1e6, so 1e-4 of the gradient.
            np.testing.assert_allclose(gradient[index], expected, rtol=1e-4, atol=1e-4 * np.abs(gradient).max(),
                                       err_msg=f"argument {number} at {index}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name, scale", [("iai_simclr", 14.3)] + [  # three nt_xent, which are tested at every scale
    (name, scale) for name in ("info_nce", "nt_xent", "sigmoid") for scale in (1.0, 14.3, 100.0)])
def test_objectives_with_negatives_equal_their_slow_references(name, scale, mode):
    ours, reference, count, biased = SCALED[name]
    options = MODES[mode]
    slow = options | ({"location": PLACES} if options else {})  # NumPy: one element of a jax.Array costs 0.1 ms
    arguments = [*embeddings(0)[:count], scale, *([-10.0] if biased else [])]
    assert_equals_reference(lambda *a: ours(*a, **options), lambda *a: reference(*a, **slow), arguments)


@pytest.mark.parametrize("name", UNSCALED)
def test_objectives_without_negatives_equal_their_slow_references(name):
    ours, reference, count = UNSCALED[name]
    assert_equals_reference(ours, reference, embeddings(0)[:count])


@pytest.mark.parametrize("name", [*SCALED, *UNSCALED])
def test_every_objective_is_the_same_on_eight_devices(name):
    if name in SCALED:
        function, _, count, biased = SCALED[name]
        scalars = [jnp.float32(14.3), *([jnp.float32(-10.0)] if biased else [])]
    else:
        function, _, count = UNSCALED[name]
        scalars = []
    z = [jnp.asarray(x, jnp.float32) for x in embeddings(0)[:count]]
    value_and_grad = jax.jit(jax.value_and_grad(function, argnums=tuple(range(count + len(scalars))), has_aux=True))
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        rows = mesh.by_row(mesh.make(devices))
        (loss, _), gradients = value_and_grad(*(jax.device_put(x, rows) for x in z), *scalars)
        assert all(len(g.sharding.device_set) == len(devices) for g in gradients)
        results.append((loss, gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=RTOL, atol=RTOL * np.abs(b).max()), *results)


@pytest.mark.parametrize("mode", ["keep", "mask"])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "sigmoid"])
def test_accuracy_counts_rows_whose_partner_is_nearest(name, mode):
    ours, _, _, biased = SCALED[name]
    z1, z2, noise, other_noise = embeddings(0)
    z1 += noise - other_noise
    z2[::4] += 1.0  # near to everything: not as many fail both ways
    z1[1], z2[0], z2[1] = z1[0] + 0.1 * noise[0], z1[0] + 0.1 * noise[0], z1[0]  # of one place, partners swapped
    expected = []
    for own, other in ((unit(z1), unit(z2)), (unit(z2), unit(z1))):
        hits = 0
        for i in range(BATCH):
            rivals = [j for j in range(BATCH) if j != i and (mode == "keep" or PLACES[j] != PLACES[i])]
            candidates = [other[j] for j in rivals] + ([own[j] for j in rivals] if name == "nt_xent" else [])
            hits += own[i] @ other[i] > max(own[i] @ candidate for candidate in candidates)
        expected.append(hits / BATCH)
    assert expected[0] != expected[1] and 0.1 < min(expected) < max(expected) < 0.9
    metrics = ours(jnp.asarray(z1, jnp.float32), jnp.asarray(z2, jnp.float32), jnp.float32(10.0),
                   *([jnp.float32(-10.0)] if biased else []), **MODES[mode])[1]
    assert [metrics["accuracy_1_to_2"], metrics["accuracy_2_to_1"]] == expected


def test_the_share_of_rows_of_the_same_place_is_reported():
    z1, z2 = (jnp.asarray(z, jnp.float32) for z in embeddings(0)[:2])
    metrics = contrastive.info_nce(z1, z2, jnp.float32(10.0), jnp.asarray(PLACES))[1]
    np.testing.assert_allclose(metrics["same_place"], (8 * 1 + 3 * 2) / BATCH**2, rtol=RTOL)
    assert contrastive.info_nce(z1, z2, jnp.float32(10.0))[1]["same_place"] == 0.0


@pytest.mark.parametrize("side", [0, 3])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "sigmoid"])
def test_a_batch_of_one_place_has_a_finite_loss_and_gradient(name, side):
    """There are no negatives: only the sigmoid loss has a gradient."""
    tiles = Tiles(side, mesh.make()) if side else None
    ours, _, _, biased = SCALED[name]
    scalars = [jnp.float32(10.0), *([jnp.float32(-10.0)] if biased else [])]
    z1, z2 = (jnp.asarray(z, jnp.float32) for z in embeddings(0)[:2])
    loss, gradient = jax.jit(jax.value_and_grad(lambda z: ours(
        z, z2, *scalars, location=jnp.zeros(BATCH, jnp.int32), tiles=tiles)[0]))(z1)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert (loss == 0.0 and not gradient.any()) != (name == "sigmoid")


def test_embeddings_of_length_zero_have_no_gradient():
    z1, z2 = (jnp.asarray(z, jnp.float32).at[3].set(0.0) for z in embeddings(0)[:2])
    gradient = jax.grad(lambda z: contrastive.info_nce(z, z2, jnp.float32(10.0))[0])(z1)
    assert np.isfinite(gradient).all() and not gradient[3].any() and np.abs(gradient).max() < 10


def test_decur_aligns_common_dimensions_and_separates_the_others():
    """On embeddings equal in every dimension: common ones are rewarded, the others are not."""
    z = jnp.asarray(embeddings(0)[0], jnp.float32)
    losses = [correlation.decur(z, z, z, z, 0.0, common)[1]["loss_inter"] for common in (DIM, DIM // 2)]
    np.testing.assert_allclose(losses[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(losses[1], DIM / 2 / 2, rtol=1e-4)  # 1e-4: the 1e-5 in variances around 1.5


def test_cross_entropy_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(2, 5, 7, 3)), rng.integers(0, 3, size=(2, 5, 7)).astype(np.uint8)
    label[0, :2] = 255
    weights = np.array([0.5, 1.0, 3.0])
    total, weight = 0.0, 0.0
    for index in np.ndindex(label.shape):
        if label[index] != 255:
            probability = np.exp(logits[index]) / np.exp(logits[index]).sum()
            total -= weights[label[index]] * np.log(probability[label[index]])
            weight += weights[label[index]]
    args = jnp.asarray(logits, jnp.float32), jnp.asarray(label), jnp.asarray(weights, jnp.float32), 255
    np.testing.assert_allclose(cross_entropy(*args), total / weight, rtol=RTOL)


def test_cross_entropy_without_labelled_pixels_is_zero_with_zero_gradient():
    label = jnp.full((1, 4, 4), 255, jnp.uint8)
    loss, gradient = jax.value_and_grad(cross_entropy)(jnp.ones((1, 4, 4, 2)), label, jnp.ones(2), 255)
    assert loss == 0.0 and not gradient.any()


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_positives_without_places_are_one_line(name):
    z = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"^positives=True needs location, .*; pass it, or leave positives at False$"):
        getattr(contrastive, name)(z, z, jnp.float32(1), positives=True)
