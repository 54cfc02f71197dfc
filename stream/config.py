"""The gate's settings tables: [kafka], [topics], [gate]. Each setting is documented once, by the string under it."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from foundation.settings import Table

_OURS = ("isolation.level", "enable.auto.commit", "group.id", "group.instance.id", "transactional.id", "enable.idempotence",
         "bootstrap.servers", "group.protocol", "enable.partition.eof")  # fmt: skip

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class KafkaSettings(Table):
    """Where Kafka is and how to talk to it."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Brokers to ask first, `host:port` separated by commas."""
    group_protocol: Literal["auto", "consumer", "classic"] = "auto"
    """Rebalance protocol: `consumer` is KIP-848, `classic` is cooperative-sticky, `auto` asks the broker."""
    connect_timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long a broker may take to answer before the command gives up with exit code 3."""
    transaction_timeout_seconds: Annotated[float, Field(ge=1)] = 10.0
    """How long a dead gate's open transaction may hold up readers before Kafka aborts it."""
    extra: dict[str, str] = {}
    """Settings passed to librdkafka as they are; isolation, auto-commit, ids and idempotence may not be touched."""

    secrets: dict[str, Path] = {}
    """Files with the values of librdkafka settings that nobody should read here, such as `"sasl.password" = "/run/secrets/kafka"`."""

    schema_registry: Annotated[str, Field(pattern=r"^https?://[^@]+$")] | None = None
    """Address of a schema registry that speaks Confluent's API: values framed by its Avro, Protobuf or JSON Schema serializers are read
    with their schemas, and leave byte for byte as they came. Unset takes no value for framed. It holds no password; it needs the extra
    `schemas`."""
    schema_registry_extra: dict[str, str | int] = {}
    """Settings passed to the registry's client as they are, such as `"ssl.ca.location"`; the address is not among them."""
    schema_registry_secrets: dict[str, Path] = {}
    """Files with the values of such settings that nobody should read here, such as `"basic.auth.user.info" = "/run/secrets/registry"`."""

    @field_validator("schema_registry_extra", "schema_registry_secrets")
    @classmethod
    def _has_no_address(cls, given: dict[str, Any]) -> dict[str, Any]:
        if "url" in given:
            raise ValueError("the address of the registry is kafka.schema_registry")
        return given

    @field_validator("extra", "secrets")
    @classmethod
    def _leaves_ours_alone(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in _OURS:
            if name in given:
                raise ValueError(f"{name} belongs to winnow: changing it would break exactly-once")
        return given


class TopicSettings(Table):
    """The names of the topics."""

    records: str = "twin.records"
    """What producers write."""
    clean: str = "twin.clean"
    """Right records, bytes unchanged."""
    quarantine: str = "twin.quarantine"
    """Held records, bytes unchanged, with the reason."""
    dead_letter: str = "twin.dead-letter"
    """What could not be read, bytes unchanged, with the reason."""
    audit: str = "twin.audit"
    """Copies of sampled records for blind review."""
    verdicts: str = "twin.verdicts"
    """One event per human verdict, keyed by decision id."""

    @model_validator(mode="after")
    def _are_topics(self) -> "TopicSettings":
        names = self.model_dump()
        for name, topic in names.items():
            if not _TOPIC.fullmatch(topic):
                raise ValueError(f"topics.{name} = {topic!r}: Kafka's topics have letters, digits and . _ - only, at most 249")
        twice = next((name for name in names if list(names.values()).count(names[name]) > 1), None)
        if twice is not None:
            raise ValueError(f"topics.{twice} = {names[twice]}: two topics have this name; each needs its own")
        return self


class ServeSettings(Table):
    """How `winnow serve` is reached; it judges by the settings of [gate]."""

    bind: str = "127.0.0.1"
    """Address that the service listens on; beyond loopback it needs `serve.token_file` or `serve.open`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Port of the service; 0 takes a free one and prints it."""
    token_file: Path | None = None
    """File with the token that callers send as `Authorization: Bearer TOKEN`; read again when it changes."""
    open: bool = False
    """Answer callers beyond loopback without a token, where a network lets no stranger through."""
    most_records: Annotated[int, Field(ge=1)] = 4_096
    """Most records or queries in one request."""
    most_bytes: Annotated[int, Field(ge=1_024)] = 33_554_432
    """Longest request body."""
    most_requests: Annotated[int, Field(ge=1)] = 64
    """Most requests that are read and answered at once; more are told to come back."""
    read_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long a request may take to come whole."""


class GateSettings(Table):
    """How records are judged."""

    group: str = "winnow"
    """Consumer group; gates of one group share the work."""
    instance: str | None = None
    """Name of this gate in its group, part of its transactional id; unset means host name and lowest free slot."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """Port of /metrics, /livez and /readyz on 127.0.0.1 (plus the slot of further gates on a host); 0 turns them off."""
    metrics_bind: str = "127.0.0.1"
    """Address that /metrics, /livez and /readyz listen on."""
    traces: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """OTLP address of an OpenTelemetry collector, such as http://127.0.0.1:4318/v1/traces: a span for every batch, linked to the
    sampled `traceparent` of its records. Unset sends nothing; the header leaves as it came in any case."""
    mode: Literal["enforce", "observe", "rules"] = "enforce"
    """`enforce` sorts; `observe` sends everything to clean and says what it would have done; `rules` uses no model."""
    model: str = "champion"
    """Alias or version of the model in service."""
    rules_file: Path | None = None
    """TOML file of rules; unset means only the checks on reading."""
    format: Literal["auto", "json", "text"] = "auto"
    """How values are read: `auto` takes a first non-space byte of { or [ for JSON."""
    threshold: Share | None = None
    """p_chosen from which a record is clean; unset means the threshold that belongs to the model version."""
    partitioner: Literal["same", "murmur2"] = "same"
    """Output partition: `same` is input partition modulo output count, `murmur2` hashes the key as Java clients do."""
    observe_audit: Share = 1.0
    """In observe mode, the share of would-be-held records copied to the audit topic."""
    audit_rate: Share = 0.01
    """Share of all judged records that the flat lottery draws for blind review; certificates are made from these."""
    audit_extra_rate: Share = 0.05
    """Share drawn in addition from the records near the threshold, where an answer teaches most."""
    audit_near: Annotated[float, Field(ge=0)] = 1.0
    """How far calibrated d may lie from the threshold's, in nats, for the extra lottery."""
    audit_key_file: Path | None = None
    """File with the secret key of the lotteries; unset means no key, and whoever knows winnow can foresee the draws."""
    watch_seconds: Annotated[float, Field(gt=0)] = 2.0
    """How often the alias and the rules file are looked at for something new."""
    shadow_share: Share = 0.1
    """Share of the judged records that the challenger scores too, beside the champion; only metrics tell of it."""
    explain: bool = True
    """Say in the header of held records which fields made them suspect; costs a forward pass per field."""
    max_hold_share: Share = 0.5
    """Held share of the last 1,000 records, by rules or model, above which the flood alarm is raised."""
    drift_psi: Annotated[float, Field(ge=0)] = 0.25
    """Population stability index of d, or of a field, over what passes, above which there is drift; 0 looks for none."""
    drift_share: Share = 0.1
    """Share of the passing records that are compared with the version's baseline."""
    drift_audit_rate: Share = 0.03
    """Share of all judged records that the flat lottery draws while there is drift, if that is more than `gate.audit_rate`; 0 leaves
    it as it is."""
    flood_rollback: bool = False
    """Go back to the previous champion when the model alone holds so much; once, until somebody promotes or unpins."""
    max_poll_records: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    """Most records in one transaction; a slow model takes fewer, so that a transaction stays near `batch_seconds`."""
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 10.0
    """How long a record that has come may wait for others to share its batch, where the gate has nothing else to do."""
    batch_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How long judging one poll should take; sets how many records are polled at once."""
    batch_tokens: Annotated[int, Field(ge=64)] | None = None
    """Most tokens in one forward pass, padding included; unset means 8,192 on a CPU and 65,536 on a GPU. What is fastest up to it is
    measured at start, and halved by itself when memory runs out."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What matrix products run in: `auto` is bfloat16 on a GPU, on a CPU what is faster there; float32 where the version's fingerprint does
    not hold in bfloat16."""
    cache_records: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """How many records the reward cache remembers, about 300 bytes each; a record that reads as one before it is not scored
    again by the same model. 0 turns it off."""
    device: str = "auto"
    """`auto` takes the GPU if there is one; else a torch device such as `cpu` or `cuda:1`. Of gates alone: training takes a GPU that it
    sees (`CUDA_VISIBLE_DEVICES`)."""
    reading_process: bool = True
    """Decode, check and tokenise in a process of its own beside the gate; false does it in the gate, which saves 90 MB."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Torch threads on the CPU; 0 measures at start how many score fastest, up to torch's own choice."""
