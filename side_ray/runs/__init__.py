"""The run directory: what an audit consists of, where its outputs lie, and how far it is. No Ray.

`plan` lists the conditions, `artifacts` the path of every output, `run` and `shards` are the artifacts and tables on disk,
`preflight` checks a config before anything starts, `cost` and `status` are `side-ray plan` and `side-ray status`. A new stage
gets its artifact (a fingerprint of all that it depends on) in `artifacts.Artifacts` and a number in `artifacts.VERSIONS`.
"""
