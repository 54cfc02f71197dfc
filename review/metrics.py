"""Every Prometheus object of the review service."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BOUNDS = ("estimate", "low", "high")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ReviewMetrics:
    """The service's metrics on a registry of their own."""

    def __init__(self) -> None:
        """Create every metric and initialise the labels that are known."""
        self.registry = CollectorRegistry()
        self.records = Gauge("winnow_review_records", "Records in the store, by state.", ("state",), registry=self.registry)
        self.waiting = Gauge(
            "winnow_review_waiting",
            "Open records that wait for a second look, a settlement, or another answer where a training doubts the first.",
            ("look",),
            registry=self.registry,
        )
        self.oldest_seconds = Gauge(
            "winnow_review_oldest_open_seconds", "How long the open record that has waited longest has waited.", registry=self.registry
        )
        self.verdicts = Counter("winnow_review_verdicts", "Verdicts committed to Kafka, by answer.", ("verdict",), registry=self.registry)
        self.lost = Counter("winnow_review_leases_lost", "Answers that came after their lease was over.", registry=self.registry)
        self.refused = Counter("winnow_review_logins_refused", "Logins refused, by cause.", ("cause",), registry=self.registry)
        self.unreadable = Counter("winnow_review_events_unreadable", "Verdict events that could not be read.", registry=self.registry)
        self.compared = Gauge(
            "winnow_review_compared_records",
            "Records that two reviewers have answered because chance had it so (`review.second_share`).",
            registry=self.registry,
        )
        self.kappa = Gauge(
            "winnow_review_agreement_kappa",
            "Cohen's kappa of their first answers; NaN without any.",
            registry=self.registry,
        )
        self.draws = Gauge(
            "winnow_review_flat_draws",
            "Latest settled flat draws of what passed.",
            registry=self.registry,
        )
        self.wrong_passed = Gauge(
            "winnow_review_wrong_passed_ratio",
            "Wrong ones among what passes, estimated from these draws, with its 95 % interval; NaN without any.",
            ("bound",),
            registry=self.registry,
        )
        self.publish_seconds = Histogram(
            "winnow_review_publish_seconds", "Answer to Kafka's commit.", buckets=_SECONDS, registry=self.registry
        )
        self.lease_seconds = Histogram("winnow_review_lease_seconds", "Finding the next record.", buckets=_SECONDS, registry=self.registry)
        self.say_wrong_passed(0, None)
        self.kappa.set(math.nan)
        for state in ("open", "leased", "done"):
            self.records.labels(state)
        for look in ("second", "conflict", "doubted"):
            self.waiting.labels(look)
        for verdict in ("right", "wrong"):
            self.verdicts.labels(verdict)
        for cause in ("password", "rate", "other-site"):
            self.refused.labels(cause)

    def say_wrong_passed(self, draws: int, found: tuple[float, float, float] | None) -> None:
        """Say the estimate of wrong ones among what passes: (estimate, low, high)."""
        self.draws.set(draws)
        for bound, value in zip(BOUNDS, found or (math.nan,) * len(BOUNDS), strict=True):
            self.wrong_passed.labels(bound).set(value)
