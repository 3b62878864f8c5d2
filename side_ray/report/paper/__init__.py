"""The paper's tables and figures, recomputed from a run's numbers and held against the printed ones."""
