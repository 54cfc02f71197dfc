"""A real broker that asks who one is: SASL over TLS with a certificate of its own, and rights by ACL; a plain listener beside it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from demo.broker import free_port, start_broker
from tests.debian import openssl

PASSWORD = "a password of this test"
USER = "winnow"


class Secured(NamedTuple):
    """Where the broker listens, and what a client needs to be let in."""

    plain: str
    secured: str
    extra: dict[str, str]


def certificate(place: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority; return it, and it with its key as Kafka reads both."""
    key, cert, both = place / "key.pem", place / "cert.pem", place / "both.pem"
    subprocess.run(
        [openssl(), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text(key.read_text() + cert.read_text())
    return cert, both


@contextmanager
def secured_broker(place: Path) -> Iterator[Secured]:
    """Run a broker with three listeners for as long as the block lasts."""
    cert, both = certificate(place)
    plain, secured, controller = free_port(), free_port(), free_port()
    listeners = f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secured}"
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    extra = {
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
        "listener.name.sasl_ssl.ssl.keystore.type": "PEM",
        "listener.name.sasl_ssl.ssl.keystore.location": str(both),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }
    client = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", "sasl.username": USER, "ssl.ca.location": str(cert)}
    broker = start_broker(plain, place / "kafka", extra)
    try:
        yield Secured(f"127.0.0.1:{plain}", f"127.0.0.1:{secured}", client)
    finally:
        broker.stop()
