"""What other published measures of memorization say about a run (`side_ray.statistics.opinions`), from its stored neighbours."""
