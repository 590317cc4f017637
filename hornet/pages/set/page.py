"""A set on one page: counts, distributions, images. One file to open, mail or put beside a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from hornet.pages.html import join, render, render_numbers, render_table, write_page
from hornet.pages.set.charts import render_curve, render_histogram, render_scatter
from hornet.pages.set.survey import SplitSurvey, survey_split
from hornet.pages.set.tile import STYLE, render_tile
from hornet.quantities import format_bytes
from hornet.shards.label_report import find_meaning
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Manifest, Split, fingerprint_split
from hornet.shards.summary import describe_origin

NUM_READ = 1000
NUM_SHOWN = 48
NUM_NAMED_CLASSES = 10
NUM_NAMED_DAMAGED = 10
PERCENTILES = (1, 25, 50, 75, 99)

HEAD = """\
<h1>{{ name }}</h1>
<p class="soft">Label space {{ space }}, {{ num_classes }} classes, fingerprint <code>{{ fingerprint }}</code></p>
{{ numbers }}
<div class="card">{{ table }}
{% for name in unindexed %}
<p>Split {{ name }} is not indexed.</p>
{% endfor %}
</div>
"""

SPLIT = """\
<h2>{{ name }}</h2>
{% if origin %}
<p class="soft">Made by {{ origin }}</p>
{% endif %}
{% for cards in groups %}
<div class="charts">
{% for title, content in cards %}
<div class="card"><h3>{{ title }}</h3>{{ content }}</div>
{% endfor %}
</div>
{% endfor %}
{{ damaged }}
{{ classes }}
<h2>{{ name }}: {{ tiles | length }} at random</h2>
<div class="tiles">
{% for tile in tiles %}
{{ tile }}
{% endfor %}
</div>
"""

DAMAGED = """\
<div class="card"><h3 class="warn">{{ num_damaged }} of the {{ num_read }} sampled images are damaged</h3>
{{ table }}</div>
"""

CLASSES = """\
<details><summary>All {{ num_classes }} classes in the order of their labels (open, then search the page)</summary>
<ul class="many">
{% for label, name, count in rows %}
<li><span>{{ label }} {{ name }}</span><span class="n">{{ count }}</span></li>
{% endfor %}
</ul></details>
"""


def write_set_page(manifest: Manifest, path: Path) -> list[SplitSurvey]:
    """Write the page of a set and return what it shows; reads a thousand samples of each split, whatever its size.

    Raises UserError if tars or an index are not those of the manifest.
    """
    surveys = [survey_split(manifest, name, num_read=NUM_READ, num_shown=NUM_SHOWN) for name in manifest.splits]
    body = join([_render_head(manifest), *(_render_split(manifest, survey) for survey in surveys)])
    write_page(path, title=manifest.name, body=body, style=STYLE)
    return surveys


def _render_head(manifest: Manifest) -> Markup:
    space = manifest.label_space
    splits = manifest.splits.values()
    numbers = [
        (f"{sum(split.num_samples for split in splits):,}", "images"),
        (f"{len(space):,}", "classes"),
        (f"{len(manifest.splits)}", "splits" if len(manifest.splits) != 1 else "split"),
        (f"{sum(len(split.shards) for split in splits):,}", "shards"),
        (format_bytes(sum(sum(split.shard_bytes) for split in splits)), "in the shards"),
    ]
    rows = [_list_split(split, space) for split in splits]
    table = render_table(["split", "images", "shards", "bytes", "fingerprint"], rows)
    return render(
        HEAD,
        name=manifest.name,
        space=space.name,
        num_classes=f"{len(space):,}",
        fingerprint=space.fingerprint,
        numbers=render_numbers(numbers),
        table=table,
        unindexed=manifest.unindexed,
    )


def _list_split(split: Split, space: LabelSpace) -> list[str]:
    fingerprint = fingerprint_split(split, space)[:16]
    size = format_bytes(sum(split.shard_bytes))
    return [split.name, f"{split.num_samples:,}", f"{len(split.shards):,}", size, fingerprint]


def _render_split(manifest: Manifest, survey: SplitSurvey) -> Markup:
    origin = manifest.splits[survey.name].origin
    tables = [(f"Percentiles (pixels: from a random sample of {survey.num_read:,})", _render_percentiles(survey))]
    return render(
        SPLIT,
        name=survey.name,
        origin=describe_origin(origin) if origin else "",
        groups=[_list_charts(survey), tables, _list_extremes(survey, manifest.label_space)],
        damaged=_render_damaged(survey) if survey.damaged else "",
        classes=_render_all_classes(survey, manifest.label_space),
        tiles=[render_tile(tile) for tile in survey.tiles],
    )


def _list_charts(survey: SplitSurvey) -> list[tuple[str, Markup]]:
    image_bytes = render_histogram(
        survey.image_bytes, title="Bytes of an image and its header", x_name="bytes", format_tick=format_bytes
    )
    charts = [
        ("Images of each class, largest first", render_curve(survey.class_counts)),
        ("Bytes of an image", image_bytes),
    ]
    if len(survey.sizes):
        short_edges = render_histogram(
            survey.sizes.min(axis=1), title="Short edge of images", x_name="pixels", format_tick=lambda x: f"{x:g}"
        )
        charts += [
            ("Width and height, pixels", render_scatter(survey.sizes)),
            ("Short edge, pixels", short_edges),
        ]
    return charts


def _render_percentiles(survey: SplitSurvey) -> Markup:
    measured = [("bytes", survey.image_bytes, format_bytes), ("images a class", survey.class_counts, _format_count)]
    if len(survey.sizes):
        columns = (("width", survey.sizes[:, 0]), ("height", survey.sizes[:, 1]))
        measured += [(name, values, _format_count) for name, values in columns]
    rows = [[name, *(form(value) for value in np.percentile(values, PERCENTILES))] for name, values, form in measured]
    return render_table(["", *(f"{percent} %" for percent in PERCENTILES)], rows)


def _list_extremes(survey: SplitSurvey, space: LabelSpace) -> list[tuple[str, Markup]]:
    order = np.argsort(-survey.class_counts, kind="stable").tolist()
    lists = [("Largest classes", order[:NUM_NAMED_CLASSES])]
    if len(order) > NUM_NAMED_CLASSES:
        lists.append(("Smallest classes", order[: -NUM_NAMED_CLASSES - 1 : -1]))
    return [(title, render_table(["class", "images"], _list_classes(survey, space, labels))) for title, labels in lists]


def _list_classes(survey: SplitSurvey, space: LabelSpace, labels: Sequence[int]) -> list[list[str]]:
    return [[_name_class(space, label), f"{survey.class_counts[label]:,}"] for label in labels]


def _name_class(space: LabelSpace, label: int) -> str:
    name = space.classes[label]
    meaning = find_meaning(name)
    return name if meaning is None else f"{meaning} ({name})"


def _render_all_classes(survey: SplitSurvey, space: LabelSpace) -> Markup:
    rows = [
        (label, _name_class(space, label), f"{count:,}") for label, count in enumerate(survey.class_counts.tolist())
    ]
    return render(CLASSES, num_classes=f"{len(space):,}", rows=rows)


def _render_damaged(survey: SplitSurvey) -> Markup:
    rows = [[tile.key, tile.problem] for tile in survey.damaged[:NUM_NAMED_DAMAGED]]
    table = render_table(["key", "problem"], rows, num_texts=2)
    return render(DAMAGED, num_damaged=len(survey.damaged), num_read=f"{survey.num_read:,}", table=table)


def _format_count(value: float) -> str:
    return f"{value:,.0f}"
