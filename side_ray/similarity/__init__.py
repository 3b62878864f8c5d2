"""Similarities between images."""
