"""HTML that can't be wrong: elements are built, text is escaped, and the page is well-formed XML as well.

The report's look: one column to read, wide tables that scroll, and sheets of paper.
"""

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


STYLE = """
:root { color: #16202b; background: #ffffff; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
body { max-width: 76rem; margin: 0 auto; padding: 1rem 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.6rem; border-bottom: 2px solid #c9d1da; padding-bottom: 0.2rem; }
h3 { font-size: 1.1rem; margin: 1.4rem 0 0.4rem; }
p, li { max-width: 70rem; margin-top: 0.3rem; margin-bottom: 0.3rem; }
ul { margin: 0.3rem 0; padding-left: 1.2rem; }
a { color: #004f86; }
.simulated { background: #16202b; color: #ffffff; padding: 0.5rem 1rem; border-left: 1.2rem solid #e69f00; }
.simulated strong { display: block; font-size: 3rem; line-height: 1.1; letter-spacing: 0.12em; }
.says { background: #eaf2f8; border-left: 0.4rem solid #0072b2; padding: 0.4rem 1rem; }
.limits { background: #fdf3e1; border-left: 0.4rem solid #e69f00; padding: 0.4rem 1rem; }
.says h3, .limits h3 { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding-bottom: 0.3rem; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.7rem 0.2rem 0; line-height: 1.35; }
th, td { border-bottom: 1px solid #dfe4ea; }
thead th { border-bottom: 2px solid #4c5866; vertical-align: bottom; }
tbody th { font-weight: 600; }
table.patients { font-size: 0.75rem; }
table.comparison td { white-space: nowrap; }
table.comparison td:last-child { white-space: normal; }
.main { display: block; white-space: nowrap; }
.detail { display: block; font-size: 0.8rem; color: #4c5866; white-space: nowrap; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #4c5866; max-width: 70rem; }
pre { background: #f3f5f7; padding: 0.7rem; overflow-x: auto; font-size: 0.85rem; white-space: pre-wrap; }
summary { cursor: pointer; padding: 0.3rem 0; }
footer { margin-top: 3rem; color: #4c5866; font-size: 0.85rem; }
@media print {
  :root { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  .simulated, .says, .limits { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  table.patients { font-size: 5.5pt; }
  th, td { padding-right: 0.3rem; }
  tr, figure { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  details::details-content { content-visibility: visible; }
  nav { display: none; }
  @page { size: A4 landscape; margin: 12mm; }
}
"""
