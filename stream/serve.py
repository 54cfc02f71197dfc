"""`winnow serve`: the judge over HTTP, for records that are not on a topic and for policies in training.

Enters: JSON requests. Leaves: decisions (`/score`) or rewards (`/get_reward`, as OpenRLHF calls a remote reward model), by
the model of `gate.model`, whose new versions are taken up between two requests as a gate takes them up. Writes nothing to Kafka.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Way

from foundation.errors import DataRefused, ModelRefused, SettingInvalid
from foundation.listen import Serving, is_loopback, listen
from foundation.reread import Reread
from foundation.secret_file import read_secret
from model_registry.registry import Registry
from stream.answering import Answering
from stream.config import ServeSettings
from stream.json_spans import elements

_LINES = "application/x-ndjson"


class Refused(Exception):
    """A request that is not answered: a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        """Keep both."""
        super().__init__(sentence)
        self.status = status


class Ways:
    """The HTTP interface."""

    def __init__(self, answering: Answering, settings: ServeSettings, token: "Reread[bytes]") -> None:
        """Take what judges and who may ask."""
        self._answering = answering
        self._settings = settings
        self._token = token
        self._at_once = 0

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Way("/score", self._answered(self.score), methods=["POST"]),
                Way("/get_reward", self._answered(self.get_reward), methods=["POST"]),
                Way("/model", self._answered(self.model), methods=["GET"]),
                Way("/metrics", self.scraped, methods=["GET"]),
                Way("/livez", self.is_there, methods=["GET"]),
                Way("/readyz", self.is_there, methods=["GET"]),
            ],
        )

    async def score(self, request: Request) -> dict[str, Any]:
        """Judge `{"records": [text or JSON, …]}`, or one record a line as application/x-ndjson, byte for byte."""
        body = await self._body(request)
        if request.headers.get("content-type", "").partition(";")[0] == _LINES:
            values = [line for line in body.split(b"\n") if line.strip()]
        else:
            values = [each.encode("utf-8", "surrogatepass") for each in _records(body)]
        self._check_count(len(values), "records")
        told, decisions = await self._answering.do(lambda: self._answering.decide(values))
        return {"model": told.label, "model_digest": told.digest, "threshold": told.threshold, "decisions": decisions}

    async def get_reward(self, request: Request) -> dict[str, Any]:
        """Pay `{"query": […], "prompts": […]}`: answers about records, or with `?of=record` records."""
        of = request.query_params.get("of", "answer")
        pay = {"answer": self._answering.pay_answers, "record": self._answering.pay_records}.get(of)
        if pay is None:
            raise Refused(400, f"of = {of}: it is answer (the policy judges records) or record (it writes them)")
        body = _json(await self._body(request))
        queries = _texts(_list_of(body, "query"), "query")
        prompts = _texts(_list_of(body, "prompts"), "prompts") if body.get("prompts") is not None else None
        self._check_count(len(queries), "queries")
        if prompts is not None and len(prompts) != len(queries):
            raise Refused(400, f"there are {len(queries)} queries and {len(prompts)} prompts")
        told, paid = await self._answering.do(lambda: pay(queries, prompts))
        return {"rewards": [each.reward for each in paid], "scores": [each.score for each in paid], "model": told.label}

    async def model(self, request: Request) -> dict[str, Any]:
        """Tell which version answers."""
        told = await self._answering.do(self._answering.told)
        return {"model": told.label, "model_digest": told.digest, "threshold": told.threshold}

    async def scraped(self, request: Request) -> Response:
        """Serve the metrics, to whoever may ask for anything."""
        try:
            self._check_token(request)
        except Refused as error:
            return JSONResponse({"error": str(error)}, error.status)
        return Response(generate_latest(self._answering.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def is_there(self, _: Request) -> Response:
        """Say that requests are answered: the model was loaded before the port was served."""
        return PlainTextResponse("ready\n")

    def _answered(self, way: Callable[[Request], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
        """Turn what goes wrong into a status and one sentence."""

        async def answer(request: Request) -> Response:
            try:
                self._check_token(request)
                with self._one_more():
                    return JSONResponse(await way(request))
            except Refused as error:
                return JSONResponse({"error": str(error)}, error.status)
            except DataRefused as error:
                return JSONResponse({"error": str(error)}, 422)
            except ModelRefused as error:
                return JSONResponse({"error": str(error)}, 503)
            except (RuntimeError, ArithmeticError) as error:  # out of memory, or a device that is gone
                return JSONResponse({"error": f"the model could not score this request: {type(error).__name__}"}, 503)

        return answer

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        """Hold a place among the requests that are answered: they wait for one thread, and each holds its body in memory."""
        most = self._settings.most_requests
        if self._at_once >= most:
            raise Refused(503, f"{most} requests are being answered already; serve.most_requests = {most}")
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    def _check_token(self, request: Request) -> None:
        token = self._token.value
        if token and not hmac.compare_digest(request.headers.get("authorization", "").encode(), b"Bearer " + token):
            raise Refused(401, "the token of serve.token_file is needed, as Authorization: Bearer TOKEN")

    def _check_count(self, count: int, what: str) -> None:
        if count > self._settings.most_records:
            raise Refused(413, f"{count} {what} in one request; serve.most_records = {self._settings.most_records}")

    async def _body(self, request: Request) -> bytes:
        found = bytearray()
        seconds = self._settings.read_seconds
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    found += part
                    if len(found) > self._settings.most_bytes:
                        raise Refused(413, f"the request is longer than serve.most_bytes = {self._settings.most_bytes}")
        except TimeoutError as error:
            raise Refused(408, f"the request did not come whole within serve.read_seconds = {seconds:g}") from error
        return bytes(found)


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "the request is no JSON object")
    return found


def _records(body: bytes) -> list[str]:
    _list_of(_json(body), "records")
    # what comes before json.loads in any encoding that JSON has
    return elements(body.decode(json.detect_encoding(body), "surrogatepass"), "records") or []


def _list_of(body: dict[str, Any], name: str) -> list[Any]:
    found = body.get(name)
    if not isinstance(found, list):
        raise Refused(400, f"`{name}` must be a list, and it is {'missing' if found is None else type(found).__name__}")
    return found


def _texts(given: list[Any], name: str) -> list[str]:
    for place, each in enumerate(given):
        if not isinstance(each, str):
            raise Refused(400, f"`{name}` {place} must be text, and it is {type(each).__name__}")
    return given


def load_token(path: Path | None) -> bytes:
    """Return the token of a file, nothing without one. Raises SettingInvalid."""
    return read_secret("serve.token_file", path, "token")


def serve(tables: Any) -> None:
    """Serve until told to stop. Raises SettingInvalid, ModelRefused."""
    settings: ServeSettings = tables.serve
    token = Reread(settings.token_file, load_token)
    if not token.value and not settings.open and not is_loopback(settings.bind):
        raise SettingInvalid(
            f"serve.bind = {settings.bind} is reachable from outside, and anybody could ask; set serve.token_file, or serve.open = true"
        )
    serving = Serving()
    with listen("serve", settings.bind, settings.port) as listener:
        answering = Answering(None if tables.gate.mode == "rules" else Registry(tables.registry), tables.gate)
        try:
            serving.run(Ways(answering, settings, token).app(), listener)
        finally:
            answering.close()
