"""Several runs for people: `view` shows their comparison (`side_ray.studies.compare`), `batch` the summary of a batch."""
