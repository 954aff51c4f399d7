"""Put automations on the Prefect server: `python -m infra.automations FILE …`, as often as you like.

`prefect automation create --from-file` makes another one each time it runs; this replaces the one of the
same name. Where a file says ${webhook}, the URL of ZS2_WEBHOOK_URL is saved, encrypted, in the server's
block webhook/zs2, and that block is called. The server is that of PREFECT_API_URL.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

PLACE = "${webhook}"
BLOCK = "zs2"


class AutomationFileError(ValueError):
    """A file that holds no automations, or asks for a webhook that nobody named."""


def read_automations(path: Path, url: str | None) -> list[dict[str, Any]]:
    """The automations of a file, with the webhook's block where they ask for it.

    Args:
        url: the webhook; it is saved only where a file asks for it.

    Raises:
        AutomationFileError: no webhook where one is asked for, or no list of automations.
    """
    text = path.read_text("utf-8")
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not isinstance(content.get("automations"), list):
        raise AutomationFileError(f"{path}: expected a list under `automations`, found none")
    actions = [a for found in content["automations"] for a in found.get("actions", [])]
    wanting = [a for a in actions if a.get("block_document_id") == PLACE]
    if wanting and not url:
        raise AutomationFileError(
            f"{path} calls a webhook: set ZS2_WEBHOOK_URL to its URL, http:// or https://"
        )
    if wanting and url:
        block = _save_webhook(url)
        for action in wanting:
            action["block_document_id"] = block
    return content["automations"]


def _save_webhook(url: str) -> str:
    block = Webhook.model_validate(
        {"url": url, "headers": {"Content-Type": "application/json"}, "method": "POST"}
    )
    return str(block.save(BLOCK, overwrite=True))


def put(client: SyncPrefectClient, found: dict[str, Any]) -> str:
    """Create the automation, or make the one of its name what the file says; says which.

    Raises:
        ValidationError: it is no automation.
    """
    wanted = AutomationCore.model_validate(found)
    try:
        present = client.read_automations_by_name(wanted.name)
    except ObjectNotFound:
        present = []
    if present:
        client.update_automation(present[0].id, wanted)
        return f"updated: {wanted.name}"
    client.create_automation(wanted)
    return f"created: {wanted.name}"


def main() -> int:
    """Put every automation of the files; 2 where a file is wrong, and then nothing of it is put."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        try:
            automations = read_automations(path, os.environ.get("ZS2_WEBHOOK_URL"))
            with get_client(sync_client=True) as client:
                for found in automations:
                    print(put(client, found), flush=True)
        except (AutomationFileError, ValidationError, OSError, yaml.YAMLError) as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
