"""Transforms of PIL images."""

import random

import numpy as np
import torch
from PIL import Image, ImageOps


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for each in self.transforms:
            image = each(image)
        return image


class Lambda:
    def __init__(self, function):
        self.function = function

    def __call__(self, image):
        return self.function(image)


class Resize:
    def __init__(self, size):
        self.size = size if isinstance(size, (tuple, list)) else (size, size)

    def __call__(self, image):
        return image.resize(self.size[::-1], Image.Resampling.BILINEAR)


class CenterCrop(Resize):
    def __call__(self, image):
        return ImageOps.fit(image, self.size[::-1])


class RandomHorizontalFlip:
    def __call__(self, image):
        return ImageOps.mirror(image) if random.random() < 0.5 else image


class ToTensor:
    def __call__(self, image):
        pixels = np.asarray(image, np.float32) / 255
        return torch.from_numpy(pixels.reshape(image.height, image.width, -1)).permute(2, 0, 1).contiguous()
