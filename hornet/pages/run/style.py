"""What the page of a run looks like beyond all pages, and how values are read off its curves."""

STYLE = """
:root { --c0: #3267d6; --c1: #d0661a; --c2: #23875a; --c3: #b3336b; --c4: #7a52c7; --c5: #0d879f; --c6: #94700a;
  --c7: #c23b3b; --c8: #5f6b7a; --c9: #6b7f1c; --good: #1f7a4d; }
@media (prefers-color-scheme: dark) { :root { --c0: #79a5ff; --c1: #ffa366; --c2: #5fd39b; --c3: #ff86b6; --c4: #b79cff;
  --c5: #5fcbe0; --c6: #dcb84a; --c7: #ff8585; --c8: #94a0b0; --c9: #b5cc5c; --good: #5fd39b; } }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.state { display: inline-block; font-size: 13px; font-weight: 650; border-radius: 99px; padding: 2px 11px;
  margin-left: 8px; vertical-align: middle; letter-spacing: 0; color: var(--accent); background: var(--wash); }
.state.finished { color: var(--good); }
.state.failed, .state.silent { color: var(--warn); background: var(--warn-wash); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13.5px; } a { color: var(--accent); }
.restart { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 3 4; opacity: .8; fill: none; }
.drop { fill: var(--warn); } .cursor { stroke: var(--ink); stroke-width: 1; opacity: .55; }
.chart svg { touch-action: pan-y; outline-offset: 3px; cursor: crosshair; }
.legend { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 16px;
  font-size: 12.5px; color: var(--soft); } .legend li { white-space: nowrap; overflow-wrap: anywhere; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend .at { min-width: 86px; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.stack { display: flex; height: 34px; border-radius: 8px; overflow: hidden; margin: 4px 0 14px; gap: 1px; }
.stack span { min-width: 0; } .note { border-left: 4px solid var(--warn); margin: 0 0 14px; }
pre { margin: 12px 0 0; overflow-x: auto; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 14px; }
figure { margin: 0; } figure img { display: block; width: 100%; border-radius: 6px; image-rendering: auto; }
figcaption { font-size: 12.5px; color: var(--soft); margin-top: 8px; overflow-wrap: anywhere; }
@media print { .chart, figure { break-inside: avoid; } nav { display: none; } details { display: none; }
  .charts { grid-template-columns: 1fr 1fr; } }
""" + "".join(
    f".s{n} {{ stroke: var(--c{n}); {'stroke-dasharray: 6 3; ' if n > 4 else ''}}}"
    f" .f{n} {{ fill: var(--c{n}); background: var(--c{n}); }}\n"
    for n in range(10)
)

SCRIPT = """
"use strict";
const charts = [...document.querySelectorAll("svg[data-curves]")].map(svg => {
  const items = [...svg.parentElement.querySelectorAll(".legend b")];
  return { svg, items, data: JSON.parse(svg.dataset.curves), cursor: svg.querySelector(".cursor"),
    atRest: items.map(item => item.textContent) };
});
function format(value) {
  if (value === null) return "none";
  const size = Math.abs(value);
  if (size && !(size >= 1e-4 && size < 1e7)) return value.toExponential(3);
  const rounded = Number(value.toPrecision(4));
  return size >= 1000 ? rounded.toLocaleString("en") : String(rounded);
}
function nearest(steps, step) {
  let best = 0;
  for (let i = 1; i < steps.length; i++) if (Math.abs(steps[i] - step) < Math.abs(steps[best] - step)) best = i;
  return best;
}
function show(step) {
  for (const { items, data, cursor } of charts) {
    const at = nearest(data.steps, step), [start, stop] = data.pixels;
    const texts = data.values.map(values => values[at] === null ? "none" : format(values[at]) + data.unit);
    [data.steps[at].toLocaleString("en"), ...texts].forEach((text, i) => items[i].textContent = text);
    cursor.setAttribute("transform", `translate(${start + data.steps[at] / data.last * (stop - start)})`);
    cursor.setAttribute("visibility", "visible");
  }
}
function rest() {
  for (const { items, atRest, cursor } of charts) {
    items.forEach((item, i) => item.textContent = atRest[i]);
    cursor.setAttribute("visibility", "hidden");
  }
}
for (const chart of charts) {
  const { svg, data } = chart, [start, stop, width] = data.pixels;
  const point = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
    chart.at = nearest(data.steps, (x - start) / (stop - start) * data.last);
    show(data.steps[chart.at]);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", event => {
    const last = data.steps.length - 1, at = chart.at ?? last;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to === null) return rest();
    chart.at = Math.min(last, Math.max(0, to));
    show(data.steps[chart.at]);
  });
}
"""
