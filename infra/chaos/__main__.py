"""`make chaos`: storms over several seeds, then the table. Exit code 1 where anything does not hold."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq

from flows.settings import RenderSettings
from infra.chaos import windows
from infra.chaos.nodes import Nodes, OwnRay, actors
from infra.chaos.power_loss import lose_power
from infra.chaos.processes import kill, marked
from infra.chaos.rows import write_manifest
from infra.chaos.storm import ACTORS, AT_THE_END, DURING, Storm, Story
from infra.chaos.verify import faults, hash_of_frames, ledger_rows
from infra.chaos.windows import Aim
from manifests.read import open_manifest
from manifests.storage import RunFolder
from tasks.job import Engine
from tasks.plan import jobs_of, make_plan
from tasks.stages import QUIET

PATIENCE = 400.0  # seconds until the Ray of a killed run has noticed


@dataclass
class Calm:
    """The undisturbed run that storms are held against."""

    wall: float
    frames: dict[str, str]  # id → hash of the decoded frames
    sample_files: dict[str, str]  # id → name of its latents file
    seconds_sample: float  # a row


def render_calmly(manifest: Path, out: Path, nodes: Nodes, clips_per_call: int) -> Calm:
    """Render the manifest with the same command, and kill nothing."""
    command = [sys.executable, "-m", "flows.cli", "render", str(manifest), "-o", str(out)]
    command += ["--clips-per-call", str(clips_per_call)]
    started = time.monotonic()
    subprocess.run(
        [*command, "--ray-address", nodes.address, "--samplers", "2", "--quiet"], check=True
    )
    wall = time.monotonic() - started
    rows = ledger_rows(out)
    frames = {row["id"]: hash_of_frames(out / row["file_name"]) for row in rows}
    seconds = sum(row["seconds_sample"] for row in rows) / len(rows)
    return Calm(wall, frames, latents_files(manifest, clips_per_call), seconds)


def latents_files(manifest: Path, clips_per_call: int = 1) -> dict[str, str]:
    """id → the name of the file that its latents have between sampling and the end."""
    settings = RenderSettings()  # pyright: ignore[reportCallIssue]
    source, catalogue = open_manifest(str(manifest)), settings.catalogue()
    engine = Engine(clips_per_call=clips_per_call)
    made = make_plan(source, catalogue, defaults={}, engine=engine)
    jobs = [job for shard in made.shards for job in jobs_of(shard, source, catalogue, {}, engine)]
    folder = RunFolder(manifest.parent)
    return {job.row.id: folder.latents_path(job.sample_digest).name for job in jobs}


@dataclass
class Outcome:
    """A storm, and what was found wrong after it."""

    story: Story
    faults: list[str]
    lost: int  # rows without an ok result
    latents_left: int

    @property
    def doubled(self) -> int:
        """ok results beyond one of each id and digest, in all journals there ever were."""
        return sum(self.story.results.values()) - len(self.story.results)


def weather(
    seeds: list[int],
    rows: int,
    folder: Path,
    *,
    during: Sequence[Aim] = DURING,
    at_the_end: Sequence[Aim] = AT_THE_END,
    own_ray: Sequence[int] = (),
    clips_per_call: int = 1,
    tell: Callable[[str], None] = print,
) -> tuple[Calm, list[Outcome], list[str]]:
    """Render `rows` rows undisturbed, then once a seed in a storm; also what was left running.

    Args:
        during, at_the_end: the kills of each seed.
        own_ray: those of the seeds in which each run starts a Ray of its own, and loses no node.
        clips_per_call: of every run.
    """
    manifest = write_manifest(folder, rows)
    ids = pq.read_table(manifest, columns=["id"]).column(0).to_pylist()
    mark = uuid4().hex
    outcomes: list[Outcome] = []
    with Nodes() as nodes:
        calm = render_calmly(manifest, folder / "calm", nodes, clips_per_call)
        tell(f"undisturbed: {rows} rows in {calm.wall:.0f} s")
        for seed in seeds:
            out = folder / f"seed-{seed}"
            place = OwnRay(f"ZS2_CHAOS={mark}") if seed in own_ray else nodes
            storm = Storm(
                seed,
                manifest,
                out,
                place,
                calm.sample_files,
                mark=mark,
                during=[aim for aim in during if place is nodes or aim.victim != "node"],
                at_the_end=at_the_end,
                clips_per_call=clips_per_call,
                tell=tell,
            )
            story = storm.run()
            wrong = faults(out, ids, calm.frames) + story.broke_off
            done = {row["id"] for row in ledger_rows(out) if row["status"] == "ok"}
            latents = len(list((out / "latents").iterdir()))
            outcomes.append(Outcome(story, wrong, len(set(ids) - done), latents))
            if outcomes[-1].doubled:
                wrong.append(f"{outcomes[-1].doubled} rows were done twice")
            tell(f"seed {seed}: {story.wall:.0f} s, {story.starts} starts, {len(wrong)} faults")
            for fault in wrong:
                tell(f"  {fault}")
        end = time.monotonic() + 60
        while (left := actors(nodes, *ACTORS)) and time.monotonic() < end:
            time.sleep(0.5)
        running = [f"{pid} is left on the cluster" for pid in left]
    end = time.monotonic() + PATIENCE
    while (orphans := marked(f"ZS2_CHAOS={mark}")) and time.monotonic() < end:
        time.sleep(1)
    running += [f"{pid} is left: {command}" for pid, command in orphans.items()]
    for pid in marked(f"ZS2_CHAOS={mark}"):
        kill(pid)
    return calm, outcomes, running


def table(calm: Calm, outcomes: list[Outcome]) -> str:
    """The measured figures, as Markdown."""
    kills = [kill for outcome in outcomes for kill in outcome.story.kills]
    counted = Counter((kill.victim, kill.window) for kill in kills)
    lines = ["| killed | in the window | kills |", "| --- | --- | ---: |"]
    lines += [f"| {who} | {where} | {count} |" for (who, where), count in sorted(counted.items())]
    lines += [f"| all | | {len(kills)} |", ""]
    head = "seed|kills|starts|orphans (woken)|rows lost|rows doubled|sampled again|assembled again"
    head += "|at the cap"
    head += "|latents left|s lost|device-s thrown away|faults"
    lines += [f"| {' | '.join(head.split('|'))} |", "| ---: " * len(head.split("|")) + "|"]
    for outcome in outcomes:
        lines.append(f"| {' | '.join(map(str, _figures(calm, outcome)))} |")
    return "\n".join(lines)


def _figures(calm: Calm, outcome: Outcome) -> list[object]:
    story = outcome.story
    again = [sum(counts.values()) - len(counts) for counts in (story.sampled, story.assembled)]
    cut_short = sum(kill.thrown_away for kill in story.kills)
    return [
        story.seed,
        len(story.kills),
        story.starts,
        f"{sum(kill.orphans for kill in story.kills)} ({story.woken})",
        outcome.lost,
        outcome.doubled,
        *again,
        story.capped,
        outcome.latents_left,
        f"{story.wall - calm.wall:.0f}",
        f"{cut_short + again[0] * calm.seconds_sample:.1f}",
        len(outcome.faults),
    ]


def main() -> int:
    """Parse, storm, print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.chaos", description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--own-ray", type=int, nargs="*", default=[6], help="seeds without a cluster"
    )
    parser.add_argument("--clips-per-call", type=int, default=1, help="of every run")
    parser.add_argument("--out", type=Path, help="keep everything in this folder")
    os.environ.update(QUIET)
    chosen = parser.parse_args()
    folder = (chosen.out or Path(tempfile.mkdtemp(prefix="zs2-chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [*chosen.seeds, *chosen.own_ray]
    calm, outcomes, running = weather(
        seeds,
        chosen.rows,
        folder,
        own_ray=chosen.own_ray,
        clips_per_call=chosen.clips_per_call,
    )
    print(f"\n{chosen.rows} rows a seed; undisturbed they take {calm.wall:.0f} s\n")
    print(table(calm, outcomes))
    hit = {kill.window for outcome in outcomes for kill in outcome.story.kills}
    missed = [window for window in windows.WANTED if window not in hit]
    wrong = [fault for outcome in outcomes for fault in outcome.faults] + running
    losses = lose_power(folder)
    print(f"\n{losses.told()}\n")
    wrong += losses.faults
    for line in [*(f"no kill fell into the window {window}" for window in missed), *wrong]:
        print(f"FAULT {line}")
    if chosen.out is None and not wrong:
        shutil.rmtree(folder)
    return 1 if wrong or missed else 0


if __name__ == "__main__":
    sys.exit(main())
