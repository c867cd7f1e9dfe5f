"""Clusters, neighbours and components: what holds of the algorithms."""

from itertools import pairwise
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from openruntime.contracts.errors import TaskCancelled
from openruntime.operations import numerics
from openruntime.operations.learning import kmeans, knn, pca

random = np.random.default_rng(31)


def quiet(done: int, total: int, message: str | None = None) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_digits().data


def test_inertia_never_grows(digits: Any) -> None:
    inertias = [float(kmeans(digits, k=10, seed=2, iterations=i, tolerance=0.0, xp=xp, steps=quiet)["inertia"]) for i in range(1, 15)]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(inertias))
    assert inertias[-1] < inertias[0]


def test_clusters_of_the_digits_are_as_good_as_those_of_scikit_learn(digits: Any) -> None:
    ours = np.mean([float(kmeans(digits, k=10, seed=seed, xp=xp, steps=quiet)["inertia"]) for seed in range(8)])
    theirs = np.mean([KMeans(10, n_init=1, random_state=seed).fit(digits).inertia_ for seed in range(8)])
    assert ours < 1.02 * theirs


@pytest.mark.parametrize("seed", range(10))
def test_blobs_are_found_from_every_seed(seed: int) -> None:
    members = np.arange(300) % 6
    x = np.eye(6)[members] * 60 + random.normal(size=(300, 6))
    labels = kmeans(x, k=6, seed=seed, xp=xp, steps=quiet)["labels"]
    assert len(set(zip(members, labels, strict=True))) == 6


def test_a_seed_decides_the_answer(digits: Any) -> None:
    first, again, other = (kmeans(digits[:300], k=10, seed=seed, xp=xp, steps=quiet) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first["labels"], again["labels"])
    np.testing.assert_array_equal(first["centroids"], again["centroids"])
    assert not np.array_equal(first["labels"], other["labels"])


@pytest.mark.parametrize("elements", [1, 500])
def test_blocks_do_not_change_clusters(elements: int, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kmeans(digits[:200], k=5, xp=xp, steps=quiet)
    monkeypatch.setattr(numerics, "BLOCK", elements)
    np.testing.assert_array_equal(kmeans(digits[:200], k=5, xp=xp, steps=quiet)["labels"], whole["labels"])


def test_more_clusters_than_distinct_rows_end_with_no_distance_left() -> None:
    x = np.repeat(random.normal(size=(3, 2)), 20, axis=0)
    found = kmeans(x, k=5, xp=xp, steps=quiet)
    assert float(found["inertia"]) < 1e-20
    assert np.isfinite(found["centroids"]).all()


def test_kmeans_stops_between_steps(digits: Any) -> None:
    seen: list[int] = []

    def steps(done: int, total: int, message: str | None = None) -> None:
        seen.append(done)
        if done == 2:
            raise TaskCancelled("enough")

    with pytest.raises(TaskCancelled, match="enough"):
        kmeans(digits, k=10, xp=xp, steps=steps)
    assert seen[-1] == 2


@pytest.mark.parametrize("elements", [1, 5000, 1 << 22])
def test_neighbours_are_those_of_a_tree(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "BLOCK", elements)
    x, queries = random.normal(size=(500, 3)), random.normal(size=(40, 3))
    found = knn(x, queries, k=6, xp=xp)
    distances, indices = cKDTree(x).query(queries, 6)
    np.testing.assert_array_equal(found["indices"], indices)
    np.testing.assert_allclose(found["distances"], distances, rtol=1e-12)


def test_a_row_is_its_own_nearest_neighbour_in_single_precision() -> None:
    x = (1e4 + random.normal(size=(1000, 8))).astype("float32")
    found = knn(x, x, k=2, xp=xp)
    np.testing.assert_array_equal(found["indices"][:, 0], np.arange(1000))
    assert (found["distances"][:, 0] == 0).all()
    assert (found["distances"][:, 1] > 0.1).all()


def test_components_are_those_of_scikit_learn(digits: Any) -> None:
    found, known = pca(digits, components=12, xp=xp), PCA(12, svd_solver="full").fit(digits)
    np.testing.assert_allclose(found["components"], known.components_, atol=1e-10)
    np.testing.assert_allclose(found["explained_variance"], known.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found["projected"], known.transform(digits), atol=1e-9)


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    x = random.normal(size=(30, 7))
    found = pca(x, components=7, xp=xp)
    _, s, vt = np.linalg.svd(x - x.mean(0))
    np.testing.assert_allclose(np.abs(np.sum(found["components"] * vt, axis=1)), 1, rtol=1e-10)
    np.testing.assert_allclose(found["explained_variance"], s**2 / 29, rtol=1e-10)
    np.testing.assert_allclose(found["projected"] @ found["components"] + found["mean"], x, atol=1e-12)
    assert (found["components"][np.arange(7), np.abs(found["components"]).argmax(1)] > 0).all()
