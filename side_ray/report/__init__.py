"""Presentation of results: the HTML page, its figures, the terminal tables, the CSV files and the texts of the studies.

Everything here is a function of plain data (dicts as in metrics.json), without Ray and without the run directory. A new section
of the page goes into `sections/`, a recomputed table or figure of the paper into `paper/`, the text of a new study into a module
of its own. Names of methods and similarities, and the format of numbers, are in `wording`.
"""
