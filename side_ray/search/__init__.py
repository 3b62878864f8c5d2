"""Exact nearest neighbours and counts."""
