"""The verdict of `metrics.json` in words. Its rule is `side_ray.statistics.evidence.verdict`; nothing is decided here."""
