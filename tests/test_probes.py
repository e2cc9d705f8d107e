"""Nearest neighbours and linear probe against slow references, scikit-learn and known cases."""

import math

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.evaluation import knn
from dual_encoder.evaluation.knn import knn_probability
from dual_encoder.evaluation.linear_probe import linear_probe
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.evaluation.probes import LabelledVectors, evaluate_probes, one_hot

pytestmark = pytest.mark.quick


def clusters(count, seed, classes=3, noise=0.4):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, count)
    centres = np.random.default_rng(0).standard_normal((classes, 8))
    return (centres[label] + noise * rng.standard_normal((count, 8))).astype(np.float32), label


def slow_knn(vectors, labels, query, k, temperature):
    def cosine(a, b):
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    nearest = sorted(((cosine(query, v), i) for i, v in enumerate(vectors)), reverse=True)[:k]
    weights = [math.exp(c / temperature) for c, _ in nearest]
    return sum(w * labels[i] for w, (_, i) in zip(weights, nearest, strict=True)) / sum(weights)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize("several", [False, True])
def test_neighbours_vote_with_their_weights(monkeypatch, chunk, several):
    monkeypatch.setattr(knn, "_CHUNK_VALUES", chunk)
    vectors, label = clusters(50, 1)
    queries, _ = clusters(9, 2)
    labels = one_hot(label, 3)
    if several:
        labels = labels | np.roll(labels, 1, axis=0)
    got = knn_probability(vectors, labels, queries, neighbours=7, temperature=0.1)
    for query, row in zip(queries.astype(np.float64), got, strict=True):
        np.testing.assert_allclose(row, slow_knn(vectors.astype(np.float64), labels, query, 7, 0.1), atol=1e-5)


def test_fewer_images_than_neighbours_all_vote():
    vectors, label = clusters(5, 1)
    got = knn_probability(vectors, one_hot(label, 3), vectors, neighbours=20, temperature=1e6)
    np.testing.assert_allclose(got, np.tile(one_hot(label, 3).mean(axis=0), (5, 1)), atol=1e-5)


def scored(labels, probability):
    return float((probability.argmax(axis=1) == labels.argmax(axis=1)).mean())


def test_the_linear_probe_is_scikit_learns_regression_with_the_strength_that_is_best_on_validation():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (x, y), (xv, yv), (xt, _) = (clusters(60, seed, noise=1.5) for seed in (1, 2, 3))
    fitted = linear_probe((x, one_hot(y, 3)), (xv, one_hot(yv, 3)), scored, single=True, strengths=(1e-4, 1.0))
    scale = StandardScaler().fit(x.astype(np.float64))
    reference = {c: LogisticRegression(C=c, max_iter=1000).fit(scale.transform(x.astype(np.float64)), y)
                 for c in (1e-4, 1.0)}
    reached = {c: model.score(scale.transform(xv.astype(np.float64)), yv) for c, model in reference.items()}
    assert fitted.strength == max(reached, key=reached.get)
    np.testing.assert_allclose(fitted.predict(xt), reference[fitted.strength].predict_proba(
        scale.transform(xt.astype(np.float64))), atol=1e-3)


def test_balanced_classes_count_as_if_the_rare_one_were_repeated():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = clusters(90, 1, classes=2, noise=3.0)
    kept = np.r_[np.flatnonzero(y == 0)[:45], np.flatnonzero(y == 1)[:15]]
    x, y = x[kept], y[kept]
    times = np.where(y == 1, 3, 1)
    pair = x, one_hot(y, 2)
    balanced = linear_probe(pair, pair, scored, single=True, strengths=(0.1,), balanced=True)
    scale = StandardScaler().fit(x.astype(np.float64))
    repeated = scale.transform(np.repeat(x, times, axis=0).astype(np.float64))
    # The weights sum up to n; those of the repeated ones to 1.5 n.
    reference = LogisticRegression(C=0.1 / 1.5, max_iter=1000, tol=1e-8).fit(repeated, np.repeat(y, times))
    np.testing.assert_allclose(balanced.predict(x), reference.predict_proba(scale.transform(x.astype(np.float64))),
                               atol=1e-3)
    plain = linear_probe(pair, pair, scored, single=True, strengths=(0.1,))
    assert np.abs(plain.predict(x) - balanced.predict(x)).max() > 0.05


def test_absent_and_constant_classes_keep_their_probability():
    x, y = clusters(40, 1, classes=2)
    labels = one_hot(y, 4)  # classes 2 and 3 never occur
    single = linear_probe((x, labels), (x, labels), scored, single=True).predict(x)
    assert single.shape == (40, 4) and (single[:, 2:] == 0).all()
    labels[:, 3] = 1
    several = linear_probe((x, labels), (x, labels), scored, single=False).predict(x)
    assert (several[:, 3] == 1).all() and (several[:, 2] == 0).all()
    only = linear_probe((x, one_hot(y * 0, 4)), (x, one_hot(y * 0, 4)), scored, single=True)
    assert (only.predict(x).argmax(axis=1) == 0).all()


def table_of(kind, values):
    names = tuple(str(row) for row in range(len(values)))
    return PerImage(kind, ("a", "b", "c"), names, names, values)


def labelled(count, seed, noise=0.4, shuffle=False):
    vectors, label = clusters(count, seed, noise=noise)
    label = np.random.default_rng(seed).permutation(label) if shuffle else label
    return LabelledVectors(vectors, one_hot(label, 3))


@pytest.mark.parametrize("single", [True, False])
def test_separable_vectors_score_high_and_shuffled_labels_score_chance(single):
    options = dict(class_names=("a", "b", "c"), single=single, probes=("knn", "linear"), neighbours=20,
                   per_image=table_of)
    good = evaluate_probes(labelled(200, 1), labelled(60, 2), labelled(300, 3), **options).scores()
    bad = evaluate_probes(labelled(200, 1, shuffle=True), labelled(60, 2, shuffle=True), labelled(300, 3), **options
                          ).scores()
    key = "accuracy" if single else "map"
    for probe in ("knn", "linear"):
        assert good[probe][key] > 0.95
        assert bad[probe][key] < 0.55  # a third by chance
        assert set(good[probe]["f1"]) == {"a", "b", "c"}


def test_the_tables_say_how_they_were_learnt():
    evaluation = evaluate_probes(labelled(50, 1), labelled(20, 2), labelled(30, 3), class_names=("a", "b", "c"),
                                 single=True, probes=("linear", "knn"), neighbours=5, per_image=table_of)
    assert [table.name for table in evaluation.tables] == [
        "linear_classification", "linear_classification_classes", "linear_classification_confusion",
        "knn_classification", "knn_classification_classes", "knn_classification_confusion"]
    assert "Learnt from 50 images; C = " in evaluation.tables[0].note
    assert "the 5 nearest by cosine; scored on 30." in evaluation.tables[3].note


def test_broken_vectors_are_named():
    broken = labelled(20, 1)
    broken.vectors[4] = np.inf
    with pytest.raises(UserError, match="1 of 20 train embeddings are not finite"):
        evaluate_probes(broken, labelled(5, 2), labelled(5, 3), class_names=("a", "b", "c"), single=True,
                        probes=("knn",), neighbours=5, per_image=table_of)
