"""Imported in a rank before its script: by rank 1's clock each of its micro batches takes an hour longer to read.

An hour of the clock and not of the test, so that no load of the machine can make the other rank the slower one.
"""

import os
import time
from types import SimpleNamespace

import hornet.training.step_clock
from hornet.data.pipeline import TrainBatches

HOUR = 3600.0

read = TrainBatches.__getitems__
behind = 0.0


def read_slowly(*arguments):
    global behind
    behind += HOUR * (os.environ["RANK"] == "1")
    return read(*arguments)


TrainBatches.__getitems__ = read_slowly
hornet.training.step_clock.time = SimpleNamespace(perf_counter=lambda: time.perf_counter() + behind)
