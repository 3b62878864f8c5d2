"""Reading a data source into the run: `passes` over its units, and in `near` those that compare images with each other."""
