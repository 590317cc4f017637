"""The corruptions of ImageNet-C, made of any images: pixels and a seed -> pixels."""
