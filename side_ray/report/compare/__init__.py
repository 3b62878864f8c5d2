"""The comparison of runs (`side_ray.studies.compare`) for people: a table for the terminal, and a page."""
