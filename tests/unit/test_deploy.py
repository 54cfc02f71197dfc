"""Image, compose and chart, checked by the programs that will read them; nothing here starts a container."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands.shared import tables
from foundation.settings import load
from tests.debian import on_path, program
from tests.pinned import go_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "winnow"
BIN = Path(sys.executable).parent
COMPOSE_GO = "github.com/compose-spec/compose-go/v2/cmd@v2.13.0"
KUBERNETES = ("1.25.0", "1.30.0", "1.34.0")
EVERYTHING = {
    "monitoring": {"enabled": True, "runbookBase": "https://runbooks.example.org/", "labels": {"release": "prometheus"}},
    "secretEnvironment": ["winnow-store"],
    "secretFiles": ["kafka-password"],
    "imagePullSecrets": [{"name": "pull"}],
    "gate": {
        "gpus": 1,
        "rules": '[[rule]]\nname = "phone"\ncheck = "phone"\nfield = "phone"\n',
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "autoscaling": {"kind": "keda", "triggerAuthentication": "kafka"},
    },
    "review": {"rebuild": True, "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"}},
    "trainer": {"gpus": 1, "environment": {"WINNOW_REGISTRY__SIGNING_KEY": "/run/secrets/signing/key.pem"}, "secretFiles": ["signing"]},
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    "settings": {
        "kafka": {
            "bootstrap_servers": "kafka:9093",
            "extra": {"security.protocol": "SASL_SSL", "sasl.mechanisms": "SCRAM-SHA-512", "receive.message.max.bytes": 200_000_000},
            "secrets": {"sasl.password": "/run/secrets/kafka-password/password"},
        },
        "registry": {"url": "s3://models/winnow"},
        "gate": {"audit_rate": 0.02, "max_poll_records": 4000, "cache_records": 100000},
        "train": {"verdict_words": ["right", "wrong"], "learning_rate": 0.0002},
    },
}
VALUES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "everything": EVERYTHING,
    "least": {
        "gate": {"autoscaling": {"kind": "hpa"}, "podDisruptionBudget": {"enabled": False}},
        "review": {"enabled": False}, "trainer": {"enabled": False}, "topics": {"create": False}, "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False}, "monitoring": {"enabled": True},
    },
    "store in a database": {"review": {"storage": {"enabled": False}}},
}  # fmt: skip


def run(*command: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def rendered(place: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    (place / "values.yaml").write_text(yaml.safe_dump(values))
    done = run(BIN / "helm", "template", "twins", CHART, "--values", place / "values.yaml", "--namespace", "twins")
    assert (done.returncode, done.stderr) == (0, "")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_is_strictly_valid(tmp_path: Path, name: str) -> None:
    found = rendered(tmp_path, VALUES[name])
    lint = run(BIN / "helm", "lint", "--strict", CHART, "--values", tmp_path / "values.yaml")
    assert lint.returncode == 0, lint.stdout
    assert "[WARNING]" not in lint.stdout
    core = [each for each in found if not each["apiVersion"].startswith(("monitoring.coreos.com", "keda.sh"))]
    (tmp_path / "core.yaml").write_text(yaml.safe_dump_all(core))
    for version in KUBERNETES:
        done = run(BIN / "kubernetes-validate", "--strict", "-k", version, tmp_path / "core.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARN" not in done.stdout + done.stderr


def test_the_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    [gate] = of_kind(rendered(tmp_path, {}), "StatefulSet").values()
    gate["spec"]["replicaz"] = 2
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(gate))
    assert run(BIN / "kubernetes-validate", "--strict", "-k", KUBERNETES[-1], tmp_path / "wrong.yaml").returncode != 0


@pytest.mark.parametrize("name", VALUES)
def test_the_settings_that_a_release_mounts_are_winnows(tmp_path: Path, name: str) -> None:
    found = of_kind(rendered(tmp_path, VALUES[name]), "ConfigMap")["twins"]
    (tmp_path / "winnow.toml").write_text(found["data"]["winnow.toml"])
    settings = load(tmp_path / "winnow.toml", tables(), {})
    assert settings["gate"].metrics_bind == "0.0.0.0"  # type: ignore[attr-defined]
    if name == "everything":
        asked = EVERYTHING["settings"]
        written = tomllib.loads(found["data"]["winnow.toml"])
        assert written["registry"] == asked["registry"]  # type: ignore[index]
        extra = {name: str(value) for name, value in asked["kafka"]["extra"].items()}  # type: ignore[index]
        assert written["kafka"] == {**asked["kafka"], "extra": extra}  # type: ignore[index]
        assert extra["receive.message.max.bytes"] == "200000000"
        assert written["gate"]["audit_rate"] == 0.02
        assert written["train"]["learning_rate"] == 0.0002
        assert settings["gate"].max_poll_records == 4000  # type: ignore[attr-defined]
        assert found["data"]["rules.toml"].strip() == EVERYTHING["gate"]["rules"].strip()  # type: ignore[index]


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_is_restricted(tmp_path: Path, name: str) -> None:
    found = rendered(tmp_path, VALUES[name])
    pods = [each["spec"]["template"]["spec"] for each in found if each["kind"] in ("StatefulSet", "Deployment", "Job")]
    assert len(pods) == (1 if name == "least" else 4)
    for pod in pods:
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            context = container["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_what_is_asked_for_is_there(tmp_path: Path) -> None:
    found = rendered(tmp_path, EVERYTHING)
    [scaled] = of_kind(found, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "twins-gate"}
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["metadata"]["bootstrapServers"] == "kafka:9093"
    gate = of_kind(found, "StatefulSet")["twins-gate"]
    assert "replicas" not in gate["spec"], "KEDA decides, and an upgrade must not set it back"
    [container] = gate["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "secret-kafka-password", "mountPath": "/run/secrets/kafka-password", "readOnly": True} in container["volumeMounts"]
    review = of_kind(found, "Deployment")["twins-review"]
    assert review["spec"]["template"]["spec"]["containers"][0]["args"] == ["review", "--rebuild"]
    assert of_kind(rendered(tmp_path, {}), "Deployment")["twins-review"]["spec"]["template"]["spec"]["containers"][0]["args"] == ["review"]
    assert set(of_kind(found, "ServiceMonitor")) == {"twins-gate", "twins-review", "twins-trainer"}
    assert of_kind(found, "Deployment")["twins-review"]["spec"]["strategy"] == {"type": "Recreate"}, "two owners would fence each other"
    [rules] = of_kind(found, "PrometheusRule").values()
    deployed = yaml.safe_load(
        (DEPLOY / "prometheus" / "rules.yaml").read_text().replace("runbook_url: ", "runbook_url: https://runbooks.example.org/")
    )
    assert rules["spec"] == deployed
    holders = {
        name: [mount["name"] for mount in each["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] if "signing" in mount["name"]]
        for name, each in {**of_kind(found, "StatefulSet"), **of_kind(found, "Deployment")}.items()
    }
    assert holders == {"twins-gate": [], "twins-review": [], "twins-trainer": ["mine-signing"]}, "the private key is the trainer's alone"
    boards = of_kind(found, "ConfigMap")["twins-dashboards"]["data"]
    assert {name: json.loads(text) for name, text in boards.items()} == {
        path.name: json.loads(path.read_text()) for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
    }


def test_nobody_is_woken_for_what_is_not_installed(tmp_path: Path) -> None:
    [rules] = of_kind(rendered(tmp_path, VALUES["least"]), "PrometheusRule").values()
    groups = {group["name"] for group in rules["spec"]["groups"]}
    assert {"winnow-gate", "winnow-model", "winnow-slo"} <= groups
    assert not groups & {"winnow-review", "winnow-trainer"}


def test_the_cpu_image_installs_what_can_be_installed_together(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    [kept] = re.findall(r"sed -nE '([^']+)' requirements-run.txt \| grep", text)
    [left_out] = re.findall(r"grep -vE '([^']+)'", text)
    lines = run("sed", "-nE", kept, ROOT / "requirements-run.txt").stdout.splitlines()
    rest = tmp_path / "rest.txt"
    rest.write_text("\n".join(line for line in lines if not re.match(left_out, line)) + "\n")
    assert len(lines) > 90
    done = run(BIN / "uv", "pip", "install", "--dry-run", "--no-deps", "--python", sys.executable, "-r", rest)
    assert done.returncode == 0, done.stderr
    assert "Would make no changes" in done.stderr, "all of it is what the tests run with"


@pytest.mark.parametrize("values", [{"gate": {"replics": 2}}, {"gate": {"autoscaling": {"kind": "often"}}}, {"unknown": 1}])
def test_values_that_are_none_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = run(BIN / "helm", "template", "twins", CHART, "--values", tmp_path / "values.yaml")
    assert "values don't meet the specifications of the schema" in done.stderr


def test_hadolint_has_nothing_to_say_and_what_is_copied_is_there() -> None:
    dockerfile = DEPLOY / "Dockerfile"
    done = run(BIN / "hadolint", dockerfile)
    assert (done.returncode, done.stdout) == (0, "")
    text = dockerfile.read_text()
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for name in line.split()}
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in allowed)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name for name in packages if name != "deploy"} <= copied
    assert re.search(r"^USER 10001", text, re.M)
    assert "HEALTHCHECK" in text


def test_what_the_image_installs_is_what_is_tested() -> None:
    def pins(name: str) -> set[str]:
        return {line.rstrip(" \\") for line in (ROOT / name).read_text().splitlines() if re.match(r"[A-Za-z0-9_.-]+==", line)}

    assert pins("requirements-run.txt") < pins("requirements.txt")
    assert not {line for line in pins("requirements-run.txt") if line.startswith(("pytest", "mypy", "ruff"))}


def test_the_package_runs_when_it_is_installed_and_not_edited(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "results"))
    done = run(BIN / "uv", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", place, source)
    assert done.returncode == 0, done.stderr
    for name in ("review/templates/review.html", "review/strings/zh.toml", "review/static/review.js", "model_registry/assets/report.css"):
        assert (place / name).is_file(), name
    environment = {**os.environ, "PYTHONPATH": str(place)}
    said = run(sys.executable, "-m", "winnow", "config", "show", cwd=tmp_path, env=environment)
    assert "[gate]" in said.stdout, said.stderr


def test_compose_is_what_its_specification_says() -> None:
    done = run(go_program(COMPOSE_GO), "compose.yaml", cwd=DEPLOY)
    assert (done.returncode, done.stderr) == (0, "")
    model = yaml.safe_load(done.stdout)
    services = model["services"]
    assert set(services) == {"kafka", "topics", "gate", "review", "trainer", "prometheus", "alertmanager", "grafana", "object-store"}
    for name, service in services.items():
        assert service["profiles"], f"{name} starts only when it is asked for"
        for volume in service.get("volumes", ()):
            assert volume["type"] != "bind" or Path(volume["source"]).exists(), volume
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", f"{name} is open to this machine alone"
    for name in ("topics", "gate", "review", "trainer"):
        named = {key: value for key, value in services[name]["environment"].items() if key.startswith("WINNOW_")}
        assert load(None, tables(), named)["kafka"].bootstrap_servers == "kafka:9092"  # type: ignore[attr-defined]
        assert services[name]["read_only"] is True
        assert services[name]["environment"]["AWS_ENDPOINT_URL"] is None, "a name without a value is not set: nothing is no endpoint"
    assert services["topics"]["depends_on"]["kafka"]["required"] is False, "a Kafka of one's own needs no second one"
    assert {"/deploy/secrets/", "/deploy/signing.pem"} <= set((ROOT / ".gitignore").read_text().splitlines()), "secrets are made, not kept"
    assert all(Path(secret["file"]).parent == DEPLOY / "secrets" for secret in model["secrets"].values())


def test_what_the_page_for_operators_prints_for_files_fits_compose_and_chart(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operate.md").read_text()
    files, values, signing = (textwrap.dedent(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.S))
    (tmp_path / "override.yaml").write_text(files)
    (tmp_path / "signing.yaml").write_text(signing)
    done = run(go_program(COMPOSE_GO), "compose.yaml", tmp_path / "override.yaml", tmp_path / "signing.yaml", cwd=DEPLOY)
    assert (done.returncode, done.stderr) == (0, "")
    services = yaml.safe_load(done.stdout)["services"]
    for name in ("topics", "gate", "review", "trainer"):
        targets = [volume["target"] for volume in services[name]["volumes"]]
        own = ["/run/signing.pem"] if name == "trainer" else []
        assert targets == ["/var/lib/winnow", "/run/files", *own], (
            "the volume of before is still there, the private key the trainer's alone"
        )
        named = [str(each).partition("=")[0] for each in services[name]["environment"]]
        assert ("WINNOW_REGISTRY__SIGNING_KEY" in named) == (name == "trainer")
    [block] = [block for block in re.findall(r"```sh\n(.*?)```", page, re.S) if block.startswith("WINNOW_KAFKA__EXTRA")]
    named = {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in block.splitlines())}
    compose = load(None, tables(), named)["kafka"]
    found = of_kind(rendered(tmp_path, yaml.safe_load(values)), "ConfigMap")["twins"]
    (tmp_path / "winnow.toml").write_text(found["data"]["winnow.toml"])
    chart = load(tmp_path / "winnow.toml", tables(), {})["kafka"]
    assert chart.bootstrap_servers == "a.example.org:9093,b.example.org:9093"  # type: ignore[attr-defined]
    for kafka in (compose, chart):
        assert kafka.extra["security.protocol"] == "SASL_SSL"  # type: ignore[attr-defined]
        assert set(kafka.secrets) == {"sasl.password"}  # type: ignore[attr-defined]


def test_prometheus_and_alertmanager_take_their_files(tmp_path: Path) -> None:
    place = DEPLOY / "prometheus"
    promtool = program("prometheus", on_path("promtool"))
    assert run(promtool, "check", "config", place / "prometheus.yaml").returncode == 0
    amtool = program("prometheus-alertmanager", on_path("amtool"))
    # Debian's amtool is older than url_file; what it checks is the rest, and the routing
    config = tmp_path / "alertmanager.yaml"
    config.write_text(re.sub(r"url_file: [^,]+", "url: http://127.0.0.1/", (place / "alertmanager.yaml").read_text()))
    done = run(amtool, "check-config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = yaml.safe_load((place / "rules.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        severity = rule["labels"]["severity"]
        done = run(amtool, "config", "routes", "test", f"--config.file={config}", f"severity={severity}", f"alertname={rule['alert']}")
        assert done.stdout.split() == [severity], rule["alert"]
