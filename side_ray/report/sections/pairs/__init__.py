"""Sections that show images: the closest pairs of each method, and all pairs to look through."""
