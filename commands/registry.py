"""`winnow registry list|show|verify|promote|rollback|unpin|import|export`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import Config, result, settings_from, shown, words_option

registry_app = typer.Typer(no_args_is_help=True, help="Versions of the model and the aliases that point at them.")

Reference = Annotated[str, typer.Argument(help="Version number, name@number or alias.")]


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
        result({**shown(version), "aliases": named}, f"{version.label}  {version.manifest.method}  {', '.join(named)}")


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
    result({"version": model.label, "digest": model.digest, "verified": True}, f"{model.label}: files and fingerprint hold")


@registry_app.command("promote")
def registry_promote(reference: Reference, config: Config = None) -> None:
    """Make a version the champion."""
    version = _registry(config).promote(reference)
    result(shown(version), f"{version.label} is champion")


@registry_app.command("rollback")
def registry_rollback(config: Config = None) -> None:
    """Make the previous champion the champion again and pin it."""
    version = _registry(config).rollback()
    result(shown(version), f"{version.label} is champion again, and pinned")


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

    chosen = with_options(settings.train, {"verdict_words": words_option(verdict_words)})
    version = import_checkpoint(settings, chosen, directory, template)
    result(shown(version), f"{version.label} imported, {version.digest}")


@registry_app.command("export")
def registry_export(reference: Reference, directory: Path, config: Config = None) -> None:
    """Copy a verified version to a new directory."""
    version = _registry(config).export(reference, directory)
    result({**shown(version), "directory": str(directory)}, f"{version.label} written to {directory}")


def _registry(config: Path | None) -> Any:
    from model_registry.registry import Registry

    return Registry(settings_from(config).registry)
