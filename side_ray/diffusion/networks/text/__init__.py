"""The networks of text-conditioned models, one file per kind, and the loading of their text encoders."""
