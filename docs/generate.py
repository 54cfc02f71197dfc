"""Write the generated pages: settings, metrics and commands, from the code itself; `--check` fails when one is out of date."""

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from typer.main import get_command

from foundation.settings import documented
from review.metrics import ReviewMetrics
from stream.metrics import GateMetrics
from stream.rules import CHECKS, Rules
from winnow import app, tables

HERE = Path(__file__).parent
NOTE = "<!-- written by `make docs`; do not edit -->\n\n"


def settings_page() -> str:
    """Return every setting with type, default and meaning."""
    rows = "\n".join(
        f"| `{name}` | `{kind.replace('|', 'or')}` | `{default}` | {meaning} |" for name, kind, default, meaning in documented(tables())
    )
    return (
        f"# Settings\n\n{NOTE}Tables of `winnow.toml`; each can be given as `WINNOW_TABLE__KEY` in the environment, which wins.\n"
        f"Unknown names are refused with the nearest known one.\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{rows}\n"
    )


def metrics_page() -> str:
    """Return every metric of gate and review with its kind, labels and meaning."""
    gate = _metrics_table("Served at `/metrics` of every gate.", GateMetrics(Rules()).registry)
    review = _metrics_table("Served at `/metrics` of the review service.", ReviewMetrics().registry)
    return f"# Metrics\n\n{NOTE}{gate}\n{review}"


def _metrics_table(where: str, registry: CollectorRegistry) -> str:
    rows = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        rows.append(f"| `{family.name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return f"{where}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def commands_page() -> str:
    """Return every verb with its options."""
    root = get_command(app)
    parts = [f"# Commands\n\n{NOTE}Exit codes: 0 done, 1 a bug, 2 usage or setting, 3 Kafka, 4 model or registry, 5 data.\n"]
    for name, command in _leaves("winnow", root):
        options = [f"- `{' '.join(p.opts) or p.name}` {getattr(p, 'help', '') or ''}".rstrip() for p in command.params if p.name != "help"]
        parts.append(f"## `{name}`\n\n{command.help or ''}\n\n" + "\n".join(options) + "\n")
    checks = "\n".join(f"- `{name}`: fails when the value {complaint}" for name, (_, complaint) in CHECKS.items())
    parts.append(f"## Named checks of a rules file\n\n{checks}\n")
    return "\n".join(parts)


def _leaves(name: str, command: object) -> list[tuple[str, object]]:
    children = getattr(command, "commands", None)
    if not children:
        return [(name, command)]
    return [leaf for child_name, child in sorted(children.items()) for leaf in _leaves(f"{name} {child_name}", child)]


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page, "commands.md": commands_page}


def main() -> None:
    """Write the pages, or with --check say which differ."""
    stale = [name for name, page in PAGES.items() if not (HERE / name).is_file() or (HERE / name).read_text() != page()]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"out of date: {', '.join(f'docs/{name}' for name in stale)}; run `make docs`")
        return
    for name, page in PAGES.items():
        (HERE / name).write_text(page())


if __name__ == "__main__":
    main()
