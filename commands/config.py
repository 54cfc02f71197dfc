"""`winnow config show|check|schema`."""

import json

import typer

from commands.shared import Config, settings_from, tables
from foundation.settings import as_toml, documented

config_app = typer.Typer(no_args_is_help=True, help="Show and check the settings in force.")


@config_app.command("show")
def config_show(config: Config = None) -> None:
    """Print the settings in force as TOML."""
    typer.echo(as_toml(vars(settings_from(config))))


@config_app.command("check")
def config_check(config: Config = None) -> None:
    """Exit 0 if every setting, and every file that one names, can be used, else say which cannot."""
    settings = settings_from(config)
    from foundation.secret_file import read_named
    from model_registry.registry import Registry
    from review.auth import check_bind, load_users
    from stream.boot import load_lotteries
    from stream.rules import Rules
    from stream.schemas import Schemas
    from stream.serve import load_token

    Rules.load(settings.gate.rules_file)
    load_lotteries(settings.gate)
    load_token(settings.serve.token_file)
    check_bind(settings.review, load_users(settings.review.users_file))
    Registry(settings.registry)
    Schemas(settings.kafka).close()
    read_named("kafka.secrets", settings.kafka.secrets)


@config_app.command("schema")
def config_schema() -> None:
    """Print every setting with its type, default and meaning as JSON."""
    names = ("setting", "type", "default", "meaning")
    typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in documented(tables())], ensure_ascii=False, indent=1))
