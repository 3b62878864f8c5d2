"""Implicit labels: what the surrogate condition tells apart (the paper's section 4.1).

A classifier's own predictions need nothing from here. The two kinds that an attacker without labels has are clusters of
the DPM's own images (arXiv 2410.02467v7: k-means on features of generated images, clusters kept by their cohesion) and
random labels.
"""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from side_ray.errors import UserError

ITERATIONS = 25
RESTARTS = 3
SHARPNESS = 20.0


@dataclass(frozen=True)
class Clusters:
    """K clusters of N feature vectors, K_kept of which pass the cohesion filter. Labels count the kept clusters from 0.

    kept: int64 [K_kept], the k-means ids of the kept clusters, ascending; label j stands for cluster kept[j].
    sizes: int64 [K], images per cluster before the filter.
    cohesion: float32 [K], mean cosine similarity of a cluster's members to its centroid, both centred on the mean of
    all features.
    assignment: int64 [N], the label of each image, −1 where its cluster was dropped.
    centroids: float32 [K_kept, d], in the space of the features as they were given.
    targets: float32 [N, K_kept], soft labels (see `soft_targets`), rows sum to 1; also defined where the assignment is
    −1.
    """

    kept: NDArray[np.int64]
    sizes: NDArray[np.int64]
    cohesion: NDArray[np.float32]
    assignment: NDArray[np.int64]
    centroids: NDArray[np.float32]
    targets: NDArray[np.float32]

    @property
    def members(self) -> NDArray[np.int64]:
        """int64 [n ≤ N], ascending: the images whose cluster was kept, hence those to distil on."""
        return np.flatnonzero(self.assignment >= 0).astype(np.int64)


def pixel_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images uint8 [N, H, W, C] as feature vectors float32 [N, H·W·C] in [−1, 1]."""
    return (images.reshape(len(images), -1) / np.float32(127.5) - 1).astype(np.float32)


def soft_targets(
    features: NDArray[np.float32], centroids: NDArray[np.float32], sharpness: float = SHARPNESS
) -> NDArray[np.float32]:
    """Teacher probabilities from distances: softmax over k of −sharpness · d²_nk / median(d²).

    d²_nk is the squared Euclidean distance of image n to centroid k, and the median runs over all n and k, so the
    targets do not change when the features are scaled or shifted. features [N, d], centroids [K, d] -> float32 [N, K],
    rows sum to 1.
    """
    squared = faiss.pairwise_distances(features, centroids).astype(np.float64)
    logits = -sharpness * squared / max(float(np.median(squared)), np.finfo(np.float64).tiny)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def cluster_cohesion(centred: NDArray[np.float32], assignment: NDArray[np.int64], clusters: int) -> NDArray[np.float32]:
    """Mean cosine similarity of each cluster's members to their centroid; 0 for an empty cluster.

    centred: float32 [N, d], features minus their mean (otherwise the mean dominates every cosine and every cluster
    passes).
    assignment: int64 [N] in [0, clusters). Returns float32 [clusters] in [−1, 1].
    """
    sums = np.zeros((clusters, centred.shape[1]), np.float64)
    np.add.at(sums, assignment, centred)
    sizes = np.bincount(assignment, minlength=clusters)
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(sums[assignment], axis=1)
    dots = np.einsum("nd,nd->n", centred, sums[assignment])
    cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    totals = np.bincount(assignment, weights=cosines, minlength=clusters)
    return (totals / np.maximum(sizes, 1)).astype(np.float32)


def cluster_labels(
    features: NDArray[np.float32], clusters: int, cohesion: float, seed: int, sharpness: float = SHARPNESS
) -> Clusters:
    """K-means (faiss: Euclidean, k-means++ start, the best of 3 runs of 25 iterations) on centred features, keeping the
    clusters whose cohesion is at least `cohesion`.

    features: float32 [N, d] of generated images, from any encoder (`pixel_features`, a ResNet's `features`, SSCD,
    CLIP).
    clusters: K, at least 2 and at most N. cohesion: τ in [−1, 1]; 0.5 in the later edition of the paper, −1 keeps all.
    The result is a function of the arguments. Raises UserError if K does not fit N or fewer than two clusters pass τ.
    """
    if not 2 <= clusters <= len(features):
        raise UserError(
            f"surrogate.classes: {clusters} clusters of {len(features)} synthetic images; give 2 to {len(features)}"
        )
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = np.ascontiguousarray(features - mean, dtype=np.float32)
    # faiss subsamples above 256 points per centroid and warns below 39: take every point, say nothing.
    kmeans = faiss.Kmeans(
        centred.shape[1],
        clusters,
        niter=ITERATIONS,
        nredo=RESTARTS,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        seed=seed & 0x7FFFFFFF,
        min_points_per_centroid=1,
        max_points_per_centroid=len(centred),
    )
    kmeans.train(centred)
    assert kmeans.centroids is not None
    assert kmeans.index is not None
    assigned = kmeans.index.search(centred, 1)[1][:, 0].astype(np.int64)
    tightness = cluster_cohesion(centred, assigned, clusters)
    sizes = np.bincount(assigned, minlength=clusters).astype(np.int64)
    kept = np.flatnonzero((tightness >= cohesion) & (sizes > 0)).astype(np.int64)
    if len(kept) < 2:
        raise UserError(
            f"surrogate.cohesion: {len(kept)} of {clusters} clusters reach {cohesion:g} "
            f"(their median is {np.median(tightness):.2f}); lower it so that at least two do"
        )
    label = np.full(clusters, -1, np.int64)
    label[kept] = np.arange(len(kept))
    centroids = np.ascontiguousarray(kmeans.centroids[kept], dtype=np.float32)
    return Clusters(
        kept=kept,
        sizes=sizes,
        cohesion=tightness,
        assignment=label[assigned],
        centroids=centroids + mean,
        targets=soft_targets(centred, centroids, sharpness),
    )


def random_labels(images: int, classes: int, seed: int) -> NDArray[np.int64]:
    """Labels int64 [images], independent and uniform over [0, classes); a function of the arguments. Raises UserError
    if classes < 2.
    """
    if classes < 2:
        raise UserError(f"surrogate.classes: {classes}; random labels need at least 2 classes")
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, classes, images, dtype=np.int64)


def hard_targets(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Teacher probabilities float32 [N, classes], all on the label. labels: int64 [N] in [0, classes)."""
    return np.eye(classes, dtype=np.float32)[labels]
