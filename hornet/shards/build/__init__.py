"""Raw images, or tars made by others, to a set: shards, index, manifest."""
