"""Training with Ray Train: driver (`trainer`), worker (`loop`), checkpoints, data (cached or streamed), logger and previews.

To train a new kind of network, write a `loop.Recipe` (its batches, loss and export) and pass its maker to `trainer.train` in a
`TrainSpec`. Checkpoints, resumption, EMA, gradient accumulation and logging are the loop's.
"""
