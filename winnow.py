"""The front door: one command, its verbs loaded only when they are called.

Every verb reads the same settings; stdout carries results, stderr progress and logs; exit codes are those of
foundation/errors.py.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foundation import logs
from foundation.errors import WinnowError
from foundation.settings import Table, as_toml, documented, load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A streaming data-quality gate that learns from its reviewers.",
)
registry_app = typer.Typer(no_args_is_help=True, help="Versions of the model and the aliases that point at them.")
config_app = typer.Typer(no_args_is_help=True, help="Show and check the settings in force.")
app.add_typer(registry_app, name="registry")
app.add_typer(config_app, name="config")
data_app = typer.Typer(no_args_is_help=True, help="Data sets for training: from one form to another, looked at, parted.")
app.add_typer(data_app, name="data")

Config = Annotated[Path | None, typer.Option("--config", help="Settings file; default ./winnow.toml if there is one.")]
Words = Annotated[str | None, typer.Option("--verdict-words", help="RIGHT,WRONG as the chats say it; default train.verdict_words.")]
Source = Annotated[str, typer.Argument(help=".json, .jsonl or .parquet file, a directory with train and test files, or hub:OWNER/NAME.")]
Form = Annotated[Literal["binary", "preference"], typer.Option("--form", help="How a row says its verdict.")]
Reference = Annotated[str, typer.Argument(help="Version number, name@number or alias.")]


def tables() -> dict[str, type[Table]]:
    """Return every settings table of every package, by its name in winnow.toml."""
    from model_registry.config import RegistrySettings
    from review.config import ReviewSettings
    from stream.config import GateSettings, KafkaSettings, TopicSettings
    from trainer.config import TrainSettings

    return {
        "kafka": KafkaSettings, "topics": TopicSettings, "gate": GateSettings, "registry": RegistrySettings,
        "train": TrainSettings, "review": ReviewSettings,
    }  # fmt: skip


def settings_from(config: Path | None) -> Any:
    """Return the settings in force, one attribute per table. Raises SettingInvalid."""
    from types import SimpleNamespace

    return SimpleNamespace(**load(config, tables(), os.environ))


@app.command()
def gate(
    config: Config = None,
    until_idle: Annotated[float | None, typer.Option(min=0, help="Exit 0 once the whole group has been idle this many seconds.")] = None,
) -> None:
    """Judge the records topic until told to stop."""
    settings = settings_from(config)
    from stream.boot import run_gate

    run_gate(settings.kafka, settings.topics, settings.gate, settings.registry, until_idle)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="Records: .jsonl .json .csv .parquet .txt, or - for lines on stdin.", allow_dash=True)],
    model: Annotated[str | None, typer.Option(help="Version or alias; default gate.model.")] = None,
    no_rules: Annotated[bool, typer.Option("--no-rules", help="Ask the model about every readable record.")] = False,
    config: Config = None,
) -> None:
    """Judge a file without Kafka; one JSON line a record, a table on a terminal."""
    settings = settings_from(config)
    from stream.score_file import score_file

    score_file(file, settings.gate, settings.registry, model, use_rules=not no_rules)


@app.command()
def topics(
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of the records topic if it is made now (default 4).")] = None,
    config: Config = None,
) -> None:
    """Make the topics that are missing; say where existing ones differ."""
    settings = settings_from(config)
    from stream.cluster import make_topics

    for report in make_topics(settings.kafka, settings.topics, partitions):
        _result(report._asdict(), f"{report.topic}: {'made' if report.created else 'there'}, {report.partitions} partitions")
        for difference in report.differences:
            typer.echo(f"warning: {report.topic}: {difference}", err=True)


@app.command()
def produce(
    topic: Annotated[str, typer.Option(help="Topic to write to.")],
    file: Annotated[Path | None, typer.Argument(help="Records: .jsonl .json .csv .parquet .txt, or - for stdin.", allow_dash=True)] = None,
    twins: Annotated[int | None, typer.Option(min=1, help="Write this many generated twins instead of a file.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Records per second at most.")] = None,
    key: Annotated[str | None, typer.Option(help="Field of JSON records whose value becomes the key.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the generated twins.")] = 0,
    config: Config = None,
) -> None:
    """Send records to a topic, with a progress bar."""
    settings = settings_from(config)
    from demo.produce import produce_file

    sent = produce_file(settings.kafka, topic, file, twins, rate, key, seed)
    _result({"topic": topic, "records": sent}, f"{sent} records written to {topic}")


@app.command()
def broker(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 9092,
    directory: Annotated[Path | None, typer.Option("--dir", help="Keep data here; default a directory removed at the end.")] = None,
) -> None:
    """Run a real Apache Kafka on this machine until stopped."""
    from demo.broker import serve

    serve(port, directory)


@app.command()
def starter(
    source: Annotated[str, typer.Option("--from", help="FILE or topic:NAME of unlabelled records.")],
    out: Annotated[Path, typer.Option(help="Directory to write lm/ and reward/ to.")],
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Train about this long (default 3).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train exactly this many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed; same seed, steps, threads and machine give the same digest.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Most records to learn from.")] = 50_000,
    config: Config = None,
) -> None:
    """Train a small model from scratch on unlabelled records."""
    settings = settings_from(config)
    from trainer.make_starter import make_starter

    made = make_starter(settings, source, out, minutes, steps, seed, limit)
    _result(made, f"{out}: {made['steps']} steps on {made['records']} records, {made['digest']}")


@app.command()
def train(
    base: Annotated[str | None, typer.Option(help="Starter directory, local model directory or hub name; default train.base.")] = None,
    cycle: Annotated[bool, typer.Option("--cycle", help="Train once on the verdict topic, publish, promote what is not worse.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Run a cycle whenever enough new verdicts have come, until stopped.")] = False,
    data: Annotated[str | None, typer.Option(help="Labelled FILE or hub:OWNER/NAME; without it the base's own head is published.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="FILE or topic:NAME for contrastive pairs; default the starter's own.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train a LoRA and the head, not all weights.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    epochs: Annotated[float | None, typer.Option(min=0)] = None,
    accumulation: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    max_length: Annotated[int | None, typer.Option(min=16)] = None,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    eval_steps: Annotated[int | None, typer.Option(min=0)] = None,
    center_rewards: Annotated[float | None, typer.Option(min=0)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    verdict_words: Annotated[str | None, typer.Option(help="RIGHT,WRONG as the assistant says it.")] = None,
    config: Config = None,
) -> None:
    """Train a reward model with TRL, evaluate it on held-out records, and publish it as a new version."""
    settings = settings_from(config)
    from foundation.errors import SettingInvalid
    from trainer.train import train_and_publish, with_options

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingInvalid(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']}: set train.processes to that and leave torchrun out, it is started here"
        )
    options = {
        "method": "lora" if lora else None, "batch_size": batch_size, "epochs": epochs, "accumulation": accumulation,
        "learning_rate": learning_rate, "max_length": max_length, "gradient_checkpointing": gradient_checkpointing or None,
        "eval_steps": eval_steps, "center_rewards": center_rewards, "seed": seed,
        "verdict_words": None if verdict_words is None else tuple(verdict_words.split(",")),
    }  # fmt: skip
    chosen = with_options(settings.train, options)
    if cycle or watch:
        if data is not None:
            raise typer.BadParameter("a cycle trains on the verdict topic; leave out --data, or --cycle and --watch", param_hint="--data")
        from trainer.cycle import as_fields, run_cycle
        from trainer.cycle import watch as watch_verdicts

        if watch:
            watch_verdicts(settings, chosen, base, unlabelled)
        done = run_cycle(settings, chosen, base, unlabelled)
        is_better = "promoted" if done.promotion.promoted else "challenger"
        _result(as_fields(done), f"{done.version.label} {is_better}: {done.promotion.why}")
        return
    start = base or chosen.base
    if start is None:
        raise typer.BadParameter("give --base, or set train.base", param_hint="--base")
    version = train_and_publish(settings, chosen, start, data, unlabelled)
    _result(_shown(version), f"{version.label} published, {version.digest}")


@app.command()
def review(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Drop the store and read it again from the topics.")] = False,
    config: Config = None,
) -> None:
    """Serve the page where people answer, until told to stop."""
    settings = settings_from(config)
    from review.serve import serve

    serve(settings, rebuild=rebuild)


@app.command()
def user(
    name: Annotated[str, typer.Argument(help="Name to log in with.")],
    role: Annotated[list[str] | None, typer.Option(help="reviewer, lead or operator; may be given more than once.")] = None,
    config: Config = None,
) -> None:
    """Add a user to review.users_file, or give one a new password; it is asked for, or read from stdin."""
    settings = settings_from(config)
    from foundation.errors import SettingInvalid
    from review.auth import add_user

    if settings.review.users_file is None:
        raise SettingInvalid("review.users_file is unset; it names the file that users are written to")
    is_terminal = sys.stdin.isatty()
    password = typer.prompt("password", hide_input=True, confirmation_prompt=True) if is_terminal else sys.stdin.readline().rstrip("\n")
    add_user(settings.review.users_file, name, password, tuple(role or ["reviewer"]))
    _result({"user": name, "file": str(settings.review.users_file)}, f"{name} written to {settings.review.users_file}")


@app.command()
def explain(
    decision_id: Annotated[str, typer.Argument(help="topic:partition:offset of the input, as headers and page show it.")],
    config: Config = None,
) -> None:
    """Tell one record's way from the topics: route, reason, rewards, model, verdicts, releases; one JSON line each."""
    settings = settings_from(config)
    from foundation.errors import DataRefused
    from stream.trace import trace

    found = trace(settings.kafka, settings.topics, decision_id)
    if not found:
        raise DataRefused(f"no topic holds anything about {decision_id}")
    for each in found:
        typer.echo(json.dumps(each, ensure_ascii=False))


@app.command()
def erase(
    key: Annotated[str | None, typer.Option(help="Key of the records, as producers write it.")] = None,
    key_base64: Annotated[str | None, typer.Option(help="The same for keys that are no text.")] = None,
    starter: Annotated[list[Path] | None, typer.Option(help="Starter whose unlabelled records are searched; default train.base.")] = None,
    config: Config = None,
) -> None:
    """Erase a key's records from the review store and from starters, and say what Kafka still keeps."""
    settings = settings_from(config)
    raw = _key_of(key, key_base64)
    from review.store import opened
    from stream.trace import of_key
    from trainer.starter_files import erase_from_starters, starters_of

    kept, values = of_key(settings.kafka, settings.topics, raw)
    with opened(settings.review.database_url, settings.review.second_share) as store:
        # the store last: without it nobody knows any more what to look for
        forgotten = erase_from_starters(starter or starters_of(settings.train.base), values | store.values_of(raw))
        gone = store.erase(raw)
    told = ", ".join(f"{topic} {count}" for topic, count in kept.items() if count) or "nothing"
    said = f"{gone} records erased from the review store, {sum(forgotten.values())} from starters; Kafka still keeps: {told}"
    shown = {"key": key} if key is not None else {"key_base64": key_base64}
    _result({**shown, "erased": gone, "erased_from_starters": forgotten, "kept_by_kafka": kept}, said)


@data_app.command("convert")
def data_convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="File to write: .json (one array), .jsonl or .parquet.")],
    form: Form = "preference",
    words: Words = None,
    config: Config = None,
) -> None:
    """Write a data set in another form, one entry in memory at a time; graded answers become pairs with margins."""
    from trainer.data import convert

    count = convert(source, out, form, _words(words, config))
    _result({"out": str(out), "form": form, "rows": count}, f"{count} rows written to {out}")


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

    fits = None
    if base is not None:
        from trainer.bases import reader_of

        fits = reader_of(base, _words(words, config), settings.train.max_length)
    checker, findings = look(source, _words(words, config), test, settings.train.held_out_share, fits)
    for finding in findings:
        how = "error" if finding.is_error else "warning"
        _result({"finding": finding.name, "severity": how, "sentence": finding.sentence}, f"{how}: {finding.name}: {finding.sentence}")
    counts = {"records": checker.records, "right": checker.records - checker.wrong, "wrong": checker.wrong, "distinct": checker.distinct}
    _result({**counts, "findings": len(findings)}, f"{checker.records} records, {checker.wrong} wrong, {len(findings)} findings")
    refused = [finding.sentence for finding in findings if finding.is_error]
    if refused:
        raise DataRefused(refused[0])


@data_app.command("stats")
def data_stats(source: Source, words: Words = None, config: Config = None) -> None:
    """Print the figures of a data set: verdicts, different records, margins, fields, lengths."""
    from trainer.data import stats

    found = stats(source, _words(words, config))
    shown = f"{found.records} records ({found.distinct} different): {found.right} right, {found.wrong} wrong; fields {found.fields}"
    _result(found._asdict(), shown)


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

    counts = split(source, out, share or settings.train.held_out_share, form, f".{kind}", _words(words, config))
    _result({"out": str(out), **counts}, f"{out}: {counts['train']} to learn from, {counts['test']} held out")


@registry_app.command("list")
def registry_list(config: Config = None) -> None:
    """List the versions, oldest first, with the aliases that point at them."""
    registry = _registry(config)
    aliases = registry.aliases()
    if not registry.versions():
        typer.echo(f"no versions in registry.url = {registry.place}; `winnow train` publishes one", err=True)
    for number in registry.versions():
        version = registry.resolve(str(number))
        named = [alias for alias, at in aliases.items() if at == number]
        _result({**_shown(version), "aliases": named}, f"{version.label}  {version.manifest.method}  {', '.join(named)}")


@registry_app.command("show")
def registry_show(reference: Reference, config: Config = None) -> None:
    """Print the manifest of a version."""
    version = _registry(config).resolve(reference)
    typer.echo(
        json.dumps({"version": version.label, "digest": version.digest, **version.manifest.model_dump(mode="json")}, ensure_ascii=False)
    )


@registry_app.command("verify")
def registry_verify(reference: Reference, config: Config = None) -> None:
    """Check the digest of every file, load the model and compare its fingerprint."""
    settings = settings_from(config)
    from model_registry.registry import Registry

    version = Registry(settings.registry).verified(reference)
    from stream.live_model import load_live_model

    model = load_live_model(version, settings.gate)
    _result({"version": model.label, "digest": model.digest, "verified": True}, f"{model.label}: files and fingerprint hold")


@registry_app.command("promote")
def registry_promote(reference: Reference, config: Config = None) -> None:
    """Make a version the champion."""
    version = _registry(config).promote(reference)
    _result(_shown(version), f"{version.label} is champion")


@registry_app.command("rollback")
def registry_rollback(config: Config = None) -> None:
    """Make the previous champion the champion again and pin it."""
    version = _registry(config).rollback()
    _result(_shown(version), f"{version.label} is champion again, and pinned")


@registry_app.command("unpin")
def registry_unpin(config: Config = None) -> None:
    """Let training promote again after a rollback."""
    _registry(config).unpin()


@registry_app.command("import")
def registry_import(
    directory: Annotated[Path, typer.Argument(help="One-output checkpoint made by TRL's own script.")],
    template: Annotated[str, typer.Option(help="How it was trained: chat, or joined (two contents with a space).")] = "chat",
    verdict_words: Annotated[str | None, typer.Option(help="RIGHT,WRONG as the assistant says it.")] = None,
    config: Config = None,
) -> None:
    """Adopt a reward model that was trained elsewhere as a new version."""
    settings = settings_from(config)
    from trainer.train import import_checkpoint, with_options

    words = {"verdict_words": None if verdict_words is None else tuple(verdict_words.split(","))}
    version = import_checkpoint(settings, with_options(settings.train, words), directory, template)
    _result(_shown(version), f"{version.label} imported, {version.digest}")


@registry_app.command("export")
def registry_export(reference: Reference, directory: Path, config: Config = None) -> None:
    """Copy a verified version to a new directory."""
    version = _registry(config).export(reference, directory)
    _result({**_shown(version), "directory": str(directory)}, f"{version.label} written to {directory}")


@config_app.command("show")
def config_show(config: Config = None) -> None:
    """Print the settings in force as TOML."""
    typer.echo(as_toml(vars(settings_from(config))))


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Exit 0 if every setting, and every file that one names, can be used, else say which cannot."""
    settings = settings_from(config)
    from model_registry.registry import Registry
    from review.auth import check_bind, load_users
    from stream.rules import Rules

    Rules.load(settings.gate.rules_file)
    check_bind(settings.review, load_users(settings.review.users_file))
    Registry(settings.registry)


@config_app.command("schema")
def config_schema() -> None:
    """Print every setting with its type, default and meaning as JSON."""
    names = ("setting", "type", "default", "meaning")
    typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in documented(tables())], ensure_ascii=False, indent=1))


@app.command()
def demo(
    records: Annotated[int | None, typer.Option(min=500, help="Length of the stream.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards and print the addresses.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of stream and training.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=5, help="How often people answer and a better model is taken up.")] = 1,
) -> None:
    """Show the whole of winnow on a generated stream and a real Kafka; the last line is a JSON object."""
    from demo.run import run_demo

    run_demo(records, keep=keep, seed=seed, rounds=rounds)


def _key_of(key: str | None, key_base64: str | None) -> bytes:
    """Return the key's bytes from one of two options."""
    if (key is None) == (key_base64 is None):
        raise typer.BadParameter("give --key or --key-base64, one of them", param_hint="--key")
    try:
        return key.encode() if key is not None else base64.b64decode(str(key_base64), validate=True)
    except ValueError as error:
        raise typer.BadParameter(f"{key_base64} is not base64: {error}", param_hint="--key-base64") from error


def _words(given: str | None, config: Path | None) -> tuple[str, str]:
    """Return the verdict words of an option or of the settings. Raises SettingInvalid."""
    settings = settings_from(config)
    from trainer.train import with_options

    options = {"verdict_words": None if given is None else tuple(given.split(","))}
    words: tuple[str, str] = with_options(settings.train, options).verdict_words
    return words


def _registry(config: Path | None) -> Any:
    from model_registry.registry import Registry

    return Registry(settings_from(config).registry)


def _shown(version: Any) -> dict[str, object]:
    manifest = version.manifest
    return {
        "version": version.label, "digest": version.digest, "method": manifest.method, "created": manifest.created,
        "threshold": manifest.threshold.p_chosen, "certified": manifest.threshold.certified, "reason": manifest.threshold.reason,
        "metrics": manifest.metrics,
    }  # fmt: skip


def _result(fields: dict[str, object], sentence: str) -> None:
    """Print a result: a sentence on a terminal, one JSON line elsewhere."""
    typer.echo(sentence if sys.stdout.isatty() else json.dumps(fields, ensure_ascii=False))


def main() -> None:
    """Run the command line; errors of ours become one sentence and their exit code."""
    logs.set_up()
    logs.quiet_libraries()
    try:
        app()
    except WinnowError as error:
        typer.echo(f"winnow: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
