"""One `winnow.toml` and the `WINNOW_TABLE__KEY` environment names -> frozen settings tables.

Enters: a path, the environment, the tables of each package. Leaves: one frozen pydantic model per table.
Refuses every key and every `WINNOW_X__Y` name that is no setting, with the nearest one that is.
"""

import difflib
import json
import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.errors import SettingInvalid

log = logging.getLogger("winnow")

_HIDDEN = "********"
_SIGNS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
_SECRET = ("password", "secret", "token", "key.pem", "sasl.jaas.config", "oauthbearer.config")
_IN_URL = re.compile(r"(://[^/@:\s]*:)[^/@\s]*@")
DEFAULT_FILE = Path("winnow.toml")
ENVIRONMENT_PREFIX = "WINNOW_"


class Table(BaseModel):
    """Base of every settings table: frozen, no unknown keys, each field documented by the string under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


Tables = Mapping[str, type[Table]]


def load(path: Path | None, tables: Tables, environment: Mapping[str, str]) -> dict[str, Table]:
    """Return one frozen table per name in `tables`; the environment wins over the file.

    `path` None reads `winnow.toml` in the working directory if there is one. Raises SettingInvalid.
    """
    raw = _read_file(path)
    for name in raw:
        if name not in tables:
            raise SettingInvalid(f"[{name}] in {path or DEFAULT_FILE} is no settings table{nearest(name, tables)}")
        if not isinstance(raw[name], dict):
            raise SettingInvalid(f"{name} in {path or DEFAULT_FILE} is a value; settings live in tables such as [{name}]")
    for variable, value in environment.items():
        place = _place_of(variable, tables)
        if place is None:
            _warn_of_one_underscore(variable, tables)
        else:
            table, key = place
            raw.setdefault(table, {})[key] = _from_environment(tables[table], key, value)
    return {name: _validated(name, table, raw.get(name, {})) for name, table in tables.items()}


def documented(tables: Tables) -> list[tuple[str, str, str, str]]:
    """Return (setting, type, default, meaning) for every field of every table, in order; source of docs/settings.md."""
    rows = []
    for name, table in tables.items():
        for key, field in table.model_fields.items():
            meaning = " ".join((field.description or "").split())
            kind = _kind(field.annotation, field.metadata)
            rows.append((f"{name}.{key}", kind, _shown(field.get_default(call_default_factory=True)), meaning))
    return rows


def _kind(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """Return a type as a person reads it, with its limits: `int ≥ 1, ≤ 100000`, `float > 0 or unset`, `"a" or "b"`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [limit for each in more for limit in getattr(each, "metadata", [each])])
    if origin is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join("unset" if each is NoneType else _kind(each, limits) for each in get_args(annotation))
    name = getattr(annotation, "__name__", str(annotation))
    name = {"str": "text", "Path": "path"}.get(name, name)
    if origin is not None:
        name = f"{name} of {', '.join(_kind(each) for each in get_args(annotation) if each is not Ellipsis)}"
    signs = [(sign, getattr(limit, word, None)) for limit in limits for word, sign in _SIGNS]
    return f"{name} {', '.join(f'{sign} {edge:g}' for sign, edge in signs if edge is not None)}".rstrip()


def as_toml(tables: Mapping[str, Table]) -> str:
    """Return the settings in force as TOML; None is left out because TOML has no word for it."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        given = table.model_dump(mode="json").items()
        lines += [f"{key} = {_shown(without_secrets(key, value))}" for key, value in given if value is not None]
        lines.append("")
    return "\n".join(lines)


def without_secrets(name: str, value: object) -> object:
    """Return a setting as it may be printed: passwords, keys' contents and the password in a URL replaced by asterisks."""
    if isinstance(value, dict):
        return {key: without_secrets(str(key), each) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    if any(name.endswith(word) for word in _SECRET):
        return _HIDDEN
    return _IN_URL.sub(rf"\g<1>{_HIDDEN}@", value)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_shown(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, Path):
        return json.dumps(str(value))
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def _read_file(path: Path | None) -> dict[str, Any]:
    chosen = path or DEFAULT_FILE
    if not chosen.is_file():
        if path is None:
            return {}
        raise SettingInvalid(f"the settings file {path} does not exist")
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{chosen} is not valid TOML: {error}") from error


def _place_of(variable: str, tables: Tables) -> tuple[str, str] | None:
    """Return (table, key) of an environment name; None for names that are not ours; refuse near misses."""
    if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
        return None
    table, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
    if table in tables and key in tables[table].model_fields:
        return table, key
    known = [f"{ENVIRONMENT_PREFIX}{t}__{k}".upper() for t in tables for k in tables[t].model_fields]
    raise SettingInvalid(f"the environment name {variable} is no setting{nearest(variable.upper(), known)}")


def _warn_of_one_underscore(variable: str, tables: Tables) -> None:
    """Say that `WINNOW_GATE_MODE` is none of ours: other names are not refused, but who wrote this one meant `WINNOW_GATE__MODE`."""
    for table in tables:
        key = variable.lower().removeprefix(f"{ENVIRONMENT_PREFIX}{table}_".lower())
        if key in tables[table].model_fields and variable.lower() != key:
            meant = f"{ENVIRONMENT_PREFIX}{table}__{key}".upper()
            log.warning("an environment name is ignored: two underscores part table and key", extra={"ignored": variable, "setting": meant})


def _from_environment(table: type[Table], key: str, value: str) -> object:
    if "dict" in str(table.model_fields[key].annotation) or "tuple" in str(table.model_fields[key].annotation):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value.split(",")
    return value


def _validated(name: str, table: type[Table], raw: dict[str, Any]) -> Table:
    for key in raw:
        if key not in table.model_fields:
            raise SettingInvalid(f"{name}.{key} is no setting{nearest(key, table.model_fields, name + '.')}")
    try:
        return table.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *map(str, first["loc"])])
        said = first["msg"].removeprefix("Value error, ")
        said = f"{said[0].lower()}{said[1:]}"
        if not first["loc"]:  # of the table as a whole; it names its settings itself
            raise SettingInvalid(f"[{name}]: {said}") from error
        raise SettingInvalid(f"{where} = {_of_input(table, first['loc'], first['input'])}: {said}") from error


def _of_input(table: type[Table], place: tuple[int | str, ...], value: object) -> str:
    """Return a refused value as it may be printed: one that was to become a table of secrets shows nothing."""
    is_table = "dict" in str(table.model_fields[str(place[0])].annotation)
    if is_table and (not isinstance(value, str) or any(str(place[-1]).endswith(word) for word in _SECRET)):
        return _HIDDEN
    return repr(without_secrets(str(place[-1]), value))


def nearest(word: str, known: object, prefix: str = "") -> str:
    """Return `; the nearest is X`, or nothing where nothing is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)  # type: ignore[call-overload]
    return f"; the nearest is {prefix}{close[0]}" if close else ""
