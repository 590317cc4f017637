"""A run's evaluations in TensorBoard, at the step of the weights."""

from __future__ import annotations

from pathlib import Path

from hornet.stages.evaluation import Evaluated, Row


def show_in_tensorboard(evaluated: Evaluated, board: Path) -> None:
    """Add the numbers to RUN/tensorboard/evaluations/NAME at the step of the weights, if the run has a tensorboard/."""
    if evaluated.step is None or not board.parent.parent.is_dir():
        return
    from hornet.training.trackers import add_evaluation  # TensorBoard takes seconds to import

    add_evaluation(board, list_scalars(evaluated), step=evaluated.step)


def list_scalars(evaluated: Evaluated) -> dict[str, float]:
    """Return what is shown as curves over the steps: of corrupted images the means alone."""
    scalars: dict[str, float] = {}
    for row in evaluated.rows:
        if row.corruption is None:
            found = row.measurement
            scalars[f"top1/{_name_view(row)}"] = found.evaluation.top1
            scalars[f"top5/{_name_view(row)}"] = found.evaluation.top5
            scalars[f"loss/{_name_view(row)}"] = found.evaluation.loss
            scalars[f"calibration_error/{_name_view(row)}"] = 100 * found.calibration.error
    for row, result in evaluated.find_corruptions():
        for name, value in (("corruption_error", result.mean_error), ("mce", result.mce)):
            if value is not None:
                scalars[f"{name}/{_name_view(row)}"] = value
    return scalars


def _name_view(row: Row) -> str:
    crop = "warped" if row.crop_fraction is None else f"crop {row.crop_fraction:g}"
    return f"{row.weights}, {row.image_size} pixels, {crop}"
