"""Every winnow command that a page or a runbook prints can be typed as it stands: verbs, options and what they need."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from winnow import app

UsageError = typer.BadParameter.__mro__[1]  # typer has a click of its own
ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy" / "runbooks").glob("*.md"),
                ROOT / "deploy" / "helm" / "winnow" / "templates" / "NOTES.txt"])  # fmt: skip
GENERATED = {"commands.md", "settings.md", "metrics.md"}


def printed(text: str) -> list[str]:
    """Return the winnow commands of code spans and blocks, less comments, redirections and what only names a verb's family."""
    spans = re.findall(r"`(winnow [^`\n]+)`", text)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.replace("\\\n", " ").splitlines()]
    lines += [line.strip() for line in text.splitlines() if "-- winnow " in line]
    parts = [part for line in lines for part in re.split(r"&&|\|(?=\s)|\s&$", line.split("  #")[0].split(" #")[0])]
    asked = [
        found.group(0) for part in parts if (found := re.search(r"\bwinnow [a-z].*", part)) and "docker" not in part.split("winnow ")[0]
    ]
    return [each.split(" > ")[0].strip().removesuffix(" &") for each in [*spans, *asked] if not re.search(r"[|…]|\{\{|\.\.\.", each)]


def parse(words: list[str]) -> None:
    """Read the words as the command line would, without doing anything. Raises UsageError."""
    command: Any = get_command(app)
    name = words.pop(0)
    while hasattr(command, "commands"):
        if not words:
            return  # a family's name
        name = words.pop(0)
        if name not in command.commands:
            raise UsageError(f"there is no {name}")
        command = command.commands[name]
    if not words and any(parameter.required for parameter in command.params):
        return  # a verb that is spoken of
    command.make_context(name, words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name)
def test_what_is_printed_can_be_typed(page: Path) -> None:
    for command in printed(page.read_text()):
        try:
            parse(shlex.split(command))
        except UsageError as error:
            pytest.fail(f"{page.name}: `{command}`: {error}")
        except typer.Exit:
            pass


def test_enough_is_found_and_what_is_wrong_is_refused() -> None:
    assert sum(len(printed(page.read_text())) for page in PAGES) > 60
    for wrong in ("winnow starter --from topic:a", "winnow replay --sinse 2026-01-01", "winnow nothing"):
        with pytest.raises(UsageError):
            parse(wrong.split())
