"""A model that is not trained here: `opening` finds and opens it, `look` compares its first samples with the training images,
`conditions` says what the conditions of its samples are drawn from.
"""
