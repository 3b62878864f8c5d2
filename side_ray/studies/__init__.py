"""Studies that go beyond one audit: sweep, twins, theory, and reproduction of the paper's tables (`presets`).

A new study is a module with a function of a config and a reporter that returns lines for the terminal, one line in
`cli.actions.STUDIES`, and a verb in `cli.app`. It reuses the stages: what an audit has made is not made again.
"""
