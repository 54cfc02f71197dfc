"""Write the generated pages: settings, metrics and commands, from the code itself; `--check` fails when one is out of date."""

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from commands.shared import tables
from foundation.settings import documented
from review.metrics import ReviewMetrics
from stream.metrics import GateMetrics
from stream.rules import CHECKS, Rules
from trainer.metrics import TrainMetrics
from winnow import app

HERE = Path(__file__).parent
NOTE = "<!-- written by `make docs`; do not edit -->\n\n"


def settings_page() -> str:
    """Return every setting with type, default and meaning."""
    rows = "\n".join(f"| `{name}` | `{kind}` | `{default}` | {meaning} |" for name, kind, default, meaning in documented(tables()))
    return (
        f"# Settings\n\n{NOTE}Tables of `winnow.toml`; each can be given as `WINNOW_TABLE__KEY` in the environment, which wins.\n"
        f"Unknown names are refused with the nearest known one.\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{rows}\n"
    )


def metrics_page() -> str:
    """Return every metric of gate, review and trainer with its kind, labels and meaning."""
    gate = _metrics_table("Served at `/metrics` of every gate.", GateMetrics(Rules()))
    review = _metrics_table("Served at `/metrics` of the review service.", ReviewMetrics())
    trainer = _metrics_table("Served at `/metrics` of `winnow train --watch`.", TrainMetrics())
    return f"# Metrics\n\n{NOTE}{gate}\n{review}\n{trainer}"


_ENDINGS = {"counter": "_total", "info": "_info"}


def _metrics_table(where: str, metrics: object) -> str:
    """Return a table of the names that a scrape shows, labels with the values that are there from the start."""
    declared = {each._name: each._labelnames for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)}  # noqa: SLF001
    rows = []
    registry: CollectorRegistry = metrics.registry  # type: ignore[attr-defined]
    for family in sorted(registry.collect(), key=lambda family: family.name):
        seen: dict[str, set[str]] = {label: set() for label in declared.get(family.name, ())}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    seen.setdefault(label, set()).add(value)
        labels = [f"{label} ({', '.join(sorted(values))})" if values else label for label, values in sorted(seen.items())]
        name = f"{family.name}{_ENDINGS.get(family.type, '')}"
        rows.append(f"| `{name}` | {family.type} | {'; '.join(labels)} | {family.documentation} |")
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
