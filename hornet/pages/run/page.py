"""A run on one page: one file to open, mail or keep."""

from __future__ import annotations

from pathlib import Path

from hornet.pages.html import escape, write_page
from hornet.pages.run.attempts import find_lives
from hornet.pages.run.curve_list import draw_curves
from hornet.pages.run.files import read_run
from hornet.pages.run.headline import draw_headline, find_last_step, find_num_steps
from hornet.pages.run.images import draw_images
from hornet.pages.run.sections import (
    draw_bad_samples,
    draw_config,
    draw_dropped,
    draw_environment,
    draw_lives,
    draw_recipe,
    draw_stragglers,
    draw_timing,
)
from hornet.pages.run.style import SCRIPT, STYLE
from hornet.pages.run.timing import find_step_seconds, split_time


def write_report(run: Path, output: Path, *, now: float) -> list[str]:
    """Write the page of a run directory, and return what could not be read of it; `now` is in unix seconds.

    Raises UserError if `run` is no run directory, or the page cannot be written.
    """
    files = read_run(run)
    lives = find_lives(files.events, files.metrics, step_seconds=find_step_seconds(files.metrics))
    last_step = find_num_steps(files) or find_last_step(files)
    parts = {
        "Curves": draw_curves(files, lives, last_step=last_step),
        "Time": draw_timing(split_time(lives, files.metrics, files.events)),
        "Lives": draw_lives(lives),
        "Dropped steps": draw_dropped(files) if files.metrics or files.dropped_steps else "",
        "Slowest ranks": draw_stragglers(files),
        "Bad samples": draw_bad_samples(files),
        "Pictures": draw_images(files.pictures),
        "Recipe": draw_recipe(files.recipe),
        "Config": draw_config(files.config),
        "Environment": draw_environment(files.environment),
    }
    links = "".join(f'<a href="#{_find_id(part)}">{name}</a>' for name, part in parts.items() if part)
    body = (
        f'{draw_headline(files, lives, now=now)}<nav aria-label="On this page">{links}</nav>{"".join(parts.values())}'
    )
    write_page(output, title=f"{escape(files.path.name)}: run report", body=body, style=STYLE, script=SCRIPT)
    return files.problems


def _find_id(part: str) -> str:
    return part.split('id="', 1)[1].split('"', 1)[0]
