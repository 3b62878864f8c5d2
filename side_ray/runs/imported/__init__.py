"""A model that is not trained here: `opening` finds and opens it, `keeping` copies it into the run or lets the run refer to
it, `references` proves that what is referred to is still the same, `look` compares its first samples with the training images,
`conditions` says what the conditions of its samples are drawn from.
"""
