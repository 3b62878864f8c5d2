"""What an audit hands over: the page, its figures, the terminal table and the CSV, all made from plain data."""
