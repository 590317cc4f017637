"""A set against what it says of itself."""
