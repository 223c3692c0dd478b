"""HTML and SVG by nested calls. Text is escaped, whoever wrote it."""

from html import escape


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """``<name attributes>children</name>``. Of an attribute's name, ``_`` stands for ``-``, and one
    at the end for nothing (``class_``)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Children one after the other, those that are only text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children))
