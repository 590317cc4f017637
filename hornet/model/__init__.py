"""The network: tensors to tensors. Not here: ranks, files, flags."""
