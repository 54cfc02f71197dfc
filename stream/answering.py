"""What `winnow serve` answers with: the judge, its model of the moment, and the thread that all requests share.

Enters: record values, or what policies wrote. Leaves: decisions or rewards, and the version that gave them. One thread judges: a
second one would have an OpenMP pool of its own, and both would be slower. Knows no HTTP.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, cast

from transformers import PreTrainedModel

from foundation.errors import DataRefused, ModelRefused
from model_registry.registry import Registry
from stream.cache import RewardCache
from stream.config import GateSettings
from stream.follow import Follower, Lasting, Service, make_service
from stream.live_model import LiveModel, load_aside, load_scorer
from stream.metrics import GateMetrics
from stream.records import Decision, Record
from stream.rlhf import Paid, paid_for_answers, paid_for_records, read_query, read_written
from stream.rules import Rules
from stream.score_file import as_row

Found = TypeVar("Found")


class Told(NamedTuple):
    """What a request was answered by."""

    label: str | None
    digest: str | None
    threshold: float | None

    @classmethod
    def of(cls, model: LiveModel | None) -> "Told":
        """Return what is told of a model; all None where rules judge alone."""
        return cls(None, None, None) if model is None else cls(model.label, model.digest, model.threshold)


class Answering:
    """What judges requests, one after the other, in a thread of its own."""

    def __init__(self, registry: Registry | None, settings: GateSettings) -> None:
        """Load the model, warm; `registry` None judges by rules alone. Raises SettingInvalid, ModelRefused."""
        # judged here alone: no process that reads, no challenger beside, no lottery
        self._settings = settings.model_copy(update={"reading_process": False, "shadow_share": 0.0})
        self._registry = registry
        rules = Rules.load(settings.rules_file)
        self.metrics = GateMetrics(rules)
        cache = RewardCache(settings.cache_records, self.metrics.count_looked) if settings.cache_records else None
        lasting = Lasting({}, None, cache)
        model = None if registry is None else load_aside(lambda: registry.verified(settings.model), self._settings)

        def make(rules: Rules, model: LiveModel | None, like: Service | None = None) -> Service:
            return make_service(self._settings, lasting, rules, model, like)

        self._service = make(rules, model)
        self._follower = Follower(registry, self._settings, make, self._service, self.metrics)
        self._thread = ThreadPoolExecutor(1, "judge")
        self._plain: tuple[str, PreTrainedModel] | None = None
        self.metrics.in_service(rules, model, None)
        self._follower.start()

    def close(self) -> None:
        """End the threads; what is being judged is finished."""
        self._thread.shutdown()
        self._follower.stop()

    async def do(self, work: Callable[[], Found]) -> Found:
        """Run work in the judging thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def decide(self, values: Sequence[bytes]) -> tuple[Told, list[dict[str, Any]]]:
        """Judge record values and return the fields that `winnow score` prints, without the record, and the suspect fields."""
        service = self._in_service()
        records = [Record("", 0, place, 0, None, value, []) for place, value in enumerate(values)]
        with self.metrics.timed("read"):
            read = service.judge.read(records)
        with self.metrics.timed("judge"):
            decisions = service.judge.decide(read)
        self.metrics.count(decisions)
        return Told.of(service.judge.model), [_shown(value, decision) for value, decision in zip(values, decisions, strict=True)]

    def pay_answers(self, queries: Sequence[str], prompts: Sequence[str] | None) -> tuple[Told, list[Paid]]:
        """Pay a policy that judges records for its answers. Raises DataRefused."""
        model = self._model()
        encoder = model.scorer.encoder
        ends = encoder.end_texts
        asked = []
        for place, query in enumerate(queries):
            try:
                asked.append(read_query(query, None if prompts is None else prompts[place], encoder.written, ends))
            except DataRefused as error:
                raise DataRefused(f"query {place}: {error}") from error
        with self.metrics.timed("judge"):
            return Told.of(model), paid_for_answers(model, self._settings.format, asked, lambda: self._whole(model))

    def pay_records(self, queries: Sequence[str], prompts: Sequence[str] | None) -> tuple[Told, list[Paid]]:
        """Pay a policy that writes records for what it wrote, whatever its prompts were. Raises DataRefused."""
        model, judge = self._model(), self._service.judge
        encoder = model.scorer.encoder
        wrote = [
            read_written(query, "" if prompts is None else prompts[place], encoder.written, encoder.end_texts)
            for place, query in enumerate(queries)
        ]
        with self.metrics.timed("judge"):
            return Told.of(model), paid_for_records(judge, wrote)

    def told(self) -> Told:
        """Return what judges now."""
        return Told.of(self._in_service().judge.model)

    def _in_service(self) -> Service:
        ready = self._follower.take()
        if ready is not None:
            self._service = ready
            self.metrics.swaps.inc()
            self.metrics.in_service(ready.judge.rules, ready.judge.model, None)
        return self._service

    def _model(self) -> LiveModel:
        model = self._in_service().judge.model
        if model is None:
            raise ModelRefused("gate.mode = rules: there is no model whose reward could be asked for")
        return model

    def _whole(self, model: LiveModel) -> PreTrainedModel:
        """Return the model as transformers runs it: what scores packs its weights for the two words alone. Loaded when first asked for."""
        if self._plain is None or self._plain[0] != model.digest:
            registry = cast(Registry, self._registry)
            version = registry.verified(model.label.rpartition("@")[2])
            if version.digest != model.digest:
                raise ModelRefused(f"{model.label} in the registry is not the one in service")
            scorer = load_scorer(version, model.scorer.device, self._settings.batch_tokens)
            self._plain = model.digest, cast(Any, scorer.model).to(scorer.device, scorer.precision)
        return self._plain[1]


def _shown(value: bytes, decision: Decision) -> dict[str, Any]:
    row = as_row(value, None, decision)
    del row["record"]
    return {**row, "suspect": [list(each) for each in decision.suspect]}
