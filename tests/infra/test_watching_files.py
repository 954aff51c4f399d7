"""The automations that find lost runs, and what Prometheus and Grafana read: that they fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger

INFRA = Path(__file__).parents[2] / "infra"


def read(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text("utf-8"))


def automations() -> list[AutomationCore]:
    """As `prefect automation create --from-file` reads them."""
    return [AutomationCore.model_validate(each) for each in read("automations.yaml")["automations"]]


def test_a_run_is_lost_only_after_several_heartbeats() -> None:
    """Every deployment says how often its runs send one, and the automation waits for four at least."""
    often = [
        int(each["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        for each in read("prefect.yaml")["deployments"]
    ]
    assert len(often) >= 3
    trigger = automations()[0].trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.within.total_seconds() >= 4 * max(often)


def test_what_is_marked_as_lost_is_what_is_started_again() -> None:
    """The second automation waits for the very state that the first one sets, and for runs with the tag
    that every deployment has."""
    lost, again = read("automations.yaml")["automations"]
    assert again["trigger"]["expect"] == [f"prefect.flow-run.{lost['actions'][0]['name']}"]
    tag = again["trigger"]["match_related"]["prefect.resource.id"].removeprefix("prefect.tag.")
    assert all(tag in each["tags"] for each in read("prefect.yaml")["deployments"])
    assert len(automations()) == 2


def test_prometheus_and_grafana_know_of_each_other() -> None:
    """Prometheus reads the list of nodes that Ray writes; Grafana's source is the Prometheus of
    infra/compose.yaml, and the dashboard lies where its provider looks."""
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    jobs = {each["job_name"]: each for each in read("prometheus.yaml")["scrape_configs"]}
    assert jobs["ray"]["file_sd_configs"] == [
        {"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}
    ]
    services = read("compose.yaml")["services"]
    (source,) = read("grafana/datasources/prometheus.yaml")["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (provider,) = read("grafana/dashboards/zs2.yaml")["providers"]
    folder = str(Path(provider["options"]["path"]).parent)
    assert f"./grafana:{folder}:ro" in services["grafana"]["volumes"]
    assert Path(provider["options"]["path"]).name == "zs2.json"
    assert json.loads((INFRA / "grafana" / "zs2.json").read_text("utf-8"))["uid"] == "zs2"
