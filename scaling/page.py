"""A study on one page, and the same in Markdown: laws, families, predictions, runs, costs, what a reader should ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hornet.durable import write_text
from hornet.pages.html import join, render, render_numbers, render_table, write_page
from hornet.quantities import format_seconds, shorten
from scaling.analysis import FamilyFit
from scaling.budgets import Budgets, describe_budgets, list_isoflop_rows
from scaling.charts import Chart, render_chart
from scaling.checklist import list_answers
from scaling.config import Study
from scaling.families import FamilyComparison, describe
from scaling.ledger import compare
from scaling.results import Result

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

CARD = """<div class="card"><h3>{{ title }}</h3>{{ chart }}<p class="soft">{{ note }}</p></div>"""
BODY = """\
<h1>{{ title }}</h1><p class="soft">{{ subtitle }}</p>{{ numbers }}
{% if warnings %}<div class="card warn">{% for text in warnings %}<p>{{ text }}</p>{% endfor %}</div>{% endif %}
<div class="charts">{{ charts }}</div>
{% for name, note, table in sections %}
<h2>{{ name }}</h2>{% for text in note %}<p>{{ text }}</p>{% endfor %}{{ table }}
{% endfor %}
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A heading, sentences below it, and a table, which may be empty."""

    name: str
    sentences: tuple[str, ...]
    table: Table | None


def list_parts(
    study: Study,
    fits: Sequence[FamilyFit],
    results: Sequence[Result],
    judged: Sequence[dict[str, Any]],
    *,
    comparisons: Sequence[FamilyComparison] = (),
    budgets: Sequence[Budgets] = (),
) -> list[Part]:
    """Return what the page and its Markdown say."""
    return [
        *(_describe_comparison(found) for found in comparisons),
        _describe_predictions(judged),
        *(_describe_fit(found) for found in fits),
        _describe_compute(study, budgets, fits, results),
        _describe_transfer(results),
        _describe_runs(study, results),
        _describe_costs(results),
        Part(name="Checklist", sentences=(), table=(("asked", "answer"), list_answers(study, fits, results))),
    ]


def list_missing(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each run without a result."""
    return [
        f"{run.name} is {run.state} and in no fit and no figure" + (f": {run.reason}" if run.reason else "")
        for run in results
        if run.value is None
    ]


def write_html(study: Study, parts: Sequence[Part], figures: Sequence[Chart], results: Sequence[Result]) -> Path:
    """Write the self-contained page; return its file."""
    cards = [render(CARD, title=each.title, chart=render_chart(each), note=each.note) for each in figures]
    finished = [run for run in results if run.state == "finished"]
    spent = sum(run.seconds or 0.0 for run in finished)
    numbers = render_numbers(
        [
            (f"{len(finished)}/{len(results)}", "runs finished"),
            (format_seconds(spent), "of training in all"),
            (f"{sum(run.C for run in finished):.2e}", "training FLOPs"),
        ]
    )
    sections = [
        (part.name, part.sentences, Markup("") if part.table is None else render_table(*part.table, num_texts=1))
        for part in parts
    ]
    body = render(
        BODY,
        title=f"Scaling study {study.config.study.name}",
        subtitle=_say_source(study, results),
        numbers=numbers,
        warnings=list_missing(results),
        charts=join(cards),
        sections=sections,
    )
    path = study.folder / "report.html"
    write_page(path, title=f"Scaling study {study.config.study.name}", body=body)
    return path


def write_markdown(
    study: Study, parts: Sequence[Part], figures: Sequence[Chart], results: Sequence[Result], *, has_files: bool
) -> None:
    """Write report.md, and checklist.md alone."""
    lines = [f"# Scaling study {study.config.study.name}", "", _say_source(study, results), ""]
    lines += [f"- {text}" for text in list_missing(results)]
    for figure in figures if has_files else ():
        lines += ["", f"![{figure.title}](figures/{figure.file}.svg)", "", f"{figure.title}: {figure.note}"]
    for part in parts:
        lines += ["", *_format_part(part)]
    write_text(study.folder / "report.md", "\n".join(lines) + "\n")
    checklist = next(part for part in parts if part.name == "Checklist")
    write_text(study.folder / "checklist.md", "\n".join(_format_part(checklist)) + "\n")


def _format_part(part: Part) -> list[str]:
    lines = [f"## {part.name}", ""]
    for text in part.sentences:
        lines += [text, ""]
    if part.table is not None:
        head, rows = part.table
        escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in escaped)]
    return lines


def _say_source(study: Study, results: Sequence[Result]) -> str:
    commits = sorted({run.commit[:10] for run in results if run.commit})
    made = f"commits of the code {', '.join(commits)}" if commits else "no commit is known"
    return f"{study.path}; {study.config.measure.metric} of {study.config.measure.weights} weights; {made}"


def _describe_fit(found: FamilyFit) -> Part:
    name = f"Law of {found.family}" if found.family else "Law"
    missing = tuple(f"Not in this fit: {text}." for text in found.without_result)
    if found.fit is None:
        return Part(name=name, sentences=(*found.remarks, *missing), table=None)
    fitted, resampled = found.fit, found.resampled
    rows = []
    for parameter, value in fitted.parameters.items():
        interval = "none"
        if resampled is not None:
            pair = resampled.parameter(parameter)
            interval = f"{pair.low:.4g} to {pair.high:.4g}"
        rows.append((parameter, f"{value:.4g}", interval))
    counts = f"{len(fitted.cells)} cells, {int(fitted.cells.num_runs.sum())} runs"
    proof = (
        f"{fitted.law.name}({', '.join(fitted.law.factors)}) of {counts}; {fitted.estimation}; "
        f"{fitted.proof.num_agreeing} of {fitted.proof.num_starts} starts agree, gradient {fitted.proof.gradient:.1e}, "
        f"condition {fitted.proof.condition:.3g}"
    )
    scores: tuple[str, ...] = ()
    if found.choice is not None:
        errors = ", ".join(f"{score.law.name} {score.rmsle:.4f}" for score in found.choice.scores)
        scores = (f"Chosen by the error (RMSLE) on the largest level held out: {errors}.",)
    flags = tuple(f"{flag.code}: {flag.text}" for flag in fitted.flags)
    return Part(
        name=name,
        sentences=(proof, *scores, *flags, *found.remarks, *missing),
        table=(("parameter", "value", "interval"), rows),
    )


def _describe_comparison(found: FamilyComparison) -> Part:
    first, second = found.families
    return Part(name=f"{second} against {first}", sentences=tuple(describe(found)), table=None)


def _describe_compute(
    study: Study, budgets: Sequence[Budgets], fits: Sequence[FamilyFit], results: Sequence[Result]
) -> Part:
    rows = list_isoflop_rows(budgets)
    head = ("family", "training FLOPs", "best N", "value there", "sizes", "marks")
    sentences = tuple(describe_budgets(study, budgets, fits, results))
    return Part(name="Compute", sentences=sentences, table=(head, rows) if rows else None)


def _describe_predictions(judged: Sequence[dict[str, Any]]) -> Part:
    if not judged:
        return Part(name="Predictions", sentences=("The study foretells nothing.",), table=None)
    rows = []
    for each in judged:
        interval = "none" if each["low"] is None else f"{each['low']:.4g} to {each['high']:.4g}"
        measured = "not yet"
        if each["measured"] is not None:
            measured = f"{each['measured']:.4g} ({each['ratio']:.3f} of it)"
        elif each["without_result"]:
            lost, asked = ", ".join(each["without_result"]), each.get("num_runs", 1)
            measured = f"not judged: no result of {lost}, and the mean of {asked} runs was foretold"
        verdict = {True: "inside", False: "outside", None: ""}[each["is_inside"]]
        rows.append((each["name"], f"{each['value']:.4g}", interval, measured, verdict, each["written_at"]))
    remarks = tuple(dict.fromkeys(each["remark"] for each in judged if each.get("remark")))
    return Part(
        name="Predictions",
        sentences=("Written before their runs began.", *remarks),
        table=(("runs", "foretold", "interval", "measured", "", "written at"), rows),
    )


def _describe_transfer(results: Sequence[Result]) -> Part:
    tuned = [run for run in results if run.stage == "finetune"]
    if not tuned:
        return Part(name="Transfer", sentences=("The study finetunes nothing.",), table=None)
    losses = {run.name: run.loss for run in results}
    rows = [
        (run.name, _show(losses.get(run.parent or "")), _show(run.loss), _show(run.top1), run.state) for run in tuned
    ]
    head = ("finetuning", "loss before", "loss after", "top-1, %", "state")
    return Part(name="Transfer", sentences=(), table=(head, rows))


def _describe_runs(study: Study, results: Sequence[Result]) -> Part:
    rows = [
        (
            run.name,
            shorten(run.N),
            shorten(run.U),
            shorten(run.T),
            f"{run.C:.2e}",
            _show(run.loss),
            _show(run.top1),
            run.state,
        )
        for run in results
    ]
    text = f"Each is an ordinary run below {study.folder}; cells/ has its config, logs/ what it printed."
    return Part(name="Runs", sentences=(text,), table=(("run", "N", "U", "T", "FLOPs", "loss", "top-1, %", ""), rows))


def _describe_costs(results: Sequence[Result]) -> Part:
    known = [(run.name, run.seconds_planned, run.seconds) for run in results if run.seconds and run.seconds_planned]
    if not known:
        return Part(name="Costs", sentences=("What runs take was not estimated before they began.",), table=None)
    rows = [
        (name, format_seconds(planned), format_seconds(took), f"{planned / took:.2f}") for name, planned, took in known
    ]
    text = compare([(planned, took) for _, planned, took in known])
    return Part(name="Costs", sentences=(f"{text}.",), table=(("run", "planned", "took", "planned / took"), rows))


def _show(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"
