"""Smaller sets that copy nothing, and lists of samples to leave out."""
