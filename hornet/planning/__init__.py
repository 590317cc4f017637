"""What a run will take - memory, time, disk - computed from its config before it starts, without GPUs or data."""
