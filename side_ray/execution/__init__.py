"""Everything that runs on Ray except training: session, shard pool, ingest tasks, search actors, leases, progress, metrics.

A stage that makes shards subclasses `shard_pool.ShardActor`, declares there which resources it needs, and calls
`run_shards`. With `training`, this is the lowest floor that may import ray.
"""
