"""What denoising-diffusion-pytorch takes of torchvision to read images from files, where that package is not installed.

PyPI's torchvision is built for CUDA: beside a CPU build of torch it cannot be imported, and then transformers and peft cannot
either. It is no part of what is tested. This folder is on the path of the tests of that package alone.
"""

from torchvision import transforms, utils

__all__ = ["transforms", "utils"]
