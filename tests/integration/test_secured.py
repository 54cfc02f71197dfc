"""The main job over SASL and TLS, with the password from a file; what is refused is said in one sentence."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType

from demo.ledger import read_ledger
from demo.twins import take
from stream.cluster import make_topics
from stream.config import KafkaSettings, TopicSettings
from tests.integration.conftest import send, winnow
from tests.integration.secured import PASSWORD, USER, Secured, secured_broker

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_broker(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


@pytest.fixture
def write(secured: Secured, tmp_path: Path, registry_url: str) -> Callable[[str], Path]:
    """Write settings for the secured listener, with this password in a file."""

    def written(password: str) -> Path:
        secret = tmp_path / "password"
        secret.write_text(password + "\n")
        extra = ", ".join(f'"{name}" = "{value}"' for name, value in secured.extra.items())
        path = tmp_path / "winnow.toml"
        path.write_text(
            f'[kafka]\nbootstrap_servers = "{secured.secured}"\nconnect_timeout_seconds = 6\nextra = {{ {extra} }}\n'
            f'secrets = {{ "sasl.password" = "{secret}" }}\n'
            f'[registry]\nurl = "{registry_url}"\n[gate]\nmetrics_port = 0\nthreads = 2\nprecision = "float32"\n[review]\nport = 1\n'
        )
        return path

    return written


def test_records_are_judged_and_routed_once_over_sasl_and_tls(secured: Secured, write: Callable[[str], Path]) -> None:
    config = write(PASSWORD)
    made = winnow("topics", "--partitions", "2", "--config", config)
    assert made.returncode == 0, made.stderr
    topics, plain = TopicSettings(), KafkaSettings(bootstrap_servers=secured.plain)
    send(plain, topics.records, [{"key": twin.key, "value": twin.value} for twin in take(800, 7)])
    done = winnow("gate", "--until-idle", "2", "--config", config)
    assert done.returncode == 0, done.stderr
    ledger = read_ledger(secured.plain, topics)
    assert (ledger.records, ledger.lost, ledger.repeated, ledger.disordered) == (800, [], [], 0)
    assert PASSWORD not in done.stdout + done.stderr + winnow("config", "show", "--config", config).stdout
    well = winnow("doctor", "--no-model", "--config", config)
    assert well.returncode == 0, well.stdout
    states = {found["what"]: found["state"] for found in map(json.loads, well.stdout.splitlines())}
    assert (states["rights"], states["topics"], states["registry"]) == ("well", "well", "well")


def test_a_password_that_is_refused_is_said_so(write: Callable[[str], Path]) -> None:
    refused = winnow("gate", "--until-idle", "1", "--config", write("another"))
    assert refused.returncode == 3
    [sentence] = [line for line in refused.stderr.splitlines() if line.startswith("winnow:")]
    assert "uthentication" in sentence
    assert "another" not in sentence
    config = write("x")
    (config.parent / "password").unlink()
    missing = winnow("gate", "--config", config)
    assert missing.returncode == 2
    assert 'kafka.secrets."sasl.password"' in missing.stderr


def test_the_doctor_names_the_right_that_is_missing(secured: Secured, write: Callable[[str], Path]) -> None:
    make_topics(KafkaSettings(bootstrap_servers=secured.plain), TopicSettings(), 2)
    admin = AdminClient({"bootstrap.servers": secured.plain})
    acls = [
        acl(ResourceType.TOPIC, "twin.quarantine", "User:somebody", AclOperation.WRITE),
        acl(ResourceType.TOPIC, "twin.quarantine", f"User:{USER}", AclOperation.READ),
        acl(ResourceType.GROUP, "winnow", "User:somebody", AclOperation.READ),
        acl(ResourceType.TRANSACTIONAL_ID, "winnow-", "User:somebody", AclOperation.WRITE, ResourcePatternType.PREFIXED),
    ]
    with allowed(admin, acls):
        found = winnow("doctor", "--no-model", "--config", write(PASSWORD))
    assert found.returncode == 3
    [settings] = [said for said in map(json.loads, found.stdout.splitlines()) if said["what"] == "topics"]
    assert settings["state"] == "warning", "who may not read a topic's settings may judge all the same"
    assert "DESCRIBE_CONFIGS" in settings["mend"]
    [rights] = [said for said in map(json.loads, found.stdout.splitlines()) if said["what"] == "rights"]
    assert (rights["state"], rights["said"]) == ("broken", "missing: WRITE on twin.quarantine, READ on group winnow")
    assert "kafka-acls" in rights["mend"]
    [transactions] = [said for said in map(json.loads, found.stdout.splitlines()) if said["what"] == "transactions"]
    assert (transactions["state"], transactions["said"].split(";")[0]) == ("warning", "winnow-winnow-doctor may not start transactions")
    assert "--resource-pattern-type prefixed" in transactions["mend"]


def test_the_doctor_is_content_with_the_transactional_ids_of_one_group(secured: Secured, write: Callable[[str], Path]) -> None:
    make_topics(KafkaSettings(bootstrap_servers=secured.plain), TopicSettings(), 2)
    admin = AdminClient({"bootstrap.servers": secured.plain})
    narrow = [
        acl(ResourceType.TRANSACTIONAL_ID, "winnow-winnow-", f"User:{USER}", may, ResourcePatternType.PREFIXED)
        for may in (AclOperation.WRITE, AclOperation.DESCRIBE)
    ]
    with allowed(admin, narrow):
        found = winnow("doctor", "--no-model", "--config", write(PASSWORD))
    [transactions] = [said for said in map(json.loads, found.stdout.splitlines()) if said["what"] == "transactions"]
    assert (transactions["state"], transactions["said"]) == ("well", "winnow-winnow-doctor may start transactions")


@contextmanager
def allowed(admin: AdminClient, acls: list[AclBinding]) -> Iterator[None]:
    """Let these ACLs be in force for as long as the block lasts."""
    for created in admin.create_acls(acls).values():
        created.result(10)
    try:
        yield
    finally:
        for each in acls:
            for deleted in admin.delete_acls([_filter(each)]).values():
                deleted.result(10)


def acl(
    kind: ResourceType, name: str, who: str, may: AclOperation, pattern: ResourcePatternType = ResourcePatternType.LITERAL
) -> AclBinding:
    return AclBinding(kind, name, pattern, who, "*", may, AclPermissionType.ALLOW)


def _filter(acl: AclBinding) -> object:
    from confluent_kafka.admin import AclBindingFilter

    return AclBindingFilter(acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type)
