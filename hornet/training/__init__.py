"""Changes weights, or measures how that goes."""
