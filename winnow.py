"""The front door: one command, its verbs loaded only when they are called; those of `data`, `registry` and `config` are in commands/.

Every verb reads the same settings; stdout carries results, stderr progress and logs; exit codes are those of
foundation/errors.py.
"""

import base64
import json
import os
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.config import config_app
from commands.data import data_app
from commands.registry import registry_app
from commands.shared import Config, result, settings_from, shown, words_option
from foundation import logs
from foundation.errors import WinnowError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A streaming data-quality gate that learns from its reviewers.",
)
app.add_typer(registry_app, name="registry")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


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
def serve(config: Config = None) -> None:
    """Judge records and pay policies in training over HTTP, until told to stop."""
    settings = settings_from(config)
    from stream.serve import serve

    serve(settings)


@app.command()
def topics(
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of the records topic if it is made now (default 4).")] = None,
    config: Config = None,
) -> None:
    """Make the topics that are missing; say where existing ones differ."""
    settings = settings_from(config)
    from stream.cluster import make_topics

    for report in make_topics(settings.kafka, settings.topics, partitions):
        result(report._asdict(), f"{report.topic}: {'made' if report.created else 'there'}, {report.partitions} partitions")
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
    result({"topic": topic, "records": sent}, f"{sent} records written to {topic}")


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
    result(made, f"{out}: {made['steps']} steps on {made['records']} records, {made['digest']}")


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
        "verdict_words": words_option(verdict_words),
    }  # fmt: skip
    chosen = with_options(settings.train, options)
    if cycle or watch:
        if data is not None:
            raise typer.BadParameter("a cycle trains on the verdict topic; leave out --data, or --cycle and --watch", param_hint="--data")
        from trainer.cycle import as_fields, run_cycle
        from trainer.watch import watch as watch_verdicts

        if watch:
            watch_verdicts(settings, chosen, base, unlabelled)
        done = run_cycle(settings, chosen, base, unlabelled)
        is_better = "promoted" if done.promotion.promoted else "challenger"
        result(as_fields(done), f"{done.version.label} {is_better}: {done.promotion.why}")
        return
    start = base or chosen.base
    if start is None:
        raise typer.BadParameter("give --base, or set train.base", param_hint="--base")
    version = train_and_publish(settings, chosen, start, data, unlabelled)
    result(shown(version), f"{version.label} published, {version.digest}")


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
    role: Annotated[
        list[str] | None, typer.Option(help="reviewer (of a new user, if none is given), lead, operator; may be repeated.")
    ] = None,
    config: Config = None,
) -> None:
    """Add a user to review.users_file, or give one a new password and leave the roles; the password is asked for, or read from stdin."""
    settings = settings_from(config)
    from foundation.errors import SettingInvalid
    from review.auth import add_user

    if settings.review.users_file is None:
        raise SettingInvalid("review.users_file is unset; it names the file that users are written to")
    is_terminal = sys.stdin.isatty()
    password = typer.prompt("password", hide_input=True, confirmation_prompt=True) if is_terminal else sys.stdin.readline().rstrip("\n")
    add_user(settings.review.users_file, name, password, tuple(role or ()))
    result({"user": name, "file": str(settings.review.users_file)}, f"{name} written to {settings.review.users_file}")


@app.command()
def replay(
    source: Annotated[Literal["quarantine", "dead-letter"], typer.Option("--from", help="Where the records lie.")] = "quarantine",
    since: Annotated[datetime | None, typer.Option(help="Records whose timestamp is not before this time, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Records whose timestamp is before this time, UTC.")] = None,
    reason: Annotated[list[str] | None, typer.Option(help="Only with this reason; may be given more than once.")] = None,
    held_by: Annotated[str | None, typer.Option(help="Only held by this version, NAME@NUMBER.")] = None,
    p_from: Annotated[float, typer.Option(min=0, max=1, help="Only with p_chosen from here.")] = 0.0,
    p_to: Annotated[float, typer.Option(min=0, max=1, help="Only with p_chosen up to here.")] = 1.0,
    most_attempts: Annotated[int, typer.Option(min=2, help="Leave alone what has been judged so often.")] = 5,
    transform: Annotated[str | None, typer.Option(help="MODULE:FUNCTION that mends a value (bytes); None leaves the record alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    config: Config = None,
) -> None:
    """Judge held records again by the model and the rules of now, and let go what passes. Stop `winnow review` meanwhile."""
    settings = settings_from(config)
    from stream.replay import Wanted
    from stream.replay import replay as replay_held

    begin, end = (None if time is None else time.replace(tzinfo=UTC) for time in (since, until))
    wanted = Wanted(source, begin, end, tuple(reason or ()), held_by, p_from, p_to, most_attempts)
    done = replay_held(settings, wanted, transform=transform, dry_run=dry_run)
    to = f"{done['clean']} to clean, {done['quarantine']} to quarantine, {done['left']} left"
    skipped = f"{done['answered']} answered or replayed before, {done['drawn']} drawn for people, {done['attempts']} tried too often"
    result(done, f"{'would go: ' if dry_run else ''}{to}; {skipped}")


@app.command()
def doctor(
    no_model: Annotated[bool, typer.Option("--no-model", help="Leave out loading the model, which takes seconds.")] = False,
    config: Config = None,
) -> None:
    """Look at everything a gate needs, say how each is and what mends it; exits as what is broken would."""
    settings = settings_from(config)
    from stream.doctor import examine

    worst = 0
    for finding in examine(settings, with_model=not no_model):
        mend = f"\n         {finding.mend}" if finding.mend else ""
        result(finding._asdict(), f"{finding.state:<8} {finding.what}: {finding.said}{mend}")
        worst = worst or finding.exit_code
    if worst:
        raise typer.Exit(worst)


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
    from review.database import is_there
    from review.store import opened
    from stream.schemas import Schemas
    from stream.trace import of_key
    from trainer.starter_files import erase_from_starters, starters_of

    kept, values = of_key(settings.kafka, settings.topics, raw)
    review, url = settings.review, settings.review.database_url
    with ExitStack() as parts:
        schemas = parts.enter_context(closing(Schemas(settings.kafka)))
        store = parts.enter_context(opened(url, review.second_share, review.wrong_looks)) if is_there(url) else None
        values |= set() if store is None else store.values_of(raw)
        values |= {text for value in values if isinstance(text := schemas.opened(value), bytes)}  # starters keep what framed records say
        # the store last: without it nobody knows any more what to look for
        forgotten = erase_from_starters(starter or starters_of(settings.train.base), values)
        gone = None if store is None else store.erase(raw)
    told = ", ".join(f"{topic} {count}" for topic, count in kept.items() if count) or "nothing"
    of_store = f"{gone} records erased from the review store"
    if gone is None:
        of_store = f"there is no review store here ({url}): erase where `winnow review` runs, too"
    said = f"{of_store}; {sum(forgotten.values())} erased from starters; Kafka still keeps: {told}"
    shown = {"key": key} if key is not None else {"key_base64": key_base64}
    result({**shown, "erased": gone, "erased_from_starters": forgotten, "kept_by_kafka": kept}, said)


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
