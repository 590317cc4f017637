"""Everything that touches pixels: per image in the workers, per batch on the device."""
