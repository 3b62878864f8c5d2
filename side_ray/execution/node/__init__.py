"""What a process of an audit has to do with its machine: memory shared with others, the lease of a run, and signals."""
