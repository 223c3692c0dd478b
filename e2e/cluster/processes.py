"""Long-running processes that outlive the program that started them.

Each has a record (`run/<part>.json`) and a log (`logs/<part>.log`). A record names a process by
its id, its start time and the machine's boot, so that a recycled id is never taken for the part:
nothing is signalled whose identity differs. Signals go through a pidfd, which closes the gap
between the check and the signal. A process carries the state folder in its environment too, so that
one whose starter was killed before it wrote the record is found as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster.errors import PartFailedError
from e2e.cluster.paths import write

MARKER = "QUANTOP_CLUSTER_STATE"
TAIL_LINES = 20


@dataclass(frozen=True)
class Identity:
    """Which process is meant: `started` is in clock ticks after the boot named by `boot`."""

    pid: int
    started: int
    boot: str


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a living process; None when there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in parentheses and may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Identity(pid, int(fields[19]), boot_id())


def alive(process: Identity) -> bool:
    """Whether exactly this process lives."""
    return identify(process.pid) == process


def end(processes: Iterable[Identity], grace: float) -> None:
    """End processes: SIGTERM, and SIGKILL for what is left after `grace` seconds (0: at once)."""
    watched: dict[int, Identity] = {}
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
            # The handle pins the process: what is true of its id now stays true of the handle.
            if alive(process):
                watched[handle] = process
            else:
                os.close(handle)
    deadline = time.monotonic() + grace
    for number in (signal.SIGTERM, signal.SIGKILL) if grace else (signal.SIGKILL,):
        for handle in watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
        if number == signal.SIGKILL:
            deadline = time.monotonic() + 10
        while watched and (left := deadline - time.monotonic()) > 0:
            for handle in select.select(list(watched), [], [], left)[0]:
                process = watched.pop(handle)
                os.close(handle)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
    for handle in watched:
        os.close(handle)


def having(predicate: Callable[[Path], bool]) -> list[Identity]:
    """Living processes whose `/proc/<pid>` folder satisfies the predicate."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # Processes come and go, and others' environments may not be ours to read.
            with contextlib.suppress(OSError):
                if predicate(folder) and (process := identify(int(folder.name))):
                    found.append(process)
    return found


class Supervisor:
    """Starts, finds and ends the processes of one state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.logs = state / "logs"
        self._records = state / "run"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        part: str,
        command: Sequence[str | Path],
        *,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a part unless it runs; `within` goes before the command (`nsenter ...`)."""
        if self.running(part):
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(part).open("ab") as log:
            log.write(f"--- {time.strftime('%F %T')} {' '.join(map(str, command))}\n".encode())
            log.flush()
            child = subprocess.Popen(
                [*within, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.state,
                env={**os.environ, **(environment or {}), MARKER: str(self.state)},
                start_new_session=True,
            )
        self._children[part] = child
        process = identify(child.pid)
        if process is None:
            raise self.failure(part, "ended as soon as it was started")
        write(self._record(part), json.dumps(asdict(process)))

    def running(self, part: str) -> Identity | None:
        """The part's process, or None when it does not run."""
        try:
            process = Identity(**json.loads(self._record(part).read_text()))
        except FileNotFoundError:
            return None
        return process if alive(process) else None

    def parts(self) -> list[str]:
        """Every part that was started, running or not."""
        return sorted(record.stem for record in self._records.glob("*.json"))

    def wait(self, part: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until `ready()`.

        Raises PartFailedError when the part's process ends first, or when time is up.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running(part):
                raise self.failure(part, "ended")
            if time.monotonic() > deadline:
                raise self.failure(part, f"was not ready within {seconds:.0f} s")
            time.sleep(0.1)

    def end(self, parts: Iterable[str], grace: float) -> None:
        """End these parts and forget them."""
        parts = list(parts)
        end(filter(None, map(self.running, parts)), grace)
        for part in parts:
            self._record(part).unlink(missing_ok=True)
            if child := self._children.pop(part, None):
                child.poll()

    def strays(self) -> list[Identity]:
        """Living processes of this state folder, recorded or not, and their descendants."""
        marker = f"{MARKER}={self.state}".encode()
        return having(lambda folder: marker in (folder / "environ").read_bytes().split(b"\0"))

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def failure(self, part: str, what: str) -> PartFailedError:
        """The error that names the part and shows the end of its log."""
        return PartFailedError(part, what, self.log(part), tail(self.log(part)))

    def _record(self, part: str) -> Path:
        return self._records / f"{part}.json"


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; long lines are cut at 300 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(line[:300] for line in text.splitlines()[-lines:])
