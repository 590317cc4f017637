"""A run on one page: its files -> rows -> numbers, curves, tables."""
