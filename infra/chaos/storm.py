"""One seed: a manifest is rendered as a user renders it, while its processes are killed."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra.chaos import windows
from infra.chaos.nodes import Nodes, OwnRay, actors
from infra.chaos.processes import command, freeze, is_alive, kill, release, state
from infra.chaos.watch import Event, Watcher
from infra.chaos.windows import Aim

ACTORS = ("SamplerActor", "PostActor")
KINDS = {"sampler": "SamplerActor", "post": "PostActor"}
BLAMED = re.compile(r"row (\S+): attempt \d+: ")
MOST_STARTS = 30
PATIENCE = 60.0  # seconds that a kill waits for its moment

# While rows are rendered, in a random order; and after the last row.
DURING = (
    *(Aim("sampler"),) * 3,
    Aim("sampler", windows.DECODE),
    Aim("post"),
    Aim("post", windows.ENCODE),
    Aim("post", windows.REPORT),
    *(Aim("ffmpeg", windows.ENCODE),) * 2,
    Aim("node"),
    Aim("driver"),
    Aim("driver", windows.JOURNAL),
)
AT_THE_END = (Aim("driver", windows.COMPACTION), Aim("driver", windows.PUBLISH))


@dataclass
class Kill:
    """One kill, and the window it was in as the folder proves it."""

    time: float
    victim: str
    window: str
    pid: int
    row: str = ""
    orphans: int = 0  # of a killed driver, alive when the same command was given again
    thrown_away: float = 0.0  # seconds since the killed samplers last finished a row's latents


@dataclass
class Story:
    """What happened in a storm."""

    seed: int
    kills: list[Kill] = field(default_factory=list[Kill])
    wall: float = 0.0
    starts: int = 0
    woken: int = 0  # actors of a killed run, frozen, that lived to see the next one
    capped: int = 0  # rows that reached the cap of attempts and were mended by `zs2 retry`
    broke_off: list[str] = field(default_factory=list[str])  # runs that ended otherwise, and how
    sampled: Counter[str] = field(default_factory=Counter[str])  # latents file → times written
    assembled: Counter[str] = field(default_factory=Counter[str])  # video → times written
    results: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


class Storm:
    """Renders `manifest` into `out` at `place`, and kills by `random.Random(seed)`.

    Args:
        sample_files: id → the name of its latents file.
        tell: given a line for each kill.
    """

    def __init__(
        self,
        seed: int,
        manifest: Path,
        out: Path,
        place: Nodes | OwnRay,
        sample_files: dict[str, str],
        *,
        mark: str,
        during: Sequence[Aim] = DURING,
        at_the_end: Sequence[Aim] = AT_THE_END,
        clips_per_call: int = 1,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.clips_per_call = clips_per_call
        self.story = Story(seed)
        self.manifest, self.out, self.place = manifest, out, place
        self.sample_files, self.mark, self.tell = sample_files, mark, tell
        self._draw = random.Random(seed)
        self._during = self._draw.sample(during, len(during))
        self._at_the_end = [
            replace(aim, step=self._draw.randrange(len(windows.STEPS[aim.window])))
            for aim in at_the_end
        ]
        self._armed: Aim | None = None
        self._lock = threading.RLock()
        self._orphans: list[int] = []  # actors of the run that was killed last
        self._last_latents: dict[int, float] = {}
        self._begun: set[str] = set()  # rows whose video has been begun
        self._started = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher = Watcher(out, self._on_event)

    def run(self) -> Story:
        """Give the same command until it ends well."""
        try:
            command = ["render", str(self.manifest), "-o", str(self.out)]
            command += ["--clips-per-call", str(self.clips_per_call)]
            if self.place.address is not None:
                command += ["--ray-address", self.place.address, "--samplers", "2"]
            while (code := self._give(command)) != 0:
                if code == 3:  # a row had the bad luck to be hit three times
                    self.story.capped += self._failed()
                    self._give(["retry", str(self.out)])
                elif code > 0:
                    said = self._log().read_text("utf-8", "replace")
                    self.story.broke_off.append(f"exit code {code}: {said.strip()[-600:]}")
                if self.story.starts > MOST_STARTS:
                    raise RuntimeError(f"seed {self.story.seed}: no end after {MOST_STARTS} starts")
            self.story.wall = time.monotonic() - self._started
            self._give(command)  # what the orphans left is swept
        finally:
            if self._process is not None:
                kill(self._process.pid)
                self._process.wait()
            self._watcher.close()
        for result in self._watcher.results:
            if result.record["status"] == "ok":
                self.story.results[result.record["id"], result.record["digest"]] += 1
        return self.story

    def _log(self) -> Path:
        return self.out.with_name(f"{self.out.name}-{self.story.starts}.log")

    def _failed(self) -> int:
        newest = {r.record["id"]: r.record["status"] for r in self._watcher.results}
        return sum(status == "failed" for status in newest.values())

    def _give(self, arguments: list[str]) -> int:
        """Start `zs2` and storm until it ends; its exit code, negative where it was killed."""
        self.story.starts += 1
        with self._log().open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**_environment(), "ZS2_CHAOS": self.mark},
            )
        if self.story.kills and self.story.kills[-1].victim == "driver":
            self.story.kills[-1].orphans = sum(map(is_alive, self._orphans))
        self._process = process
        while process.poll() is None:
            if self._watcher.error is not None:  # it may have left the driver frozen
                raise self._watcher.error
            if self._during and self._await_rows(self._draw.randint(1, 3)):
                time.sleep(self._draw.uniform(0, 1))
                self._strike_next()
            else:
                time.sleep(0.1)
        return process.wait()

    def _await_rows(self, more: int) -> bool:
        """Wait until so many more rows have ended; False where the driver has."""
        assert self._process is not None
        goal = len(self._watcher.results) + more
        end = time.monotonic() + PATIENCE
        while len(self._watcher.results) < goal and time.monotonic() < end:
            if self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return len(self._watcher.results) >= goal

    def _strike_next(self) -> None:
        aim = self._during.pop(0)
        before = len(self.story.kills)
        if aim.window:
            with self._lock:
                self._armed = aim
            end = time.monotonic() + PATIENCE
            while self._armed and time.monotonic() < end and self._is_running():
                time.sleep(0.05)
            with self._lock:
                self._armed = None
        elif self._is_running():
            self._strike_now(aim)
        if len(self.story.kills) == before:
            self._during.append(aim)  # it found no moment; later again

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # At a random moment.

    def _strike_now(self, aim: Aim) -> None:
        if aim.victim == "node":
            thrown_away = self._thrown_away(self._actors("SamplerActor"))
            assert isinstance(self.place, Nodes), "a run's own Ray has one node"
            pid = self.place.kill_node()
            self._note(aim, windows.FLIGHT, pid, thrown_away=thrown_away)
            self.place.add()
        elif aim.victim == "driver":
            assert self._process is not None
            pid = self._process.pid
            if freeze(pid):
                self._kill_driver(aim, windows.of_driver(self.out, self._done()))
        else:
            self._strike_actor(aim)

    def _strike_actor(self, aim: Aim) -> None:
        kind = KINDS[aim.victim]
        pid = self._pick(kind, busy=True) or self._pick(kind)
        if pid is None or not freeze(pid):
            return
        busy = command(pid).split(" ")[0].endswith(".run")
        latents = {path.name for path in (self.out / "latents").glob("*.safetensors")}
        encoding = windows.encoder_of(pid) is not None
        thrown_away = self._thrown_away([pid]) if aim.victim == "sampler" else 0.0
        told = len(self._blamed())
        kill(pid)
        row = self._await_blame(told) if busy else ""
        window = windows.FLIGHT if busy else windows.IDLE
        if aim.victim == "sampler":
            window = windows.IDLE
            if row:
                window = windows.DECODE if self.sample_files.get(row) in latents else windows.UNET
        elif encoding:
            window = windows.ENCODE
        self._note(aim, window, pid, row, thrown_away=thrown_away)

    def _blamed(self) -> list[str]:
        lines = [path.read_text("utf-8") for path in sorted((self.out / "logs").glob("*.log"))]
        return BLAMED.findall("\n".join(lines))

    def _await_blame(self, told: int) -> str:
        """The row that the run's log says was at the actor that died; empty for none."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            blamed = self._blamed()
            if len(blamed) > told:
                return blamed[told]
            time.sleep(0.05)
        return ""

    # In a window that an event announces; in the watcher's thread.

    def _on_event(self, event: Event) -> None:
        if event.what == "named" and event.folder == "latents" and not event.aside:
            self.story.sampled[event.name] += 1
            self._last_latents[event.pid] = event.time
        if event.folder.startswith("videos/"):
            self._begun.add(Path(event.name).stem)
            if event.what == "named" and not event.aside:
                self.story.assembled[event.name] += 1
        with self._lock:
            if self._armed is not None and self._armed.is_near(event):
                if self._strike_at(self._armed, event):
                    self._armed = None
            elif self._at_the_end:
                aim = self._at_the_end[0]
                if aim.is_near(event) and self._strike_at(aim, event):
                    self._at_the_end.pop(0)

    def _strike_at(self, aim: Aim, event: Event) -> bool:
        """Freeze the victim, look where it is, and kill it if that is where it was wanted."""
        row = Path(event.name).stem
        if aim.victim == "driver":
            return self._strike_driver_at(aim, row)
        if aim.victim == "ffmpeg":
            return self._strike_encoder(aim, event.pid, row)
        pid = event.pid
        if not freeze(pid):
            return False
        match aim.window:
            case windows.DECODE:
                busy = command(pid).split(" ")[0].endswith(".run")
                row = next((r for r, name in self.sample_files.items() if name == event.name), "")
                written = (self.out / "latents" / event.name).exists()
                proved = busy and written and row not in self._begun
            case windows.ENCODE:
                proved = windows.encoder_of(pid) is not None
            case _:
                proved = row not in windows.journalled(self.out) | self._done()
        if not proved:
            release(pid)
            return False
        thrown_away = self._thrown_away([pid]) if aim.victim == "sampler" else 0.0
        kill(pid)
        self._note(aim, aim.window, pid, row, thrown_away=thrown_away)
        return True

    def _strike_driver_at(self, aim: Aim, row: str) -> bool:
        assert self._process is not None
        if not freeze(self._process.pid):
            return False
        window = windows.of_driver(self.out, self._done())
        if window != aim.window:
            release(self._process.pid)
            return False
        self._kill_driver(aim, window, row if window == windows.JOURNAL else "")
        return True

    def _strike_encoder(self, aim: Aim, actor: int, row: str) -> bool:
        end = time.monotonic() + 0.5
        while time.monotonic() < end and is_alive(actor):
            pid = windows.encoder_of(actor)
            if pid is not None and freeze(pid) and state(pid) == "T":
                kill(pid)
                self._note(aim, windows.ENCODE, pid, row)
                return True
            time.sleep(0.002)
        return False

    def _kill_driver(self, aim: Aim, window: str, row: str = "") -> None:
        assert self._process is not None
        thrown_away = self._thrown_away(self._actors("SamplerActor"))
        if (orphan := self._pick("PostActor", "SamplerActor")) is not None:
            # One of the orphans is slow to die, and wakes when the next run is at work.
            freeze(orphan)
            threading.Timer(self._draw.uniform(5, 25), self._wake, [orphan]).start()
        self._orphans = self._actors()
        kill(self._process.pid)
        self._note(aim, window, self._process.pid, row, thrown_away=thrown_away)

    def _wake(self, orphan: int) -> None:
        self.story.woken += state(orphan) == "T"
        release(orphan)

    def _done(self) -> set[str]:
        return {result.record["id"] for result in list(self._watcher.results)}

    def _actors(self, *kinds: str) -> list[int]:
        return actors(self.place, *(kinds or ACTORS))

    def _pick(self, *kinds: str, busy: bool = False) -> int | None:
        found = actors(self.place, *kinds, busy=busy)
        return self._draw.choice(found) if found else None

    def _thrown_away(self, samplers: list[int]) -> float:
        now = time.monotonic()
        return sum(now - self._last_latents.get(pid, now) for pid in samplers)

    def _note(
        self, aim: Aim, window: str, pid: int, row: str = "", *, thrown_away: float = 0.0
    ) -> None:
        made = Kill(time.monotonic() - self._started, aim.victim, window, pid, row, 0, thrown_away)
        self.story.kills.append(made)
        self.tell(
            f"seed {self.story.seed}  {made.time:7.1f} s  {made.victim:9} {pid:7d}  {window}"
            + (f"  {row}" if row else "")
        )


def _environment() -> dict[str, str]:
    """That of a user who set nothing of Prefect's or Ray's."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_ADDRESS"))}
