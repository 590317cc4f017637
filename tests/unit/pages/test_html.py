"""What all pages rest on: strangers' texts are escaped once, our own parts are not, a forgotten value raises."""

from __future__ import annotations

import base64
import hashlib
import importlib
import pkgutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import Environment, UndefinedError, nodes
from markupsafe import Markup

import hornet.pages
from hornet.pages.html import render, render_numbers, render_table, write_page

EVIL = "<script>alert(1)</script>\"'&"

TEMPLATES = {
    f"{module.name}.{name}": value
    for module in pkgutil.walk_packages(hornet.pages.__path__, "hornet.pages.")
    for name, value in vars(importlib.import_module(module.name)).items()
    if isinstance(value, str) and ("{{" in value or "{%" in value)
}


class Reader(HTMLParser):
    """Tags, attributes and text as a browser would understand them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text[self.tags[-1]] = self.text.get(self.tags[-1], "") + data


def test_a_plain_text_is_escaped_and_what_was_rendered_is_not() -> None:
    inner = render('<b title="{{ text }}">{{ text }}</b>', text=EVIL)
    page = Reader(
        render("<p>{{ inner }}</p>{% for text in texts %}<i>{{ text }}</i>{% endfor %}", inner=inner, texts=[EVIL])
    )
    assert page.tags == ["p", "b", "i"]
    assert page.attributes == [("title", EVIL)]
    assert page.text == {"b": EVIL, "i": EVIL}


def test_tables_and_numbers_escape_their_texts() -> None:
    for part in (render_table([EVIL, EVIL], [[EVIL, EVIL]]), render_numbers([(EVIL, EVIL)])):
        assert isinstance(part, Markup)
        assert "script" not in Reader(part).tags
        assert part.count("&lt;script&gt;") in (2, 4)


def test_templates_are_found() -> None:
    assert len(TEMPLATES) > 20


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_turns_escaping_off(name: str) -> None:
    """Every value of it passes through the escaping above: neither the filter `safe` nor a block without escaping."""
    tree = Environment().parse(TEMPLATES[name])
    assert {found.name for found in tree.find_all(nodes.Filter)} <= {"length"}
    assert not list(tree.find_all((nodes.MarkSafe, nodes.MarkSafeIfAutoescape, nodes.ScopedEvalContextModifier)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_that_is_not_given_raises(name: str) -> None:
    with pytest.raises(UndefinedError, match="is undefined"):
        render(TEMPLATES[name])


def test_a_field_that_is_not_there_raises() -> None:
    with pytest.raises(UndefinedError, match="has no attribute 'sise'"):
        render("{{ path.sise }}", path=Path("a"))


@pytest.mark.parametrize("value", ["a\udcff<", Path("a\udcff<")])
def test_text_that_cannot_be_encoded_is_replaced(value: str | Path) -> None:
    assert render('<i title="{{ value }}">{{ value }}</i>', value=value) == '<i title="a?&lt;">a?&lt;</i>'


def test_the_title_is_escaped_once_and_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    script = "if (1 < 2 && '3' > \"2\") {}"
    path = tmp_path / "page.html"
    write_page(path, title=EVIL, body=render("<p>{{ text }}</p>", text=EVIL), style="p > a { }", script=script)
    page = Reader(path.read_text())
    assert page.text["title"] == page.text["p"] == EVIL
    assert page.tags.count("script") == 1
    assert page.text["script"] == script
    assert page.text["style"].endswith("p > a { }")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", f"{policy}; script-src 'sha256-{digest}'") in page.attributes
    write_page(path, title="t", body=Markup(""))
    page = Reader(path.read_text())
    assert ("content", policy) in page.attributes
    assert "script" not in page.tags
