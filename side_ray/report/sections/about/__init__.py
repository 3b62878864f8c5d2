"""Sections about the numbers: the caveats, what they mean, and what they were made from."""
