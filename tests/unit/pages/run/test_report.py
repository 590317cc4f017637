"""The page of a run: right numbers, any state, any damage, harmless texts, and curves that a browser lets one read."""

import base64
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.pages.run.curves import thin
from hornet.pages.run.files import read_run
from hornet.pages.run.page import write_report
from hornet.pages.run.timing import split_time
from hornet.runs.attempts import find_attempts
from tests.unit.pages.run.browser import CHROMIUM, Browser
from tests.unit.pages.run.making import EVENTS, EVIL, START, make_metrics, make_run, write_rows

TABLES = ("metrics", "events", "evaluations", "norms", "dropped_steps")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


class Reader(HTMLParser):
    """What a browser would act on, and what a person would read."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def report(run, *, now=START + 1000):
    problems = write_report(run, run / "report.html", now=now)
    return (run / "report.html").read_text(), problems


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_attempts_are_told_from_the_diary():
    attempts = find_attempts(EVENTS, make_metrics(12), step_seconds=1.0)
    assert [(attempt.first_step, attempt.num_ranks, attempt.end) for attempt in attempts] == [
        (0, 2, None),
        (4, 2, "stopped"),
        (8, 4, "finished"),
    ]
    assert [attempt.num_lost_steps for attempt in attempts] == [2, 0, 0]
    assert [attempt.running - attempt.start for attempt in attempts] == [11, 11, 11]
    assert attempts[0].last_sign == START + 107, "the last save, and two steps that were lost"
    assert attempts[1].reason == "SIGUSR1"


def test_all_time_is_split_once():
    metrics = make_metrics(12)
    attempts = find_attempts(EVENTS, metrics, step_seconds=1.0)
    timing = split_time(attempts, metrics, EVENTS)
    assert sum(timing.values()) == pytest.approx(17 + 16 + 18)
    expected = {
        "waiting for data": 1.2,
        "forward": 2.4,
        "backward": 4.8,
        "optimizer": 1.2,
        "rest of the step": 2.4,
        "saves": 1.0,
        "evaluations": 2.0,
        "start-up": 30.0,
        "lost work": 2.0,
    }
    for name, seconds in expected.items():
        assert timing[name] == pytest.approx(seconds, abs=1e-6), name


def test_an_attempt_does_not_look_at_all_rows():
    """A million steps with hundreds of attempts: no page in the square of it."""

    class Row(dict):
        looks = 0

        def __getitem__(self, key):
            Row.looks += 1
            return super().__getitem__(key)

        def get(self, key, default=None):
            Row.looks += 1
            return super().get(key, default)

    def count_looks(num_attempts):
        metrics = [Row(step=step, time=10.0 * step, step_seconds=10.0) for step in range(1, 2001)]
        starts = range(0, 2000, 2000 // num_attempts)
        events = [Row(event="starting", time=10.0 * step + 1, step=step, num_ranks=1) for step in starts]
        events += [Row(event="running", time=10.0 * step + 9, step=step + 1) for step in starts]
        events.sort(key=lambda event: event["time"])
        attempts = find_attempts(events, metrics, step_seconds=10.0)
        Row.looks = 0
        timing = split_time(attempts, metrics, events)
        assert timing["start-up"] == 0.0  # all of it is the first step's
        return Row.looks

    assert count_looks(200) - count_looks(100) < 100 * 100


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(20, 600))
@settings(max_examples=50)
def test_thinning_keeps_ends_and_extremes(values, limit):
    kept = thin({"only": values}, limit=limit)
    assert kept == sorted(set(kept))
    assert {0, len(values) - 1} <= set(kept)
    there = [value for value in values if value is not None]
    if there:
        shown = [values[index] for index in kept if values[index] is not None]
        assert (min(shown), max(shown)) == (min(there), max(there))
    assert len(kept) <= max(limit + 4, 24)


def test_a_whole_run_is_shown_and_its_texts_are_harmless(run):
    page, problems = report(run)
    assert problems == []
    read = Reader(page)
    assert read.tags.count("script") == 1, "the page's own"
    assert not any(name.startswith("on") for name, _ in read.attributes)
    addresses = [value for name, value in read.attributes if name in ("src", "href")]
    images = ("data:image/png;base64,", "data:image/svg+xml;base64,")
    assert all(value.startswith((*images, "#")) for value in addresses)
    assert read.text.count(EVIL) >= 8
    for words in ("12of 12 steps", "62.00 %", "25.0 %", "3 attempts", "Dropped steps: 1", "2 x NVIDIA H200", "killed"):
        assert words in read.text, words
    assert "GPU-hours" in read.text
    for chart in ("Training loss", "Top-1", "Norm of the weights, by part", "Time of a step", "Slowest rank"):
        assert f"<h3>{chart}</h3>" in page
    targets = {value for name, value in read.attributes if name == "id"}
    assert {value.removeprefix("#") for name, value in read.attributes if name == "href"} <= targets


def test_a_detector_s_run_shows_its_average_precision_and_no_loss_of_evaluations(run):
    rows = [{"step": step, "weights": "raw", "mask_ap": 10.0 + step, "box_ap": 20.0} for step in (6, 12)]
    write_rows(run / "evaluations.jsonl", rows)
    page, problems = report(run)
    assert problems == []
    assert "22.00 %best mask AP, raw, step 12" in Reader(page).text
    for chart, is_there in (("Mask AP", True), ("Box AP", True), ("Evaluation loss", False), ("Top-1", False)):
        assert (f"<h3>{chart}</h3>" in page) == is_there


def test_a_name_is_shown_as_it_is_and_what_utf8_cannot_hold_as_a_question_mark(tmp_path):
    page, _ = report(make_run(tmp_path / "a&b <i>\udcff"))
    assert "<title>a&amp;b &lt;i&gt;?: run report</title>" in page
    assert "<h1>a&amp;b &lt;i&gt;? <span" in page
    assert Reader(page).text.count("a&b <i>?") == 3, "title, heading, path"


@pytest.mark.parametrize(
    ("status", "now", "words"),
    [
        ({"state": "failed", "error": "step 5: the disk is full", "phase": "save"}, 2000, "Failed during save: step 5"),
        ({"state": "stopped", "reason": "SIGUSR1", "step": 8}, 2000, "(SIGUSR1); the same command goes on."),
        ({"state": "running", "step": 8}, 320, "left"),
        ({"state": "running", "step": 8}, 4000, "No sign of life for 1 h 1 min: the job was probably killed"),
        ({}, 2000, "finished"),
    ],
)
def test_every_state_is_told(run, status, now, words):
    (run / "summary.json").unlink()
    (run / "status.json").write_text(json.dumps(status))
    assert words in Reader(report(run, now=START + now)[0]).text


def test_evaluations_by_themselves_are_shown(run):
    """Each set with its size, crop and weights; of corrupted images the means and the worst."""
    read = Reader(report(run)[0])
    assert "Evaluations on 2 sets" in read.text
    cells = "".join(read.text.split())
    plain = "imagenet-r_validationraw12224warped61.5083.251.45678.9055.4070.1230,000"
    assert plain in cells
    assert "fliers_trainema12480.87549.0091.002.00003.2048.0048" in cells
    assert "fliers_train(madehere)ema12480.87538.25frost60.00" in cells
    figures = [value for name, value in read.attributes if name == "src" and "svg" in value]
    assert (
        base64.b64decode(figures[1].partition(",")[2])
        == (run / "evaluations/imagenet-r_validation/evaluation.svg").read_bytes()
    )


def test_two_questions_to_one_set_are_rows_of_one_table(run):
    for name in ("imagenet-r_validation", "imagenet-r_validation-2"):
        path = run / "evaluations" / name / "evaluation.json"
        path.parent.mkdir(exist_ok=True)
        found = json.loads((run / "evaluations/imagenet-r_validation/evaluation.json").read_text())
        path.write_text(json.dumps({**found, "question": {"set": "a" * 64}}))
    read = Reader(report(run)[0])
    assert "Evaluations on 2 sets" in read.text, "by what was asked of which set, and one without it"
    cells = "".join(read.text.split())
    assert "imagenet-r_validationraw12224warped61.50" in cells
    assert "imagenet-r_validation-2raw12224warped61.50" in cells


def test_a_damaged_evaluation_is_named_by_its_set(run):
    (run / "evaluations/fliers_train/evaluation.json").write_text("{")
    page, problems = report(run)
    assert problems == [
        problem for problem in problems if problem.startswith("evaluations/fliers_train/evaluation.json cannot be read")
    ]
    assert len(problems) == 1
    assert "Evaluations on 1 set" in page


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_no_value_in_an_evaluation_breaks_the_page(tmp_path_factory, data):
    run = make_run(tmp_path_factory.mktemp("any") / "run")
    path = run / "evaluations/fliers_train/evaluation.json"
    found = json.loads(path.read_text())
    part = data.draw(st.sampled_from([found, found["results"][0], found["corruptions"][0]]))
    part |= data.draw(st.dictionaries(st.sampled_from(sorted(part)), JSON, min_size=1))
    path.write_text(json.dumps(found))
    report(run)


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {}\n")
    page, problems = report(tmp_path)
    assert problems == []
    assert "No step has been logged" in page


def test_damaged_files_are_named_and_left_out(run):
    (run / "environment.json").write_text("{")
    (run / "recipe.json").write_text("[]")
    (run / "skipped_batches.json").write_text("{}")
    (run / "norms.jsonl").write_bytes(b"\xff\xfe\n")
    (run / "images/augmented_images_step_00000001.png").write_bytes(b"no image")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 13, "lo')
    page, problems = report(run)
    for name in ("environment.json", "recipe.json", "skipped_batches.json", "norms.jsonl", "metrics.jsonl"):
        assert sum(problem.startswith(name) for problem in problems) == 1, name
        assert name in Reader(page).text
    assert "The image is damaged." in page
    assert "metrics.jsonl: 1 of 13 lines are damaged" in page, "the torn last line is no damage"


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it holds neither .*; did you mean .*run\?"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="the page cannot be written"):
        write_report(run, run / "config.yaml/report.html", now=START)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=25)
@given(data=st.data())
def test_no_value_in_any_table_breaks_the_page(tmp_path_factory, table, data):
    run = make_run(tmp_path_factory.mktemp("any") / "run")
    rows = [json.loads(line) for line in (run / f"{table}.jsonl").read_text().splitlines()]
    keys = sorted({key for row in rows for key in row})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), JSON, min_size=1))
    number = data.draw(st.integers(0, len(rows) - 1))
    rows[number] |= changes
    write_rows(run / f"{table}.jsonl", rows)
    report(run)


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), 1e29, -1e29, 1e-300], ids=["huge", "-huge", "large", "-large", "small"]
)
@pytest.mark.parametrize("table", TABLES)
def test_no_size_of_a_number_breaks_the_page(run, table, value):
    path = run / f"{table}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for key in sorted({key for row in rows for key in row}):
        write_rows(path, [{**row, key: value} for row in rows])
        report(run)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on PATH")
def test_a_browser_reads_values_off_the_curves(run, tmp_path):
    report(run)
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(run / "report.html")
        loss = "document.querySelector('.chart')"
        assert browser.evaluate(f"{loss}.querySelector('h3').textContent") == "Training loss"
        assert browser.evaluate(f"{loss}.querySelectorAll('circle').length") == 11, "one step has no loss"
        legend = f"{loss}.querySelector('.legend').textContent"
        assert "0.6667" in browser.evaluate(legend), "the last"
        browser.evaluate(f"{loss}.scrollIntoView()")
        box = browser.evaluate(f"(({loss}).querySelector('svg').getBoundingClientRect().toJSON())")
        left, right, width = browser.evaluate(f"JSON.parse({loss}.querySelector('svg').dataset.curves).pixels")
        x = box["x"] + box["width"] * (left + (right - left) * 4 / 12) / width
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=box["y"] + box["height"] / 2)
        assert browser.evaluate(legend) == "step 4loss 2"
        other = "[...document.querySelectorAll('.chart')].find(c => c.textContent.startsWith('Throughput'))"
        assert "step 4" in browser.evaluate(f"{other}.querySelector('.legend').textContent"), "all charts follow"
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints == []
    finally:
        browser.close()
