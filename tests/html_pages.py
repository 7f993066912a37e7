"""What a report's page must hold, whichever command wrote it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements in order, their text, and an error for tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def read_page(path: Path) -> Page:
    """A page that is whole, holds all it shows, and can be read by anyone."""
    page, source = Page(path), path.read_text(encoding="utf-8")
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/")), (key, attributes[key])
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    assert "prefers-color-scheme: dark" in source and page.named("html") == [{"lang": "en"}]
    assert all(each.get("alt") for each in page.named("img"))
    assert all(each.get("aria-label") and each.get("role") == "img" for each in page.named("svg"))
    return page
