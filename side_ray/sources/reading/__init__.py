"""How files are read."""
