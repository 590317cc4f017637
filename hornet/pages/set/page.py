"""A set on one page: counts, distributions, pictures. One file to open, mail or put beside a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hornet.pages.html import draw_numbers, draw_table, escape, write_page
from hornet.pages.set.charts import draw_curve, draw_histogram, draw_scatter
from hornet.pages.set.survey import SplitSurvey, describe_class, survey_split
from hornet.pages.set.tile import STYLE, draw_tile
from hornet.quantities import format_bytes
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Manifest, Split, fingerprint_split
from hornet.shards.summary import describe_origin

NUM_READ = 1000
NUM_SHOWN = 48
NUM_NAMED_CLASSES = 10
NUM_NAMED_DAMAGED = 10
PERCENTILES = (1, 25, 50, 75, 99)


def write_set_page(manifest: Manifest, path: Path) -> list[SplitSurvey]:
    """Write the page of a set and return what it shows; reads a thousand samples of each split, whatever its size.

    Raises UserError if tars or an index are not those of the manifest.
    """
    surveys = [survey_split(manifest, name, num_read=NUM_READ, num_shown=NUM_SHOWN) for name in manifest.splits]
    body = _draw_head(manifest) + "".join(_draw_split(manifest, survey) for survey in surveys)
    write_page(path, title=manifest.name, body=body, style=STYLE)
    return surveys


def _draw_head(manifest: Manifest) -> str:
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
    table = draw_table(["split", "images", "shards", "bytes", "fingerprint"], rows)
    unindexed = "".join(f"<p>Split {escape(name)} is not indexed.</p>" for name in manifest.unindexed)
    return (
        f"<h1>{escape(manifest.name)}</h1>"
        f'<p class="soft">Label space {escape(space.name)}, {len(space):,} classes, fingerprint '
        f"<code>{space.fingerprint}</code></p>"
        f'{draw_numbers(numbers)}<div class="card">{table}{unindexed}</div>'
    )


def _list_split(split: Split, space: LabelSpace) -> list[str]:
    fingerprint = fingerprint_split(split, space)[:16]
    size = format_bytes(sum(split.shard_bytes))
    return [split.name, f"{split.num_samples:,}", f"{len(split.shards):,}", size, fingerprint]


def _draw_split(manifest: Manifest, survey: SplitSurvey) -> str:
    origin = manifest.splits[survey.name].origin
    made = f'<p class="soft">Made by {escape(describe_origin(origin))}</p>' if origin else ""
    charts = [draw_curve(survey.class_counts)]
    charts.append(
        draw_histogram(
            survey.image_bytes, title="Bytes of an image and its header", x_name="bytes", format_tick=format_bytes
        )
    )
    if len(survey.sizes):
        short_edges = survey.sizes.min(axis=1)
        charts.append(draw_scatter(survey.sizes))
        charts.append(
            draw_histogram(short_edges, title="Short edge of pictures", x_name="pixels", format_tick=lambda x: f"{x:g}")
        )
    titles = (
        "Images of each class, largest first",
        "Bytes of an image",
        "Width and height, pixels",
        "Short edge, pixels",
    )
    cards = "".join(
        f'<div class="card"><h3>{title}</h3>{chart}</div>' for title, chart in zip(titles, charts, strict=False)
    )
    tiles = "".join(draw_tile(tile) for tile in survey.tiles)
    sampled = f"pixels: from a random sample of {survey.num_read:,}"
    return (
        f'<h2>{escape(survey.name)}</h2>{made}<div class="charts">{cards}</div>'
        f'<div class="charts"><div class="card"><h3>Percentiles ({sampled})</h3>{_draw_percentiles(survey)}</div></div>'
        f'<div class="charts">{_draw_extremes(survey, manifest.label_space)}</div>'
        f"{_draw_damaged(survey)}{_draw_all_classes(survey, manifest.label_space)}"
        f'<h2>{escape(survey.name)}: {len(survey.tiles)} at random</h2><div class="tiles">{tiles}</div>'
    )


def _draw_percentiles(survey: SplitSurvey) -> str:
    measured = [("bytes", survey.image_bytes, format_bytes), ("images a class", survey.class_counts, _format_count)]
    if len(survey.sizes):
        columns = (("width", survey.sizes[:, 0]), ("height", survey.sizes[:, 1]))
        measured += [(name, values, _format_count) for name, values in columns]
    rows = [[name, *(form(value) for value in np.percentile(values, PERCENTILES))] for name, values, form in measured]
    return draw_table(["", *(f"{percent} %" for percent in PERCENTILES)], rows)


def _draw_extremes(survey: SplitSurvey, space: LabelSpace) -> str:
    order = np.argsort(-survey.class_counts, kind="stable").tolist()
    lists = [("Largest classes", order[:NUM_NAMED_CLASSES])]
    if len(order) > NUM_NAMED_CLASSES:
        lists.append(("Smallest classes", order[: -NUM_NAMED_CLASSES - 1 : -1]))
    tables = [(title, draw_table(["class", "images"], _list_classes(survey, space, labels))) for title, labels in lists]
    return "".join(f'<div class="card"><h3>{title}</h3>{table}</div>' for title, table in tables)


def _list_classes(survey: SplitSurvey, space: LabelSpace, labels: Sequence[int]) -> list[list[str]]:
    return [[_name_class(space, label), f"{survey.class_counts[label]:,}"] for label in labels]


def _name_class(space: LabelSpace, label: int) -> str:
    name = space.classes[label]
    meaning = describe_class(name)
    return name if meaning == name else f"{meaning} ({name})"


def _draw_all_classes(survey: SplitSurvey, space: LabelSpace) -> str:
    items = "".join(
        f'<li><span>{label} {escape(_name_class(space, label))}</span><span class="n">{count:,}</span></li>'
        for label, count in enumerate(survey.class_counts.tolist())
    )
    return (
        f"<details><summary>All {len(space):,} classes in the order of their labels (open, then search the page)"
        f'</summary><ul class="many">{items}</ul></details>'
    )


def _draw_damaged(survey: SplitSurvey) -> str:
    if not survey.damaged:
        return ""
    rows = [[tile.key, tile.problem] for tile in survey.damaged[:NUM_NAMED_DAMAGED]]
    return (
        f'<div class="card"><h3 class="warn">{len(survey.damaged)} of the {survey.num_read:,} '
        f"sampled pictures are damaged</h3>{draw_table(['key', 'problem'], rows, num_texts=2)}</div>"
    )


def _format_count(value: float) -> str:
    return f"{value:,.0f}"
