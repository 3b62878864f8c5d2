import numpy as np

from side_ray.statistics.opinions.authenticity import authenticity


def test_a_sample_as_near_as_the_next_training_image_is_not_authentic() -> None:
    found = authenticity(np.array([0.0, 1.0, 1.1, 3.0]), np.array([0.0, 1.0, 1.0, 2.0]))
    assert (found["count"], found["share"]) == (2, 0.5)
    assert found["ci"][0] < 0.5 < found["ci"][1]


def test_copies_are_not_authentic_and_images_of_the_same_kind_are_half_the_time() -> None:
    rng = np.random.default_rng(0)
    train, fresh = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    between = np.sqrt(((train[:, None] - train) ** 2).sum(2)) + np.diag(np.full(400, np.inf))
    for samples, low, high in ((fresh, 0.4, 0.75), (train + rng.normal(size=train.shape) * 0.01, 0.0, 0.01)):
        distance = np.sqrt(((samples[:, None] - train) ** 2).sum(2))
        found = authenticity(distance.min(1), between.min(1)[distance.argmin(1)])
        assert low <= found["share"] <= high
