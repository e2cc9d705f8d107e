"""What `search` does with the packages of its extra: an approximate index by FAISS, a projection by UMAP."""

import sys

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.search.approximate import Approximate
from dual_encoder.search.nearest import nearest
from dual_encoder.search.projection import project
from tests.runtimes import needs


@pytest.fixture
def matrix():
    """Unit vectors in 40 clusters."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(40, 16)), 100, axis=0) + 0.2 * rng.normal(size=(4000, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.runtimes
def test_the_approximate_index_finds_most_of_the_nearest_and_is_made_once(matrix, tmp_path, capsys):
    needs("faiss")
    made = Approximate(tmp_path / "s1.npy", matrix)
    assert "4000 vectors in 102 groups" in capsys.readouterr().out
    share = made.agreement(10)
    assert 0.9 < share < 1.0, share  # 3 of the 102 groups are read
    again = Approximate(tmp_path / "s1.npy", matrix)
    assert not capsys.readouterr().out and [path.name for path in tmp_path.iterdir()] == ["s1.faiss"]
    asked = matrix[::500]
    for one, other in zip(made.nearest(asked, 5), again.nearest(asked, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.runtimes
def test_with_all_groups_the_approximate_index_is_exact(matrix, tmp_path):
    needs("faiss")
    made = Approximate(tmp_path / "s1.npy", matrix)
    made._index.nprobe = made._index.nlist
    exact, approximate = nearest(matrix, matrix[:7], 5), made.nearest(matrix[:7], 5)
    np.testing.assert_array_equal(exact[0], approximate[0])
    np.testing.assert_allclose(exact[1], approximate[1], atol=1e-6)  # sums of 16 products, in another order


@pytest.mark.runtimes
def test_umap_keeps_clusters_together_and_repeats_exactly(matrix):
    needs("umap")
    few = matrix[:400:4]  # 25 of each of 4 clusters
    plane, note = project(few, "umap")
    assert plane.shape == (100, 2) and np.abs(plane).max() == pytest.approx(1) and "UMAP" in note
    number = np.arange(100) // 25
    centres = np.stack([plane[number == cluster].mean(axis=0) for cluster in range(4)])
    nearest_centre = np.linalg.norm(plane[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest_centre == number).mean() > 0.95
    np.testing.assert_array_equal(plane, project(few, "umap")[0])


@pytest.mark.parametrize("package, call, message", [
    ("faiss", lambda path: Approximate(path / "s1.npy", np.eye(4, dtype=np.float32)), "pip install faiss-cpu"),
    ("umap", lambda path: project(np.eye(5, dtype=np.float32), "umap"), "pip install umap-learn"),
    ("", lambda path: project(np.eye(3, dtype=np.float32), "umap"), "needs 4 vectors or more, there are 3"),
])
def test_a_package_that_is_missing_is_one_line(monkeypatch, tmp_path, package, call, message):
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=message):
        call(tmp_path)
