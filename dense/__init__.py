"""Training segmenters on pretrained backbones under Accelerate."""
