"""Imported into a rank, makes three global batches bad: numbers that data or hardware gone wrong would give."""

import math
import os

from hornet.data.loader import TrainStream
from hornet.stages.classification import Classification

iterate, compute_loss = TrainStream.iterate, Classification.compute_loss
fetched = [0]


def iterate_and_note(stream, first_step, num_steps):
    for number, batch in enumerate(iterate(stream, first_step, num_steps)):
        fetched[0] = first_step + number // stream.num_micro_steps
        yield batch


def compute_poisoned_loss(task, model, batch, seed):
    loss = compute_loss(task, model, batch, seed)
    if fetched[0] == 2:
        return loss + math.nan  # the gradient is finite
    if fetched[0] == 6 and os.environ["RANK"] == "1":
        return loss * 1e6  # a spike on one rank
    if fetched[0] == 7:
        return loss * math.nan
    return loss


TrainStream.iterate, Classification.compute_loss = iterate_and_note, compute_poisoned_loss
