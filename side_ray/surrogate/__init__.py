"""The surrogate condition p_t(y|x_t) of SIDE: implicit labels, a time-dependent ResNet, and their distillation (TDKD).

Plain torch, numpy and faiss, without Ray, storage or the run directory.

- `labels`: what the surrogate learns to distinguish: clusters of the DPM's own images or random labels. A new way of labelling
  goes here.
- `encoders`: networks that label images or give the features that are clustered. A new encoder goes here.
- `resnet`: ResNet of basic blocks, with (SIDE) or without (teacher, OL-TI) the time module of the paper's Appendix C.
- `lora`: the DPM fine-tuned by LoRA on its own labelled samples, in place of a classifier.
- `guide`: opens either as what guides a draw.
- `distill`: the loss of Eq. 13 on noised images, and accuracy as a function of the timestep.
"""
