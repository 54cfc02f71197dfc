"""`winnow data convert|check|stats|split`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.shared import Config, result, settings_from, words_option

data_app = typer.Typer(no_args_is_help=True, help="Data sets for training: from one form to another, looked at, parted.")

Words = Annotated[str | None, typer.Option("--verdict-words", help="RIGHT,WRONG as the chats say it; default train.verdict_words.")]
Source = Annotated[str, typer.Argument(help=".json, .jsonl or .parquet file, a directory with train and test files, or hub:OWNER/NAME.")]
Form = Annotated[Literal["binary", "preference"], typer.Option("--form", help="How a row says its verdict.")]


@data_app.command("convert")
def data_convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="File to write: .json (one array), .jsonl or .parquet.")],
    form: Form = "preference",
    words: Words = None,
    config: Config = None,
) -> None:
    """Write a data set in another form, one entry in memory at a time; graded answers become pairs with margins."""
    settings = settings_from(config)
    from trainer.data import convert

    count = convert(source, out, form, _words(words, settings))
    result({"out": str(out), "form": form, "rows": count}, f"{count} rows written to {out}")


@data_app.command("check")
def data_check(
    source: Source,
    test: Annotated[str | None, typer.Option(help="Held-out data set; without it a hash of each record parts them.")] = None,
    base: Annotated[str | None, typer.Option(help="Starter, model directory or hub name whose maximum length counts.")] = None,
    words: Words = None,
    config: Config = None,
) -> None:
    """Say what is odd about a data set before anybody trains on it; exit 5 where training would be refused."""
    settings = settings_from(config)
    from foundation.errors import DataRefused
    from trainer.data import look

    said = _words(words, settings)
    fits = None
    if base is not None:
        from trainer.bases import encoder_of, load_base

        encoder = encoder_of(load_base(base), said, settings.train.max_length)
        fits = lambda texts: [ids is not None for ids in encoder.encode(texts)]  # noqa: E731
    checker, findings = look(source, said, test, settings.train.held_out_share, fits)
    for finding in findings:
        how = "error" if finding.is_error else "warning"
        result({"finding": finding.name, "severity": how, "sentence": finding.sentence}, f"{how}: {finding.name}: {finding.sentence}")
    counts = {"records": checker.records, "right": checker.records - checker.wrong, "wrong": checker.wrong, "distinct": checker.distinct}
    result({**counts, "findings": len(findings)}, f"{checker.records} records, {checker.wrong} wrong, {len(findings)} findings")
    refused = [finding.sentence for finding in findings if finding.is_error]
    if refused:
        raise DataRefused(refused[0])


@data_app.command("stats")
def data_stats(source: Source, words: Words = None, config: Config = None) -> None:
    """Print the figures of a data set: verdicts, different records, margins, fields, lengths."""
    settings = settings_from(config)
    from trainer.data import stats

    found = stats(source, _words(words, settings))
    shown = f"{found.records} records ({found.distinct} different): {found.right} right, {found.wrong} wrong; fields {found.fields}"
    result(found._asdict(), shown)


@data_app.command("split")
def data_split(
    source: Source,
    out: Annotated[Path, typer.Option(help="New directory for train, test and README.md, as Hugging Face `datasets` loads it.")],
    share: Annotated[float | None, typer.Option(min=0.001, max=0.999, help="Share of the test part; default train.held_out_share.")] = None,
    form: Form = "preference",
    kind: Annotated[Literal["jsonl", "json", "parquet"], typer.Option(help="Kind of files.")] = "jsonl",
    words: Words = None,
    config: Config = None,
) -> None:
    """Part a data set by a hash of each record, and write its data-set card."""
    settings = settings_from(config)
    from trainer.data import split

    counts = split(source, out, share or settings.train.held_out_share, form, f".{kind}", _words(words, settings))
    result({"out": str(out), **counts}, f"{out}: {counts['train']} to learn from, {counts['test']} held out")


def _words(given: str | None, settings: Any) -> tuple[str, str]:
    """Return the verdict words of an option or of the settings. Raises SettingInvalid."""
    from trainer.train import with_options

    words: tuple[str, str] = with_options(settings.train, {"verdict_words": words_option(given)}).verdict_words
    return words
