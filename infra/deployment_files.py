"""Validate the deployment files of this folder: `python -m infra.deployment_files [--crds FOLDER]`.

Each goes through a validator that others wrote and that works offline; infra/README.md says what each
cannot see. `--crds` names a folder of KubeRay's custom resource definitions (its repository's
ray-operator/config/crd/bases, of the release in your cluster), for RayCluster and RayJob to be held against.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import compose_spec
import jsonschema
import kubernetes_validate
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler._private.util import prepare_config, validate_config

INFRA = Path(__file__).parent
KUBERNETES = "1.34"  # the version whose schemas hold
_VARIABLE = re.compile(
    r"\$\$|\$\{(?P<name>\w+)(?::?(?P<kind>[-?])(?P<rest>[^}]*))?\}|\$(?P<bare>\w+)"
)


class InvalidFileError(ValueError):
    """A deployment file that its validator refuses; the message is the validator's."""


def check_dockerfile(path: Path) -> None:
    """Lint a Dockerfile with hadolint; what it merely remarks counts too.

    Raises:
        InvalidFileError: with every line it complains of.
    """
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, "--no-color", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidFileError((done.stdout + done.stderr).strip())


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Fill in a compose file's variables as `docker compose` does.

    Raises:
        InvalidFileError: a variable that the file requires is missing or empty.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match["name"] or match["bare"]
        found = variables.get(name, "")
        if found or match["kind"] is None:
            return found
        if match["kind"] == "?":
            raise InvalidFileError(f"{name}: {match['rest'] or 'required'}")
        return match["rest"]

    return _VARIABLE.sub(value, text)


def read_variables(text: str) -> dict[str, str]:
    """The variables of an env file: NAME=value lines."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def check_compose(path: Path) -> None:
    """Hold a compose file against the Compose Specification, every variable of .env.example set.

    Raises:
        InvalidFileError: unknown keys, wrong types, what depends on something that is not there.
    """
    asked = read_variables((path.parent / ".env.example").read_text("utf-8"))
    text = interpolate(path.read_text("utf-8"), dict.fromkeys(asked, "x:x"))
    content = yaml.safe_load(text)
    try:
        project = compose_spec.PyCompose.from_yaml(yaml.safe_dump(content))  # anchors filled in
        project.validate()
    except ValueError as error:
        raise InvalidFileError(str(error)) from error
    wrong = [*_unknown_services(content), *_unknown_volumes(content)]
    if wrong:
        raise InvalidFileError("; ".join(wrong))


def _unknown_services(content: dict[str, Any]) -> Iterator[str]:
    for name, service in content["services"].items():
        for other in service.get("depends_on", {}):
            if other not in content["services"]:
                yield f"{name} depends on {other}, which is no service"


def _unknown_volumes(content: dict[str, Any]) -> Iterator[str]:
    for name, service in content["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if not source.startswith((".", "/")) and source not in content["volumes"]:
                yield f"{name} mounts {source}, which is no volume"


def check_ray_cluster(path: Path) -> None:
    """Hold a cluster launcher's file against Ray's own schema, with its provider's defaults filled in.

    Raises:
        InvalidFileError: as Ray says it.
    """
    config = yaml.safe_load(path.read_text("utf-8"))
    if config.get("head_node_type") not in config.get("available_node_types", {}):
        raise InvalidFileError(f"head_node_type {config.get('head_node_type')} is no node type")
    try:
        validate_config(prepare_config(config))
    except (jsonschema.ValidationError, ValueError, RuntimeError) as error:
        raise InvalidFileError(_words(error)) from error


def check_kubernetes(path: Path, crds: Path | None = None) -> None:
    """Hold a file of Kubernetes objects against Kubernetes' own schemas, strictly; of KubeRay's
    objects the pods, and what Ray's autoscaler reads.

    Args:
        crds: a folder of KubeRay's custom resource definitions; then these count too.

    Raises:
        InvalidFileError: the first thing that is wrong.
    """
    for item in yaml.safe_load_all(path.read_text("utf-8")):
        try:
            if item["apiVersion"].startswith("ray.io/"):
                _check_kuberay(item, crds)
            else:
                kubernetes_validate.validate(item, KUBERNETES, strict=True)
            for quantity in _quantities(item):  # to the schemas any text is one
                parse_quantity(quantity)
        except (jsonschema.ValidationError, ValueError, KeyError) as error:
            raise InvalidFileError(f"{item['kind']}: {_words(error)}") from error
        except kubernetes_validate.SchemaNotFoundError as error:
            raise InvalidFileError(error.message) from error


def _check_kuberay(item: dict[str, Any], crds: Path | None) -> None:
    spec = item["spec"] if item["kind"] == "RayCluster" else item["spec"]["rayClusterSpec"]
    for template in _pod_templates(spec):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    # What the autoscaler makes of it: groups, limits and resources, held against Ray's schema.
    autoscaling_config._derive_autoscaling_config_from_ray_cr(  # pyright: ignore[reportPrivateUsage]
        {"metadata": item["metadata"], "spec": spec}
    )
    if crds is not None:
        _check_custom(item, crds)


def _quantities(item: Any) -> Iterator[Any]:
    """Every amount of a resource that is asked for or limited, wherever it stands."""
    if isinstance(item, list):
        for part in item:
            yield from _quantities(part)
    elif isinstance(item, dict):
        for key, part in item.items():
            if key in ("requests", "limits") and isinstance(part, dict):
                yield from part.values()
            else:
                yield from _quantities(part)


def _pod_templates(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]


def _check_custom(item: dict[str, Any], crds: Path) -> None:
    """Against the definition of the item's kind, where a key that it does not know is an error, too."""
    definition = yaml.safe_load((crds / f"ray.io_{item['kind'].lower()}s.yaml").read_text("utf-8"))
    wanted = item["apiVersion"].partition("/")[2]
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == wanted
    )
    jsonschema.Draft7Validator(_closed(schema)).validate(item)


def _closed(schema: Any) -> Any:
    """The schema with unknown keys refused, and without the formats that only Kubernetes knows."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return closed


def _words(error: Exception) -> str:
    if isinstance(error, jsonschema.ValidationError):
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    return f"{type(error).__name__}: {error}"


def checks(crds: Path | None = None) -> dict[Path, Callable[[Path], None]]:
    """Every deployment file of this folder and what validates it."""
    kubernetes = partial(check_kubernetes, crds=crds)
    return {
        INFRA / "Dockerfile": check_dockerfile,
        INFRA / "compose.yaml": check_compose,
        INFRA / "ray-cluster.yaml": check_ray_cluster,
        **dict.fromkeys(sorted((INFRA / "kubernetes").glob("*.yaml")), kubernetes),
    }


def main() -> int:
    """Print each file and its verdict; 1 where one is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crds", type=Path, help="a folder of KubeRay's definitions")
    bad = 0
    for path, check in checks(parser.parse_args().crds).items():
        name = path.relative_to(INFRA.parent)
        try:
            check(path)
        except InvalidFileError as error:
            bad += 1
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: valid")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
