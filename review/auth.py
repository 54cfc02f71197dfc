"""Who is asking: users and roles from a file with argon2 hashes, a trusted proxy's header, or the one user of a loopback.

A browser's request that changes something must carry the session's CSRF token and come from this page; a request without
Origin, which no browser sends, needs its session alone.
"""

import hashlib
import re
import secrets
import time
import tomllib
from collections import deque
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from foundation.errors import SettingInvalid
from foundation.listen import is_loopback
from foundation.reread import Reread
from review.config import ReviewSettings
from review.refused import NotAllowed
from review.store import Store

REVIEWER, LEAD, OPERATOR = "reviewer", "lead", "operator"
ROLES = (REVIEWER, LEAD, OPERATOR)
"""A reviewer answers; a lead also settles conflicts and answers in bulk; an operator also promotes and rolls back."""
COOKIE = "winnow_session"
LOCAL = "local"

_NAME = re.compile(r"[\w.@-]{1,64}")
_TRIES = {"name": 5, "address": 30}
_TRIES_SECONDS = 60.0
_MOST_REMEMBERED = 10_000
_LONGEST_ADDRESS = 64


class User(BaseModel):
    """One user of the users file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    password: str
    roles: tuple[str, ...] = (REVIEWER,)


class Who(NamedTuple):
    """A person who has been recognised; csrf is None where no cookie was involved."""

    name: str
    roles: frozenset[str]
    csrf: str | None = None

    def may(self, role: str) -> bool:
        """Return whether the person has a role; an operator has all, a lead those of a reviewer."""
        return any(ROLES.index(mine) >= ROLES.index(role) for mine in self.roles)


def load_users(path: Path | None) -> dict[str, User]:
    """Return the users of a file by name. Raises SettingInvalid."""
    if path is None:
        return {}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("user", [])
        if not isinstance(entries, list):
            raise SettingInvalid(f"review.users_file = {path}: users are [[user]] tables, in two brackets each")
        users = [User.model_validate(entry) for entry in entries]
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"review.users_file = {path} cannot be read: {error}") from error
    except ValidationError as error:
        raise SettingInvalid(f"review.users_file = {path}: {error.errors()[0]['msg']}") from error
    for user in users:
        for role in user.roles:
            if role not in ROLES:
                raise SettingInvalid(f"review.users_file = {path}: {user.name} has the role {role!r}; there are {', '.join(ROLES)}")
        if not user.password.startswith("$argon2"):
            raise SettingInvalid(f"review.users_file = {path}: the password of {user.name} is no argon2 hash; `winnow user` writes one")
    if not users:
        raise SettingInvalid(f"review.users_file = {path} names no [[user]]")
    return {user.name: user for user in users}


def add_user(path: Path, name: str, password: str, roles: tuple[str, ...] = ()) -> None:
    """Write a user into the file, in place of one of the same name, whose roles stay where none are given. Raises SettingInvalid."""
    if not _NAME.fullmatch(name):
        raise SettingInvalid(f"the user name {name!r} may hold letters, digits and . @ - _ only, at most 64")
    unknown = next((role for role in roles if role not in ROLES), None)
    if unknown is not None:
        raise SettingInvalid(f"--role {unknown} is not one of {', '.join(ROLES)}")
    if len(password) < 10:  # noqa: PLR2004
        raise SettingInvalid(f"the password has {len(password)} characters; it needs 10")
    users = load_users(path) if path.is_file() else {}
    kept = users[name].roles if name in users else (REVIEWER,)
    users[name] = User(name=name, password=PasswordHasher().hash(password), roles=roles or kept)
    blocks = [
        f'[[user]]\nname = "{user.name}"\npassword = "{user.password}"\nroles = [{", ".join(f"{role!r}" for role in user.roles)}]\n'
        for user in users.values()
    ]
    aside = path.with_name(f".{path.name}")
    try:
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600)
        aside.write_text("\n".join(blocks).replace("'", '"'), encoding="utf-8")
        aside.replace(path)  # a service that reads it now finds all users
    except OSError as error:
        raise SettingInvalid(f"review.users_file = {path} cannot be written: {error.strerror}") from error


def check_bind(settings: ReviewSettings, users: dict[str, User]) -> None:
    """Refuse to serve strangers: beyond loopback there must be users or a proxy that knows them. Raises SettingInvalid."""
    if not users and settings.proxy_header is None and not is_loopback(settings.bind):
        raise SettingInvalid(
            f"review.bind = {settings.bind} is reachable from outside, and nobody would have to log in; "
            "set review.users_file or review.proxy_header, or bind to 127.0.0.1"
        )


class Door:
    """Recognises who asks, and lets people log in."""

    def __init__(self, settings: ReviewSettings, store: Store, users: Reread[dict[str, User]]) -> None:
        """Take the users; without users and proxy everybody on loopback is the one local user."""
        self._settings = settings
        self._proxies = [ip_network(each, strict=False) for each in settings.trusted_proxies]
        self._store = store
        self._users = users
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._tries: dict[tuple[str, str], deque[float]] = {}

    @property
    def asks_for_password(self) -> bool:
        """Whether there is a login at all."""
        return bool(self._users.value)

    def who(self, request: Request) -> Who | None:
        """Return who asks, None for strangers."""
        header = self._settings.proxy_header
        if header is not None and self._is_proxy(request):
            names = request.headers.getlist(header)  # a proxy that appends to what a client sent would let it be anybody
            name = names[0] if len(names) == 1 else ""
            if _NAME.fullmatch(name):
                user = self._users.value.get(name)
                return Who(name, frozenset(user.roles if user is not None else (REVIEWER,)))
        token = request.cookies.get(COOKIE)
        found = self._store.accounts.session(_hash(token)) if token else None
        if found is not None and found[0] in self._users.value:
            return Who(found[0], frozenset(self._users.value[found[0]].roles), found[1])
        if not self._users.value and header is None:
            return Who(LOCAL, frozenset({OPERATOR}))
        return None

    def address_of(self, request: Request) -> str:
        """Return where a request comes from: behind a trusted proxy what that proxy says, else who asks; empty where nobody knows."""
        said = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        if said and self._is_proxy(request):
            return said[:_LONGEST_ADDRESS]
        return request.client.host if request.client is not None else ""

    def _is_proxy(self, request: Request) -> bool:
        try:
            return request.client is not None and any(ip_address(request.client.host) in network for network in self._proxies)
        except ValueError:  # no address of a network, such as a socket's
            return False

    def needed(self, request: Request, role: str = REVIEWER) -> Who:
        """Return who asks, or raise NotAllowed: 401 for strangers, 403 for a missing role, a wrong origin or CSRF token."""
        who = self.who(request)
        if who is None:
            raise NotAllowed(401, "log_in")
        if not who.may(role):
            raise NotAllowed(403, "role", user=who.name, role=role)
        if request.method not in ("GET", "HEAD"):
            self._check_origin(request, who)
        return who

    def _check_origin(self, request: Request, who: Who) -> None:
        """Refuse what another site's page makes a browser send."""
        origin = request.headers.get("origin")
        is_browser = origin is not None or "sec-fetch-site" in request.headers
        if not is_browser:
            return
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or (
            origin is not None and origin.split("://")[-1] != request.headers.get("host")
        ):
            raise NotAllowed(403, "other_site")
        if who.csrf is not None and not secrets.compare_digest(request.headers.get("x-csrf-token", ""), who.csrf):
            raise NotAllowed(403, "csrf")

    def log_in(self, name: str, password: str, address: str) -> tuple[str, str, float]:
        """Return (cookie, CSRF token, seconds). Raises NotAllowed: 429 after too many tries, 401 for a wrong name or password."""
        now = time.monotonic()
        if len(self._tries) > _MOST_REMEMBERED:
            self._forget_tries(now)
        asked = [
            self._tries.setdefault((kind, value), deque(maxlen=_TRIES[kind])) for kind, value in (("name", name), ("address", address))
        ]
        for tries in asked:
            if len(tries) == tries.maxlen and now - tries[0] < _TRIES_SECONDS:
                raise NotAllowed(429, "too_many_tries", seconds=round(_TRIES_SECONDS))
        for tries in asked:
            tries.append(now)  # before the hash, which takes long enough for many more tries beside it
        user = self._users.value.get(name)
        try:
            self._hasher.verify(user.password if user is not None else self._nobody, password)
        except (Argon2Error, InvalidHashError):
            raise NotAllowed(401, "password") from None
        if user is None:
            raise NotAllowed(401, "password")
        asked[0].clear()
        if asked[1]:
            asked[1].pop()
        token, seconds = secrets.token_urlsafe(32), self._settings.session_hours * 3600
        return token, self._store.accounts.open_session(_hash(token), name, time.time() + seconds), seconds

    def _forget_tries(self, now: float) -> None:
        """Forget tries that count no more; while too many still count, the oldest."""
        newest = {who: tries[-1] if tries else 0.0 for who, tries in list(self._tries.items())}
        kept = sorted((at, who) for who, at in newest.items() if now - at < _TRIES_SECONDS)[-_MOST_REMEMBERED:]
        self._tries = {who: self._tries[who] for _, who in kept}

    def log_out(self, request: Request) -> None:
        """End the session of a request."""
        token = request.cookies.get(COOKIE)
        if token:
            self._store.accounts.close_session(_hash(token))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
