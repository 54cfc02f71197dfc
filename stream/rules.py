"""Stage 2: content -> violations. Cheap checks that run before any model; an `error` holds the record.

Enters: what decode.py read, and a rules file. Leaves: violations per record, same order. A rules file is TOML:

    [[rule]]
    name = "phone-shape"            # the reason becomes rule:phone-shape
    severity = "error"              # or "warn": counted, never held
    field = "contact.phone"         # optional dotted path; absent field = nothing to check
    schema = { pattern = "^[0-9-]+$" }   # a JSON Schema, inline
    # schema_file = "twin.schema.json"   # or in a file beside the rules file
    # check = "telephone-cn"             # or one of the named checks below
    applies_to = "json"             # json (default), text or any

Schemas run in jsonschema-rs with its linear-time regular expressions, so no record can make a pattern run away.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonschema_rs
from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.errors import SettingInvalid
from foundation.settings import nearest
from stream.records import Content, Reading, Unread, Violation

Check = Callable[[Any], bool]

_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_LANDLINE = re.compile(r"(0[0-9]{2,3}-?)?[2-9][0-9]{6,7}(-[0-9]{1,6})?")
_POSTCODE = re.compile(r"[0-8][0-9]{5}")
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<<SYS>>")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")

CHECKS: dict[str, tuple[Check, str]] = {
    "telephone-cn": (
        lambda v: bool(_MOBILE.fullmatch(_plain(v)) or _LANDLINE.fullmatch(_plain(v))),
        "is no Chinese mobile or landline number",
    ),
    "postcode-cn": (lambda v: bool(_POSTCODE.fullmatch(_plain(v))), "is no Chinese postcode of six digits"),
    "longitude": (lambda v: _within(v, -180, 180), "is no longitude between -180 and 180"),
    "latitude": (lambda v: _within(v, -90, 90), "is no latitude between -90 and 90"),
    "not-blank": (lambda v: v is not None and _plain(v) != "", "is blank"),
    "no-control-text": (lambda v: not _holds_control_text(v), "contains a language model's control text"),
    "printable": (lambda v: _is_printable(_plain(v)), "contains unprintable characters"),
}


class _RuleEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    severity: Literal["error", "warn"] = "error"
    field: str | None = None
    applies_to: Literal["json", "text", "any"] = "json"
    schema_: dict[str, Any] | None = None
    schema_file: str | None = None
    check: str | None = None


class Rule(NamedTuple):
    """One compiled rule: `fails` returns what is wrong, or None."""

    name: str
    is_error: bool
    path: tuple[str, ...]
    applies_to: str
    fails: Callable[[Any], str | None]


class Rules:
    """The compiled rules of one file, and its digest; without a file only the oddities of reading are checked."""

    def __init__(self, rules: Sequence[Rule] = (), digest: str | None = None, path: Path | None = None) -> None:
        """Keep compiled rules; use `load` to read them from a file."""
        self.path = path
        self.rules = tuple(rules)
        self.digest = digest
        self._for_json = tuple(rule for rule in rules if rule.applies_to != "text")
        self._for_text = tuple(rule for rule in rules if rule.applies_to != "json")

    @classmethod
    def load(cls, path: Path | None) -> "Rules":
        """Compile a rules file; None gives no rules. Raises SettingInvalid naming the rule and what is wrong with it."""
        if path is None:
            return cls()
        try:
            raw = path.read_bytes()
            table = tomllib.loads(raw.decode("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingInvalid(f"gate.rules_file = {path} cannot be read: {error}") from error
        digest = hashlib.sha256(raw)
        rules = []
        entries = table.get("rule", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SettingInvalid(f"gate.rules_file = {path}: rules are [[rule]] tables, in two brackets each")
        for number, entry in enumerate(entries, start=1):
            rule, more = _compile(entry, path, number)
            digest.update(more)
            rules.append(rule)
        if unknown := sorted(set(table) - {"rule"}):
            raise SettingInvalid(f"{path} has [{unknown[0]}], which is no part of a rules file; rules are [[rule]] tables")
        names = [rule.name for rule in rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingInvalid(f"{path} names the rule {min(twice)} twice")
        return cls(rules, f"sha256:{digest.hexdigest()}", path)

    def check(self, readings: Sequence[Reading]) -> list[tuple[Violation, ...]]:
        """Return the violations of each reading, in order; what was not read breaks no rule."""
        return [() if type(reading) is Unread else self._check_one(reading) for reading in readings]  # type: ignore[arg-type]

    def _check_one(self, content: Content) -> tuple[Violation, ...]:
        is_json, data, oddities = content
        if oddities:
            return tuple(Violation(oddity, is_error=True) for oddity in oddities)
        found: list[Violation] = []
        for name, is_error, path, _, fails in self._for_json if is_json else self._for_text:
            value = data
            for key in path:
                if not isinstance(value, dict) or key not in value:
                    break  # an absent field has nothing to check
                value = value[key]
            else:
                detail = fails(value)
                if detail is not None:
                    found.append(Violation(name, is_error, detail))
        return tuple(found)


def _compile(entry: dict[str, Any], path: Path, number: int) -> tuple[Rule, bytes]:
    """Return the rule and the bytes of its schema file, which belong to the digest."""
    entry = {"schema_" if key == "schema" else key: value for key, value in entry.items()}
    try:
        said = _RuleEntry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]).rstrip("_") if first["loc"] else "rule"
        wrong = str(first["msg"])
        if first["type"] == "extra_forbidden":
            wrong = f"is no part of a rule{nearest(where, [name.rstrip('_') for name in _RuleEntry.model_fields])}"
        named = repr(entry["name"]) if "name" in entry else f"number {number}"
        raise SettingInvalid(f"gate.rules_file = {path}: rule {named}: {where}: {wrong}") from error
    if sum(value is not None for value in (said.schema_, said.schema_file, said.check)) != 1:
        raise SettingInvalid(f"{path}: rule {said.name!r} needs exactly one of schema, schema_file and check")
    more = b""
    if said.check is not None:
        fails = _named_check(said, path)
    else:
        schema = said.schema_
        if said.schema_file is not None:
            try:
                more = (path.parent / said.schema_file).read_bytes()
                schema = json.loads(more)
            except (OSError, ValueError) as error:
                raise SettingInvalid(f"{path}: rule {said.name!r}: schema_file {said.schema_file}: {error}") from error
        fails = _schema_check(said.name, schema, path)
    steps = tuple(said.field.split(".")) if said.field else ()
    return Rule(said.name, said.severity == "error", steps, said.applies_to, fails), more


def _named_check(said: _RuleEntry, path: Path) -> Callable[[Any], str | None]:
    if said.check not in CHECKS:
        raise SettingInvalid(f"{path}: rule {said.name!r}: {said.check!r} is no named check; there are {', '.join(CHECKS)}")
    holds, complaint = CHECKS[said.check]
    subject = said.field or "the record"
    return lambda value: None if holds(value) else f"{subject} {complaint}"


def _schema_check(name: str, schema: Any, path: Path) -> Callable[[Any], str | None]:
    try:
        validator = jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions())
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
        message = getattr(error, "message", str(error))
        raise SettingInvalid(f"{path}: rule {name!r}: not a usable JSON Schema: {message}") from error

    def fails(value: Any) -> str | None:
        try:
            if validator.is_valid(value):
                return None
            first = next(validator.iter_errors(value))
            return f"{'.'.join(map(str, first.instance_path)) or 'the record'}: breaks {'/'.join(map(str, first.schema_path))}"
        except ValueError as error:  # what the validator cannot hold, an integer of 5,000 digits say, breaks the schema
            return f"cannot be checked: {str(error)[:100]}"

    return fails


def _plain(value: Any) -> str:
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _holds_control_text(value: Any) -> bool:
    if isinstance(value, str):
        return ("<" in value or "[" in value) and _CONTROL.search(value) is not None
    if isinstance(value, dict):
        return _holds_control_text(list(value)) or _holds_control_text(list(value.values()))
    if isinstance(value, list):
        for each in value:
            kind = type(each)
            if kind is str:  # most values are strings without a bracket: a call for each would cost four times as much
                if ("<" in each or "[" in each) and _CONTROL.search(each) is not None:
                    return True
            elif (kind is dict or kind is list) and _holds_control_text(each):
                return True
    return False


def _is_printable(text: str) -> bool:
    return (text.isprintable() and "\ufffd" not in text) or not _UNPRINTABLE.search(text)


def _within(value: Any, low: float, high: float) -> bool:
    try:
        return low <= float(value) <= high
    except (TypeError, ValueError, OverflowError):
        return False
