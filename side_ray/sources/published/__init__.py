"""Published data sets, each in the layout of its authors."""
