"""Tars made by others: found, read header by header, described by an index and a manifest of ours."""
