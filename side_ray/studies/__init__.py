"""What goes beyond one audit: sweep, twins, theory, reproduction of the paper's tables (`presets`), comparison of runs,
batches of audits.

`python` is behind `side_ray.audit` and `side_ray.score_images`; `given` makes a config for images that are there already.

A new study is a module with a function of a config and a reporter that returns lines for the terminal, one line in
`cli.actions.STUDIES`, and a verb in `cli.app`. It reuses the stages: what an audit has made is not made again.
"""
