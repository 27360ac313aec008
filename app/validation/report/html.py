"""HTML that can't be wrong: elements are built, text is escaped, and the page is well-formed XML as well."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "col", "hr", "img", "meta"})
"""Elements without content."""

FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that a page must not have: neither HTML nor XML knows them."""


class Markup(str):
    """Finished HTML; every other string is text and gets escaped."""

    __slots__ = ()


Content = str | None


def element(tag: str, *children: Content, **attributes: str | None) -> Markup:
    """``element("p", "a < b", class_="note")``: children are text or :class:`Markup`, ``None`` is left out.

    Raises:
        ValueError: content in an element that has none.
    """
    given = ((name.rstrip("_").replace("_", "-"), v) for name, v in attributes.items() if v is not None)
    head = " ".join([tag, *(f'{name}="{escape(_allowed(value))}"' for name, value in given)])
    if tag in VOID:
        if children:
            raise ValueError(f"<{tag}> has no content")
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{joined(*children)}</{tag}>")


def joined(*parts: Content) -> Markup:
    """Parts one after the other."""
    return Markup("".join(as_markup(part) for part in parts if part is not None))


def as_markup(text: str) -> Markup:
    """Markup as it is, text escaped; characters that neither HTML nor XML has become a replacement sign."""
    if isinstance(text, Markup):
        return text
    return Markup(escape(_allowed(text), quote=False))


def table(
    caption: str, header: Iterable[Content], rows: Iterable[Iterable[Content]], kind: str = ""
) -> Markup:
    """A table whose first column names its rows."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = []
    for first, *others in rows:
        body.append(
            element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in others))
        )
    whole = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *body),
        class_=kind or None,
    )
    return element("div", whole, class_="wide")


def items(texts: Iterable[Content], kind: str = "") -> Markup:
    """A bulleted list."""
    return element("ul", *(element("li", text) for text in texts), class_=kind or None)


def figure(png: bytes, alt: str, caption: Content) -> Markup:
    """A picture inside the page, with what it shows in words for those who don't see it."""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return element("figure", element("img", src=source, alt=alt), element("figcaption", caption))


def section(identity: str, title: str, *content: Content) -> Markup:
    """A part of the page with a heading that can be linked to."""
    return element("section", element("h2", title, id=identity), *content, aria_labelledby=identity)


def folded(summary: str, *content: Content) -> Markup:
    """Content that opens on a click, and in print."""
    return element("details", element("summary", summary), *content)


def _allowed(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
