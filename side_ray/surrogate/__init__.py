"""The surrogate condition p_t(y|x_t) of SIDE: implicit labels, a time-dependent ResNet, and their distillation (TDKD).

Pure torch, numpy and faiss; nothing here knows about Ray, storage or the run directory.

- `resnet`: ResNet of basic blocks, with (SIDE) or without (teacher, OL-TI) the time module of the paper's Appendix C.
- `labels`: what the surrogate learns to tell apart: clusters of the DPM's own images, random labels, or a classifier's.
- `distill`: the loss of Eq. 13 on noised images, and accuracy as a function of the timestep.
"""
