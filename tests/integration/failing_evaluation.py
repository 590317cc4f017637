"""Imported in a rank before its script: an evaluation ends in a bare error, as one does that runs out of memory."""

from hornet.stages.classification import Classification


def fail(*_arguments):
    raise RuntimeError("out of memory")


Classification.evaluate = fail
