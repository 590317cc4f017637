"""Pretraining from shards under DeepSpeed ZeRO."""
