"""`zs2 doctor`: whether this machine can render, each part tried for real."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from flows.console import size, table

LEAST_DISK = 2e9  # bytes
LIBRARIES = ("torch", "diffusers", "transformers", "ray", "prefect", "pyarrow", "av")


class Check(NamedTuple):
    """One thing that was tried: whether it works, what was found, and the remedy if it does not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def check() -> list[Check]:
    """Try everything a render needs; takes some seconds, since Ray is started."""
    probes: dict[str, tuple[Callable[[], str], str]] = {
        "libraries": (_libraries, "make setup"),
        "model": (_model, "install zs2 again: its bundled model is missing"),
        "devices": (_devices, "install the torch build for this machine"),
        "ffmpeg": (_ffmpeg, "pip install imageio-ffmpeg, or set ZS2_FFMPEG to an ffmpeg"),
        "ray": (_ray, "see the error; RAY_ADDRESS must be unset or name a live cluster"),
        "prefect": (_prefect, "unset PREFECT_API_URL, or start that server"),
        "disk": (_disk, "make space, or render with -o into another disk"),
    }
    return [_try(name, probe, remedy) for name, (probe, remedy) in probes.items()]


def _try(name: str, probe: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, probe())
    except Exception as error:  # whatever is wrong with the machine is what the user asked for
        return Check(name, False, f"{type(error).__name__}: {error}", remedy)


def _libraries() -> str:
    found: list[str] = [f"python {platform.python_version()}"]
    missing: list[str] = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    return ", ".join(found)


def _model() -> str:
    from tasks.plan import Catalogue

    info, revision = Catalogue().find("zs2-mini")
    return f"{info.name} {info.width}×{info.height}, weights {revision[:12]}"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    return ", ".join(names) if names else f"no GPU; {cores} CPU cores"


def _ffmpeg() -> str:
    from tasks.assemble import ffmpeg_executable

    return ", ".join(sorted({ffmpeg_executable(c) for c in ("h264", "gif", "webp", "ffv1", "png")}))


def _ray() -> str:
    import ray

    from tasks.cluster import connect, in_words

    address = os.environ.get("RAY_ADDRESS")
    try:
        found = connect(address)
        where = f"cluster at {address}" if address else "a local cluster starts"
        return f"{where}: {in_words(found)}"
    finally:
        ray.shutdown()


def _prefect() -> str:
    from flows.embedded import embedded_prefect

    with embedded_prefect() as url:
        if url is None:
            return "no PREFECT_API_URL: an embedded server is used"
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
        if error is not None:
            raise error
        return f"server at {url}"


def _disk() -> str:
    free = shutil.disk_usage(".").free
    if free < LEAST_DISK:
        raise RuntimeError(f"{size(free)} free here, expected at least {size(LEAST_DISK)}")
    return f"{size(free)} free here"


def text(checks: list[Check]) -> str:
    """The checks as lines for people."""
    rows = [("ok" if c.ok else "FAIL", c.name, c.found.splitlines()[0]) for c in checks]
    remedies = [f"{c.name}: {c.remedy}" for c in checks if not c.ok]
    return "\n".join([table(rows), *remedies])
