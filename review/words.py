"""The page's words, from one table per language."""

import tomllib
from functools import cache
from pathlib import Path

LANGUAGES = ("zh", "en")


@cache
def words_of(language: str) -> dict[str, str]:
    """Return the words of a language by name."""
    found: dict[str, str] = tomllib.loads((Path(__file__).parent / "strings" / f"{language}.toml").read_text(encoding="utf-8"))
    return found
