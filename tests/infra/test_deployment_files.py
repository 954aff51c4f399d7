"""The deployment files: each passes a validator that can fail, versions agree, nothing is open or secret."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.deployment_files import (
    INFRA,
    InvalidFileError,
    check_compose,
    check_dockerfile,
    check_kubernetes,
    check_ray_cluster,
    checks,
    interpolate,
    read_variables,
)

ROOT = INFRA.parent
COMPOSE = (INFRA / "compose.yaml").read_text("utf-8")
DOCKERFILE = (INFRA / "Dockerfile").read_text("utf-8")
FILES = {path.relative_to(INFRA).as_posix(): check for path, check in checks().items()}
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_valid(name: str) -> None:
    """Dockerfile, compose file, Ray cluster and every Kubernetes file pass their validators."""
    FILES[name](INFRA / name)


# File, what is broken in it, with what, and what the validator has to speak of.
BROKEN = [
    ("Dockerfile", "python:3.11.14-slim-bookworm", "python", "DL3006"),
    ("Dockerfile", "WORKDIR /build", "RUN cd /build", "DL3003"),
    ("Dockerfile", "COPY flows", "COPPY flows", "unexpected"),
    ("compose.yaml", "    command: [infra/worker.sh]", "    comand: [infra/worker.sh]", "comand"),
    ("compose.yaml", '"127.0.0.1:4200:4200"', '"127.0.0.1:4200:http"', "port"),
    ("compose.yaml", "ray-head: { condition: service_healthy }", "ray-hed: {}", "ray-hed"),
    ("compose.yaml", "volumes: [data:/data]", "volumes: [deta:/data]", "deta"),
    ("compose.yaml", "interval: 5s", "interval: soon", "interval"),
    ("ray-cluster.yaml", "max_workers: 8\nup", "max_worker: 8\nup", "max_worker"),
    ("ray-cluster.yaml", "resources: { CPU: 4, GPU: 1 }", "resources: { CPU: four }", "four"),
    ("ray-cluster.yaml", "head_node_type: head", "head_node_type: heat", "heat"),
    ("kubernetes/ray-cluster.yaml", "maxReplicas: 8", "maxReplica: 8", "maxReplicas"),
    ("kubernetes/ray-cluster.yaml", "runAsNonRoot: true", "runAsNonRoot: yes please", "boolean"),
    ("kubernetes/ray-cluster.yaml", "volumeMounts:", "volumeMount:", "volumeMount"),
    ("kubernetes/render-job.yaml", "nvidia.com/gpu: 1 }", "nvidia.com/gpu: one }", "one"),
    ("kubernetes/render-job.yaml", "requests: { cpu: \"2\"", "requests: { cpu: two", "two"),
    ("kubernetes/prefect-worker.yaml", "secretKeyRef", "secretKeyReff", "secretKeyReff"),
    ("kubernetes/prefect-worker.yaml", "apiVersion: apps/v1", "apiVersion: apps/v0", "v0"),
    ("kubernetes/namespace.yaml", "protocol: UDP", "protocol: [UDP]", "UDP"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "found", "instead", "complaint"), BROKEN)
def test_a_broken_file_is_refused(
    name: str, found: str, instead: str, complaint: str, tmp_path: Path
) -> None:
    """Each validator refuses a copy with one fault in it, and its message speaks of that fault."""
    text = (INFRA / name).read_text("utf-8")
    assert found in text
    copy = tmp_path / Path(name).name
    copy.write_text(text.replace(found, instead, 1), "utf-8")
    shutil.copy(INFRA / ".env.example", tmp_path)
    with pytest.raises(InvalidFileError, match=re.escape(complaint)):
        FILES[name](copy)


def test_ray_and_prefect_are_of_one_version_everywhere() -> None:
    """Every Ray, Prefect, zs2 and Python version in a deployment file is that of constraints.txt and
    pyproject.toml: a Ray node of another version cannot join."""
    expected = {
        r"rayVersion: [\"']?([\w.]+)": PINNED["ray"],
        r"rayproject/ray:([\w.]+)": PINNED["ray"],
        r"prefecthq/prefect:([\w.]+)": PINNED["prefect"],
        r"\bzs2:([\w.]+)-(?:cpu|cuda)": VERSION,
        r"\bpython:(\d+\.\d+)[\w.]*-slim": "3.11",
    }
    found = {
        (pattern, name, version)
        for pattern in expected
        for name in (*FILES, "README.md")
        if (INFRA / name).exists()
        for version in re.findall(pattern, (INFRA / name).read_text("utf-8"))
    }
    assert {pattern for pattern, _, _ in found} >= {r"rayVersion: [\"']?([\w.]+)"}
    assert [each for each in found if each[2] != expected[each[0]]] == []


def containers(item: Any) -> Iterator[dict[str, Any]]:
    """Every container of a file, wherever it stands."""
    if isinstance(item, dict):
        if "image" in item and "name" in item:
            yield item
        for part in item.values():
            yield from containers(part)
    elif isinstance(item, list):
        for part in item:
            yield from containers(part)


def kubernetes_items() -> list[dict[str, Any]]:
    return [
        item
        for path in sorted((INFRA / "kubernetes").glob("*.yaml"))
        for item in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def test_images_are_pinned() -> None:
    """Every image has a tag that says its version."""
    named = re.findall(r"^\s*(?:-\s+)?image: (\S+)", COMPOSE, re.MULTILINE)
    named += [container["image"] for item in kubernetes_items() for container in containers(item)]
    named += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE)
    assert len(named) > 8
    assert [image for image in named if not re.search(r":v?\d+[\w.-]+$", image)] == []


def test_ports_are_published_on_loopback_alone() -> None:
    """No port of the compose file can be reached from another machine."""
    services = yaml.safe_load(COMPOSE)["services"].values()
    ports = [port for service in services for port in service.get("ports", [])]
    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


SECRET = re.compile(r"PASSWORD|TOKEN|AUTH_STRING|SECRET|ACCESS_KEY")


def test_secrets_come_from_the_environment() -> None:
    """What is secret in the compose file is a variable without which it does not start, all of
    them named and empty in .env.example; in Kubernetes it is a reference to a Secret."""
    for service in yaml.safe_load(COMPOSE)["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name) and name != "RAY_AUTH_MODE":
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name
    asked = read_variables((INFRA / ".env.example").read_text("utf-8"))
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert required <= set(asked)
    assert set(asked.values()) == {""}
    for item in kubernetes_items():
        for container in containers(item):
            for variable in container.get("env", []):
                assert not (SECRET.search(variable["name"]) and "value" in variable) or (
                    variable["name"] == "RAY_AUTH_MODE"
                )


@pytest.mark.parametrize("missing", sorted(set(re.findall(r"\$\{(\w+):\?", COMPOSE))))
def test_nothing_starts_without_a_password(missing: str) -> None:
    """The compose file is refused while one of the passwords is empty, and says which."""
    asked = dict.fromkeys(read_variables((INFRA / ".env.example").read_text("utf-8")), "x")
    with pytest.raises(InvalidFileError, match=missing):
        interpolate(COMPOSE, {**asked, missing: ""})


def test_interpolation_is_that_of_compose() -> None:
    """Defaults, required and plain variables, and $$ for a dollar."""
    text = "${A:-a} ${B-b} $C ${C} $$D ${E:?no}"
    assert interpolate(text, {"C": "c", "E": "e"}) == "a b c c $D e"


def test_pods_may_do_nothing() -> None:
    """Every pod runs as a user who is not root, without capabilities or a way to get them, within
    limits, as the namespace's standard "restricted" demands."""
    items = kubernetes_items()
    found = [container for item in items for container in containers(item)]
    assert len(found) == 5
    for container in found:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    pods = [line for line in yaml.safe_dump_all(items).splitlines() if "runAsNonRoot: true" in line]
    assert len(pods) == len(found)


def test_the_job_has_the_clusters_nodes() -> None:
    """RayJob and RayCluster describe the same cluster, so that one mend does for both."""
    by_kind = {item["kind"]: item.get("spec") for item in kubernetes_items()}
    assert by_kind["RayJob"]["rayClusterSpec"] == by_kind["RayCluster"]


def test_the_image_copies_what_there_is() -> None:
    """Every file that the Dockerfile copies is in the repository and let through by the ignore
    file; the stages that the comments name are there, and what runs is not root."""
    ignored = (INFRA / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_through = [line[1:] for line in ignored if line.startswith("!")]
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert {"flows", "zs2", "constraints.txt", "infra/worker.sh"} <= set(copied)
    for pattern in copied:
        found = list(ROOT.glob(pattern))
        assert found, pattern
        for path in found:
            name = path.relative_to(ROOT)
            assert any(name.match(p) or p in map(str, name.parents) for p in let_through), name
    assert re.findall(r"^FROM service AS (\w+)", DOCKERFILE, re.MULTILINE) == ["cuda", "cpu"]
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["1000:1000"]


def test_the_packages_of_the_image_are_the_projects() -> None:
    """All top-level packages that pyproject.toml installs are copied into the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= set(re.findall(r"^COPY (\w+) \w+$", DOCKERFILE, re.MULTILINE))


def test_the_checks_are_of_the_right_kind() -> None:
    """Every deployment file has its validator, none was left out."""
    assert FILES["Dockerfile"] is check_dockerfile
    assert FILES["compose.yaml"] is check_compose
    assert FILES["ray-cluster.yaml"] is check_ray_cluster
    assert {name for name in FILES if name.startswith("kubernetes/")} == {
        "kubernetes/namespace.yaml",
        "kubernetes/prefect-worker.yaml",
        "kubernetes/ray-cluster.yaml",
        "kubernetes/render-job.yaml",
    }
    assert check_kubernetes.__name__ == "check_kubernetes"


README = (INFRA / "README.md").read_text("utf-8")


def test_the_readme_names_what_there_is() -> None:
    """Every file of this folder that infra/README.md names or links to is there."""
    named = set(re.findall(r"\]\(([\w./-]+)\)", README))
    named |= set(re.findall(r"(?:^|[\s=])(?:-f )?infra/([\w./-]+\w)", README))
    table = README.partition("## One server")[0]
    named |= {name for name in re.findall(r"`([\w./-]+)`", table) if "-" not in name or "." in name}
    named -= {"render-manifest/bulk"}
    assert {"worker.sh", "kubernetes/", "object_store.md", ".env.example"} <= named
    made = {".env"}  # by the reader, of .env.example
    assert [name for name in sorted(named - made) if not (INFRA / name).exists()] == []


def test_the_way_to_a_nightly_run_has_ten_commands() -> None:
    """As infra/README.md promises; and it ends with the schedule switched on."""
    section = README.partition("## One server")[2].partition("\n## ")[0]
    lines = section.partition("```sh\n")[2].partition("```")[0].strip().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "prefect deployment schedule resume --all"
