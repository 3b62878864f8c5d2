"""The int8 search on processors."""
