"""The commands of launch/shards.py, one module a kind: each adds its parser and runs what it reads."""
