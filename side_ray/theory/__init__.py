"""The paper's theory: its measures of memorization and the two sides of its propositions and theorems.

`measures` has M_point, M_semantic and Theorem 1, `labels` Proposition 1 and Theorem 2, `latents` evaluates all of them on one set
of latents. A further quantity is a function in `measures` or `labels` and a key in `latents.analyse`.
"""
