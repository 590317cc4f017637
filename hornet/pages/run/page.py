"""A run on one page: one file to open, mail or keep."""

from __future__ import annotations

from pathlib import Path

from hornet.pages.html import render, write_page
from hornet.pages.run.curve_list import render_curves
from hornet.pages.run.files import read_run
from hornet.pages.run.headline import find_last_step, find_num_steps, render_headline
from hornet.pages.run.images import render_images
from hornet.pages.run.results import render_results
from hornet.pages.run.sections import (
    render_attempts,
    render_bad_samples,
    render_config,
    render_dropped,
    render_environment,
    render_recipe,
    render_stragglers,
    render_timing,
)
from hornet.pages.run.style import SCRIPT, STYLE
from hornet.pages.run.timing import split_time
from hornet.runs.attempts import find_attempts, find_step_seconds

BODY = """\
{{ headline }}
<nav aria-label="On this page">
{% for section in sections %}
<a href="#{{ section.id }}">{{ section.name }}</a>
{% endfor %}
</nav>
{% for section in sections %}
<h2 id="{{ section.id }}">{{ section.title }}</h2>
{% if section.note %}
<p class="soft">{{ section.note }}</p>
{% endif %}
{{ section.body }}
{% endfor %}
"""


def write_report(run: Path, output: Path, *, now: float) -> list[str]:
    """Write the page of a run directory, and return what could not be read of it; `now` is in unix seconds.

    Raises UserError if `run` is no run directory, or the page cannot be written.
    """
    files = read_run(run)
    attempts = find_attempts(files.events, files.metrics, step_seconds=find_step_seconds(files.metrics))
    last_step = find_num_steps(files) or find_last_step(files)
    found = (
        render_curves(files, attempts, last_step=last_step),
        render_results(files),
        render_timing(split_time(attempts, files.metrics, files.events)),
        render_attempts(attempts),
        render_dropped(files),
        render_stragglers(files),
        render_bad_samples(files),
        render_images(files.images),
        render_recipe(files.recipe),
        render_config(files.config),
        render_environment(files.environment),
    )
    sections = [section for section in found if section is not None]
    body = render(BODY, headline=render_headline(files, attempts, now=now), sections=sections)
    write_page(output, title=f"{files.path.name}: run report", body=body, style=STYLE, script=SCRIPT)
    return files.problems
