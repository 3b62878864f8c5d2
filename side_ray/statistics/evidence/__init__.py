"""Evidence that a model reproduces its training images: what its samples share with members, against images it never saw.

Members and unseen images compete for every sample (`pool`). `decoys` says which images are revealed at a false discovery rate,
`excess` how many samples match beyond chance, `strata` compares like with like, and `verdict` draws the one conclusion.
"""
