"""Text of records on a terminal: nothing in it may move the cursor, colour the screen or turn the line round."""

from rich.text import Text


def as_shown(text: str) -> Text:
    """Return a text for rich with no markup read in it and every character that cannot be seen written as its escape."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text))
