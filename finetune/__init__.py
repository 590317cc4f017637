"""Finetuning a pretrained checkpoint under Accelerate."""
