"""Runs from recipes: one (`run.py`), a family of them (`comparison.py`), the quickstart; and the pages about them."""
