"""Imported in a rank before its script: rank 1 reads each of its micro batches a third of a second longer."""

import os
import time

from hornet.data.pipeline import TrainBatches

read = TrainBatches.__getitems__


def wait_and_read(*arguments):
    time.sleep((os.environ["RANK"] == "1") / 3)
    return read(*arguments)


TrainBatches.__getitems__ = wait_and_read
