"""A data set on one page."""
