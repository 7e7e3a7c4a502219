"""Markup that cannot be broken by data: whatever is not `Html` already is escaped.

It knows nothing of what it shows, and writes no script and no address of another site.
"""

from __future__ import annotations

import html
import unicodedata
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_SHOWN = 60
"""Characters of one value of the data that are shown."""

_VOID = frozenset({"meta", "link", "br", "hr"})


class Html(str):
    """Markup that was made here: put into other markup as it is."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element with its children; texts that are not Html are escaped.

    Attributes are written as Python can: `class_` is class, `aria_label` is aria-label. One that is
    None or False is left out, True stands without a value.
    """
    written = "".join(
        _attribute(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after the other, without an element around them."""
    return Html("".join(_markup(child) for child in children))


def shown(text: str, *, longest: int = LONGEST_SHOWN) -> str:
    """A value of the data as it can be read: cut where it is long, controls made visible.

    What has no letter of its own, or would turn the writing round, stands as its code point.
    """
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(
        f"⟨{ord(one):04X}⟩" if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Cn") else one
        for one in cut
    )


def datum(text: str) -> Html:
    """A value of the data, set apart from the sentence around it."""
    if not text.strip():
        return element("span", "blank text" if text else "empty text", class_="soft")
    return element("bdi", shown(text))


def _attribute(name: str, value: str | float | bool) -> str:
    return f" {name}" if value is True else f' {name}="{html.escape(_plain(value))}"'


def _plain(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return _writable(str(value))


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(_writable(child), quote=False)
    return "".join(_markup(one) for one in child)


def _writable(text: str) -> str:
    """Without what no HTML may hold: NUL, other controls, halves of a character."""
    return "".join(
        "\ufffd" if unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t" else one
        for one in text
    )
