"""Which bytes come next, and bytes to Batch."""
