"""Power loss: a small render is recorded, and every disk that a crash may leave of it must be resumable.

The render is a run's own code in this process, with neither Ray nor Prefect: run.json, journal, latents,
videos, compaction, metadata, summary, gallery; then once more, with a row changed and a row gone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from flows.render_manifest import NOBODY, _begin_run_file, _render_run  # pyright: ignore[reportPrivateUsage]
from flows.settings import RenderSettings
from infra.chaos.record import KINDS, Kind, Recorder, Tree
from infra.chaos.verify import faults, hash_of_frames, ledger_rows
from manifests.ledger import iter_results, known
from manifests.read import open_manifest
from manifests.run_file import read_json, write_json
from manifests.storage import RunFolder
from tasks import sampling, stages
from tasks.ending import Ending
from tasks.job import Job
from tasks.plan import jobs_of
from tasks.render import plan, publish_run
from tasks.warm import WarmModels

SMALL = {"height": 32, "width": 32, "num_frames": 2, "num_inference_steps": 1}
# Names of files that are not put in place as a whole: appended to, or of no account after a crash.
GROWING = ("journal-", "run.lock")


@dataclass
class Finding:
    """What became of the states.

    Attributes:
        states: examined, by kind of crash; equal ones once.
        resumed: states of which the run was rendered to its end.
    """

    moments: int = 0
    states: Counter[str] = field(default_factory=Counter[str])
    resumed: int = 0
    faults: list[str] = field(default_factory=list[str])

    def told(self) -> str:
        """In one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.states.items())
        return (
            f"power loss: {self.moments} moments, {sum(self.states.values())} different disks "
            f"({kinds}), {self.resumed} of them rendered to the end: {len(self.faults)} faults"
        )


def lose_power(folder: Path) -> Finding:
    """Record a small render, and examine every disk that a crash may leave of it."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        experiment = Experiment(Path(here))
        experiment.record()
        return experiment.examine()


def write_manifests(folder: Path) -> tuple[Path, Path]:
    """The manifest of the first run, and the one of the second: a row changed, one gone, one new."""
    rows = [
        {"id": f"r{n}", "prompt": "a star", "seed": n, "codec": codec, **SMALL}
        for n, codec in enumerate(("h264", "png", "gif"))
    ]
    changed = [rows[0], {**rows[1], "seed": 9}, {**rows[2], "id": "r3"}]
    paths = folder / "first.parquet", folder / "second.parquet"
    for path, content in zip(paths, (rows, changed), strict=True):
        pq.write_table(pa.Table.from_pylist(content), path)
    return paths


def render_here(manifest: Path, out: Path, models: WarmModels) -> None:
    """What `zs2 render` does to the run folder, one row after the other in this process."""
    settings = RenderSettings()  # pyright: ignore[reportCallIssue]
    source = open_manifest(str(manifest))
    folder = RunFolder(out).create()
    run_id = f"run-{len(list(folder.results.iterdir()))}"
    with folder.lock(run_id):
        folder.sweep_temporary(abandoned_after=-1)  # their process is this one, and lives
        content = _begin_run_file(folder, run_id, str(manifest), source, settings)
        with _render_run(run_id, source, folder, settings, NOBODY) as run:
            made = plan.fn(run, False)
            for shard in made.shards:
                for job in jobs_of(shard, source, run.catalogue, {}, run.engine):
                    run.end(run.shard(shard), _render_row(models, job, folder))
            publish_run.fn(run, made, manifest.name, None)
        write_json(folder.run_file, {**content, "state": "finished"})


def _render_row(models: WarmModels, job: Job, folder: RunFolder) -> Ending:
    """All stages of a row, as the actors do them."""
    started = datetime.now(UTC)
    sampled = sampling.sample(models, job, folder.latents_path(job.sample_digest))
    frames = models.sampler(job).decode(sampled.latents)
    path = stages.output_path(folder, job)
    report = stages.finish(job, [frames], path)
    report |= {"kl_achieved": sampled.kl, "file_name": folder.file_name(path)}
    return Ending(job, "ok", started, datetime.now(UTC), report=report)


class Experiment:
    """Two runs, recorded, and their disks examined.

    Args:
        folder: for the recorded disk and for those that are made from it.
        seed: of the torn contents.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.models = WarmModels()
        self.manifests = write_manifests(folder)
        self.disk = folder / "disk"
        self.recorder = Recorder(self.disk)
        self.second_begins = 0
        self.frames: list[dict[str, str]] = []

    def record(self) -> None:
        """Render both manifests. The run folder is there already, and nothing of it is synced: so a
        run that was killed at once leaves it."""
        RunFolder(self.disk / "out").create()
        for manifest in self.manifests:
            self.second_begins = len(self.recorder.moments)
            with self.recorder.recording():
                render_here(manifest, self.disk / "out", self.models)
            rows = ledger_rows(self.disk / "out")
            self.frames.append(
                {row["id"]: hash_of_frames(self.disk / "out" / row["file_name"]) for row in rows}
            )

    def examine(
        self, kinds: Sequence[Kind] = KINDS, *, share: float = 1.0, resume_every: int = 40
    ) -> Finding:
        """Look at the states of every moment.

        Args:
            share: of the torn and mixed states, which are many; the others are looked at always.
            resume_every: of one state in so many the run is rendered to its end.
        """
        draw = random.Random(self.seed)
        finding = Finding(len(self.recorder.moments))
        whole = self._whole_contents()
        seen: set[str] = set()
        for at, moment in enumerate(self.recorder.moments):
            second = at >= self.second_begins
            for kind in kinds:
                if kind in ("torn", "mixed") and draw.random() > share:
                    continue
                tree = self.recorder.state(at, kind, draw)
                acknowledged = self._acknowledged(at)
                state = repr((sorted(tree.items()), sorted(acknowledged), second))
                name = sha256(state.encode()).hexdigest()
                if name in seen:
                    continue
                seen.add(name)
                finding.states[kind] += 1
                resume = draw.randrange(resume_every) == 0
                finding.resumed += resume
                wrong = _torn_files(tree, whole)
                wrong += self._examine(tree, acknowledged, second, resume)
                finding.faults += [f"moment {at} ({moment.step}), {kind}: {w}" for w in wrong]
        return finding

    def _whole_contents(self) -> dict[str, set[bytes | None]]:
        """Every content that a name ever showed to a process."""
        whole: dict[str, set[bytes | None]] = {}
        draw = random.Random(0)
        for at in range(len(self.recorder.moments)):
            for path, content in self.recorder.state(at, "kill", draw).items():
                whole.setdefault(path, set()).add(content)
        return whole

    def _acknowledged(self, at: int) -> set[tuple[str, str]]:
        """(id, digest) of every result that was in a synced journal at a moment."""
        found: set[tuple[str, str]] = set()
        for content in self.recorder.moments[at].synced_files.values():
            if content.startswith(b'{"zs2_journal"'):
                lines = [line for line in content.splitlines() if b'"row":' in line]
                found |= {(r["id"], r["digest"]) for r in (json.loads(x)["row"] for x in lines)}
        return found

    def _examine(
        self, tree: Tree, acknowledged: set[tuple[str, str]], second: bool, resume: bool
    ) -> list[str]:
        out = _build(tree, self.folder / "state")
        manifest = self.manifests[second]
        frames = self.frames[second]
        try:
            with _no_waiting_for_the_disk():
                wrong = _wrong_before(out, acknowledged & self._current(second))
                if resume:
                    render_here(manifest, out, self.models)
                    wrong += (
                        faults(out, sorted(frames), frames) if not second else _resumed(out, frames)
                    )
                else:
                    wrong += self._publish(manifest, out)
        except Exception as error:  # whatever it is: the same command would not go on here
            return [f"{type(error).__name__}: {error}"]
        return wrong

    def _current(self, second: bool) -> set[tuple[str, str]]:
        """(id, digest) of the manifest's rows, all of which the recorded disk has in the end."""
        if second:
            return {(row["id"], row["digest"]) for row in ledger_rows(self.disk / "out")}
        found: set[tuple[str, str]] = set()
        for at in range(self.second_begins):
            found |= self._acknowledged(at)
        return found

    def _publish(self, manifest: Path, out: Path) -> list[str]:
        """Sweep, plan and publish as the same command would; what is left wrong then."""
        settings = RenderSettings()  # pyright: ignore[reportCallIssue]
        folder = RunFolder(out).create()
        folder.sweep_temporary(abandoned_after=-1)
        source = open_manifest(str(manifest))
        with folder.lock("again"), _render_run("again", source, folder, settings, NOBODY) as run:
            made = plan.fn(run, False)
            publish_run.fn(run, made, "again", None)
        wrong = [f"left aside: {path.name}" for path in out.rglob(".tmp-*")]
        ok = [row["file_name"] for row in ledger_rows(out) if row["status"] == "ok"]
        listed = pq.read_table(folder.metadata_file) if folder.metadata_file.exists() else None
        named: list[str] = [] if listed is None else listed.column("file_name").to_pylist()
        if sorted(named) != sorted(ok):
            wrong.append(f"metadata names {named}, the ledger {ok}")
        if made.done + made.work.rows != made.rows:
            wrong.append(f"the plan has {made.done} done and {made.work.rows} to render")
        return wrong


def _build(tree: Tree, disk: Path) -> Path:
    """Make a disk as it was found; returns the run folder on it."""
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir()
    for path, content in tree.items():
        if content is None:
            (disk / path).mkdir()
        else:
            (disk / path).write_bytes(content)
    return disk / "out"


def _wrong_before(out: Path, acknowledged: set[tuple[str, str]]) -> list[str]:
    """What is wrong with a run folder as the crash left it."""
    wrong: list[str] = []
    folder = RunFolder(out)
    for path in (folder.run_file, folder.summary_file):
        read_json(path)
    seen = known(out)
    for row_id, digest in acknowledged:
        if not seen.is_done(row_id, digest):
            wrong.append(f"{row_id}: was synced, and is lost")
    for row in iter_results(out):
        path = out / str(row.file_name)
        if row.status == "ok" and (not path.exists() or _digest(path) != row.sha256):
            wrong.append(f"{row.id}: ok in the ledger, but its video is not whole")
    return wrong


def _digest(path: Path) -> str:
    if not path.is_dir():
        return sha256(path.read_bytes()).hexdigest()
    lines = [f"{_digest(each)}  {each.name}\n" for each in sorted(path.iterdir())]
    return sha256("".join(lines).encode()).hexdigest()


def _torn_files(tree: Tree, whole: dict[str, set[bytes | None]]) -> list[str]:
    """Files under their final names with contents that no process ever saw there."""
    wrong: list[str] = []
    for path, content in tree.items():
        hidden = any(part.startswith(".tmp-") for part in Path(path).parts)
        if hidden or Path(path).name.startswith(GROWING):
            continue
        if content not in whole.get(path, set()):
            wrong.append(f"{path} is torn")
    return wrong


def _resumed(out: Path, frames: dict[str, str]) -> list[str]:
    """As `faults`, where files of the first run may still lie."""
    return [fault for fault in faults(out, sorted(frames), frames) if "no result's" not in fault]


@contextmanager
def _no_waiting_for_the_disk() -> Generator[None]:
    """What is examined is thrown away: it need not be synced."""
    with patch.object(os, "fsync", lambda handle: None):  # pyright: ignore[reportUnknownArgumentType]
        yield
