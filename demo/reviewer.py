"""Simulated reviewers who know the truth: they answer over the review service's own HTTP interface, and now and then err.

Enters: the address of the page, accounts, the truth by decision id. Leaves: verdicts, as people's presses would.
"""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from demo.twins import Truth
from foundation.errors import WinnowError
from stream.decide import ticket

ASK_SECONDS = 60.0
_OK = 200
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.3


class Account(NamedTuple):
    """A name of the users file and its password."""

    name: str
    password: str


class Answered(NamedTuple):
    """How many verdicts were given, and how many of them were mistakes."""

    verdicts: int
    mistakes: int


class Connection:
    """One reviewer's connection to the service; a session's cookie is kept."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        """Take the page's address and headers to send with every request."""
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=ASK_SECONDS)

    def log_in(self, account: Account) -> None:
        """Open a session. Raises WinnowError when the service refuses."""
        self.needed("POST", "/api/login", {"user": account.name, "password": account.password})

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and answer. Raises OSError, http.client.HTTPException, ValueError when the service is away."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        cookie = answer.headers.get("Set-Cookie")
        if cookie is not None:
            self._headers["Cookie"] = cookie.split(";", 1)[0]
        return answer.status, json.loads(answer.read())

    def needed(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer of `ask`. Raises WinnowError when the service refuses."""
        status, said = self.ask(method, path, body)
        if status != _OK:
            raise WinnowError(f"the review service refuses {path}: {said.get('error', status)}")
        return said

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def verdict_path(decision_id: str) -> str:
    """Return where a decision is answered."""
    return f"/api/decisions/{quote(decision_id)}/verdict"


def answer_all(address: str, accounts: Sequence[Account], truth: Mapping[str, Truth], mistaken_share: float) -> Answered:
    """Answer all that is open, every account beside the others, until nothing is left, or nothing comes any more.

    Raises WinnowError when the service refuses.
    """
    with ThreadPoolExecutor(len(accounts)) as people:
        done = list(people.map(lambda account: _answer(address, account, truth, mistaken_share), accounts))
    return Answered(sum(each.verdicts for each in done), sum(each.mistakes for each in done))


def _answer(address: str, account: Account, truth: Mapping[str, Truth], mistaken_share: float) -> Answered:
    page = Connection(address)
    verdicts = mistakes = 0
    try:
        page.log_in(account)
        heard = time.monotonic()
        while time.monotonic() - heard < _PATIENCE_SECONDS:
            decision_id = (lease := page.needed("POST", "/api/lease", {}))["decision_id"]
            if decision_id is None:
                counts = page.needed("GET", "/api/counts")
                if counts["open"] + counts["leased"] == 0:
                    break
                time.sleep(_PAUSE_SECONDS)  # the others may leave a second look behind
                continue
            heard = time.monotonic()
            is_mistaken = ticket(f"{account.name} {decision_id}", "mistake") < mistaken_share
            so = truth[decision_id]
            verdict = "wrong" if so.is_wrong != is_mistaken else "right"
            named = {"kind": so.kind, "field": so.field} if verdict == "wrong" and so.is_wrong else {}
            page.needed("POST", verdict_path(decision_id), {"lease": lease["lease"], "verdict": verdict, **named})
            verdicts, mistakes = verdicts + 1, mistakes + is_mistaken
    finally:
        page.close()
    return Answered(verdicts, mistakes)
