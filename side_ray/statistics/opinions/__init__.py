"""Second opinions: what other published measures of memorization say about the same samples. They enter no verdict.

Each has a reference value: the same measure of images that the model never saw. `diffmemorize` (Gu et al. 2023) is in `scores`,
`authenticity` is that of Alaa et al. (2022), `copying` the C_T of Meehan et al. (2020), and `frechet` the memorization-informed
Fréchet distance of Bai et al. (2021).
"""
