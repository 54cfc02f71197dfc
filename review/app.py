"""The review service over HTTP: the page, and the interface of contracts.md that the page itself uses.

Bodies are JSON; an error is `{"error": sentence, "code", "values"}` with its status (review/refused.py). Every answer carries
headers that keep a browser from running anything that this service did not write.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundation.errors import KafkaRefused, ModelRefused, WinnowError
from model_registry.report import ASSETS
from review.answers import Answers
from review.auth import COOKIE, LEAD, OPERATOR, REVIEWER, Door, Who
from review.config import ReviewSettings
from review.metrics import ReviewMetrics
from review.models import Models
from review.publish import Undecided, Unwritable
from review.refused import AnswerInvalid, LeaseLost, NotAllowed, RecordUnknown, RequestRefused
from review.store import Store
from review.words import LANGUAGES, words_of

log = logging.getLogger("winnow.review")

HERE = Path(__file__).parent
MOST_BODY_BYTES = 8_000_000
MOST_GROUPS = 50
TRAIL_LINES, MOST_NAME = 200, 64
LANGUAGE_COOKIE = "winnow_language"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class StoreAway(RequestRefused):
    """The database does not answer."""


_STATUS: dict[type[WinnowError], int] = {
    StoreAway: 503,
    LeaseLost: 409,
    AnswerInvalid: 422,
    Unwritable: 422,
    RecordUnknown: 404,
    Undecided: 503,
    KafkaRefused: 503,
    ModelRefused: 409,
}
_CAUSES = {429: "rate", 403: "other-site"}
_CODES: dict[type[WinnowError], str] = {Unwritable: "unwritable", Undecided: "undecided", KafkaRefused: "kafka", ModelRefused: "model"}

Act = Callable[[Who, dict[str, Any], Request], Any]


class Pages:
    """The routes of one service."""

    def __init__(
        self, settings: ReviewSettings, store: Store, answers: Answers, models: Models, door: Door, metrics: ReviewMetrics
    ) -> None:
        """Take the parts; templates escape everything by default."""
        self._models = models
        self._settings = settings
        self._store = store
        self._answers = answers
        self._door = door
        self._metrics = metrics
        loader = FileSystemLoader(HERE / "templates")
        self._templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

    def app(self) -> Starlette:
        """Return the application."""
        answers, store, models = self._answers, self._store, self._models

        def decision(request: Request) -> str:
            return str(request.path_params["id"])

        acts: list[tuple[str, str, str, Act]] = [
            ("POST", "/api/lease", REVIEWER, lambda who, body, _: answers.lease(who, body)),
            ("POST", "/api/decisions/{id}/lease", REVIEWER, lambda who, _, request: answers.lease_again(who, decision(request))),
            ("POST", "/api/decisions/{id}/renew", REVIEWER, lambda who, body, request: answers.renew(who, decision(request), body)),
            ("POST", "/api/decisions/{id}/skip", REVIEWER, lambda who, body, r: answers.give_back(who, decision(r), body, is_skip=True)),
            ("POST", "/api/decisions/{id}/return", REVIEWER, lambda who, body, r: answers.give_back(who, decision(r), body, is_skip=False)),
            ("POST", "/api/decisions/{id}/verdict", REVIEWER, lambda who, body, request: answers.verdict(who, decision(request), body)),
            ("GET", "/api/decisions/{id}/history", REVIEWER, lambda who, _, request: answers.history(who, decision(request))),
            ("GET", "/api/decisions/{id}/value", REVIEWER, lambda _, __, request: {"text": answers.value(decision(request))}),
            ("GET", "/api/counts", REVIEWER, lambda who, _, __: answers.counts(who)),
            ("GET", "/api/groups", REVIEWER, lambda *_: self._groups()),
            ("GET", "/api/models", REVIEWER, lambda *_: models.shown()),
            ("GET", "/api/models/{id}/report", REVIEWER, lambda _, __, request: models.report(decision(request))),
            ("POST", "/api/models/{id}/promote", OPERATOR, lambda who, _, request: models.promote(who, decision(request))),
            ("POST", "/api/rollback", OPERATOR, lambda who, *_: models.rollback(who)),
            ("POST", "/api/unpin", OPERATOR, lambda who, *_: models.unpin(who)),
            ("GET", "/api/trail", OPERATOR, lambda *_: {"trail": store.accounts.trail(TRAIL_LINES)}),
            ("POST", "/api/bulk", LEAD, lambda who, body, _: answers.bulk(who, body)),
            ("POST", "/api/skips/forget", REVIEWER, lambda who, *_: {"offered_again": store.leases.forget_skips(who.name)}),
        ]
        routes = [Route(path, self._act(role, act), methods=[method]) for method, path, role, act in acts]
        routes += [
            Route("/", self._review),
            Route("/models", self._models_page),
            Route("/login", self._login_page),
            Route("/api/login", self._log_in, methods=["POST"]),
            Route("/api/logout", self._log_out, methods=["POST"]),
            Route("/livez", lambda _: PlainTextResponse("alive\n")),
            Route("/readyz", self._readyz),
            Route("/metrics", self._scrape),
        ]
        middleware = [Middleware(_Hardened)]
        if not self._door.asks_for_password and self._settings.proxy_header is None:
            # nobody logs in here, so a foreign name that resolves to this address must not be answered (DNS rebinding)
            names = ["127.0.0.1", "localhost", "[::1]", self._settings.bind]
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
        files = [Mount("/static/report", StaticFiles(directory=ASSETS)), Mount("/static", StaticFiles(directory=HERE / "static"))]
        # both are a database that is away or busy, not a request that is wrong
        away = {OperationalError: _store_away, PoolTimeout: _store_away}
        app = Starlette(routes=[*routes, *files], middleware=middleware, exception_handlers=away)  # type: ignore[arg-type]
        app.state.answers = answers
        return app

    def _act(self, role: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that checks who asks, reads the body, and turns refusals into their status."""

        async def endpoint(request: Request) -> Response:
            try:
                body = await _body_of(request)
                # both ask the database; every change of thread costs as much as such a question
                return JSONResponse(await run_in_threadpool(lambda: act(self._door.needed(request, role), body, request)))
            except WinnowError as error:
                return _refusal(error)

        return endpoint

    async def _log_in(self, request: Request) -> Response:
        name = ""
        address = self._door.address_of(request)
        try:
            body = await _body_of(request)
            said, password = body.get("user") or body.get("name") or body.get("username"), body.get("password")
            if not isinstance(said, str) or not isinstance(password, str):
                raise AnswerInvalid("user")
            name = said
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise NotAllowed(403, "other_site")
            token, csrf, seconds = await run_in_threadpool(self._door.log_in, name, password, address)
        except NotAllowed as error:
            self._metrics.refused.labels(_CAUSES.get(error.status, "password")).inc()
            if error.status == 401:  # noqa: PLR2004  # those beyond the rate are as many as somebody likes
                await run_in_threadpool(self._store.accounts.note, name[:MOST_NAME], "login refused", address)
            return _refusal(error)
        except WinnowError as error:
            return _refusal(error)
        await run_in_threadpool(self._store.accounts.note, name, "login", "")
        answer = JSONResponse({"user": name, "csrf": csrf})
        is_secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(COOKIE, token, max_age=int(seconds), httponly=True, samesite="strict", secure=is_secure, path="/")
        return answer

    async def _log_out(self, request: Request) -> Response:
        try:
            who = await run_in_threadpool(self._door.needed, request)
        except WinnowError as error:
            return _refusal(error)
        await run_in_threadpool(self._door.log_out, request)
        await run_in_threadpool(self._store.accounts.note, who.name, "logout", "")
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    def _review(self, request: Request) -> Response:
        who = self._door.who(request)
        if who is None:
            return RedirectResponse("/login", status_code=303)
        shown = {"who": who.name, "is_lead": who.may(LEAD), "csrf": who.csrf or "", "can_log_out": who.csrf is not None}
        return self._page("review.html", request, **shown, seconds=self._settings.lease_seconds)

    def _models_page(self, request: Request) -> Response:
        who = self._door.who(request)
        if who is None:
            return RedirectResponse("/login", status_code=303)
        return self._page("models.html", request, who=who.name, may_move=who.may(OPERATOR), csrf=who.csrf or "")

    def _login_page(self, request: Request) -> Response:
        if self._door.who(request) is not None:
            return RedirectResponse("/", status_code=303)
        return self._page("login.html", request)

    def _groups(self) -> dict[str, Any]:
        pairs, kappa = self._store.figures.agreement()
        return {
            "groups": [
                {"reason": reason, "pattern": pattern, "count": count} for reason, pattern, count in self._store.figures.groups(MOST_GROUPS)
            ],
            "reasons": [{"reason": reason, "count": count} for reason, count in self._store.figures.reasons()],
            "answered_twice": pairs,
            "kappa": None if kappa is None else round(kappa, 3),
        }

    def _readyz(self, _: Request) -> Response:
        self._store.ping()
        reason = self._answers.not_ready()
        return PlainTextResponse("ready\n" if reason is None else f"{reason}\n", status_code=200 if reason is None else 503)

    def _scrape(self, request: Request) -> Response:
        if "x-forwarded-for" in request.headers or "forwarded" in request.headers:  # through the proxy that people come by
            return PlainTextResponse("the figures are for who asks here directly\n", status_code=404)
        self._answers.counts(None)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _page(self, template: str, request: Request, **shown: Any) -> Response:
        language = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE) or self._settings.language
        language = language if language in LANGUAGES else self._settings.language
        words = words_of(language)
        html = self._templates.get_template(template).render(
            t=words, words_json=json.dumps(words, ensure_ascii=False), language=language, **shown
        )
        answer = HTMLResponse(html)
        if "lang" in request.query_params:
            answer.set_cookie(LANGUAGE_COOKIE, language, max_age=31_536_000, samesite="strict", httponly=True, path="/")
        return answer


class _Hardened:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.lower().encode(), value.encode()) for name, value in _HEADERS.items())]
            await send(message)

        await self._app(scope, receive, with_headers)


async def _body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; a form, which any site can make a browser send, is none. Raises AnswerInvalid."""
    if request.method in ("GET", "HEAD"):
        return {}
    read = bytearray()
    async for piece in request.stream():
        read += piece
        if len(read) > MOST_BODY_BYTES:
            raise AnswerInvalid("body_long", most=MOST_BODY_BYTES)
    if not read:
        return {}
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise AnswerInvalid("body_type")
    try:
        body = json.loads(bytes(read))
    except ValueError as error:
        raise AnswerInvalid("body_json", why=error) from error
    if not isinstance(body, dict):
        raise AnswerInvalid("body_object")
    return body


def _store_away(_request: Request, error: Exception) -> Response:
    log.warning("the store does not answer", extra={"detail": type(error).__name__})
    return _refusal(StoreAway("store_away"))


def _refusal(error: WinnowError) -> Response:
    status = error.status if isinstance(error, NotAllowed) else next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
    if isinstance(error, RequestRefused):
        return JSONResponse({"error": str(error), "code": error.code, "values": error.values}, status_code=status)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "other")
    return JSONResponse({"error": str(error), "code": code, "values": {"why": str(error)}}, status_code=status)
