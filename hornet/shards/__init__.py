"""What a data set is on disk: tars, index, manifest, labels; made, checked, read. Nothing here imports torch."""
