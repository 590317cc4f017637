"""One file per engine, each behind the Protocol in hornet/training/loop.py."""
