"""What processes use of the machine, by psutil."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtest.errors import LoadTestError

__all__ = ["ProcessUsage", "StolenTime", "Usage", "UsageMeter", "family_of"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One server with its workers, over a measurement."""

    cpu_seconds: float
    context_switches: int
    memory_mib: float
    """Proportional set size at the end: memory shared between workers counts once."""


@dataclass(frozen=True, slots=True)
class Usage:
    """All servers by name, over `seconds` of wall time."""

    seconds: float
    by_process: Mapping[str, ProcessUsage]

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all of them."""
        return sum(one.cpu_seconds for one in self.by_process.values())


class UsageMeter:
    """Reads counters of processes; `pids` by name. Raises LoadTestError for one that is gone."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._families = {name: family_of(name, pid) for name, pid in pids.items()}
        self._begin = self._counters()

    def _counters(self) -> dict[str, tuple[float, int]]:
        return {name: _counters_of(name, family) for name, family in self._families.items()}

    def since(self, seconds: float) -> Usage:
        """Answer what was used since the meter was made, `seconds` ago."""
        return Usage(
            seconds,
            {
                name: ProcessUsage(
                    cpu - self._begin[name][0],
                    switches - self._begin[name][1],
                    sum(process.memory_full_info().pss for process in self._families[name]) / _MIB,
                )
                for name, (cpu, switches) in self._counters().items()
            },
        )


class StolenTime:
    """Reads how long the host of a virtual machine gave its cores to others (`steal`)."""

    def __init__(self) -> None:
        self._begin = _stolen_seconds()

    def share(self, seconds: float) -> float:
        """Answer the share of all cores since this was made, `seconds` ago; 0 without a host."""
        return (_stolen_seconds() - self._begin) / (seconds * (psutil.cpu_count() or 1))


def _stolen_seconds() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))  # Linux alone counts it


def family_of(name: str, pid: int) -> list[psutil.Process]:
    """Answer a process and all below it: workers, and what a starter started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess as error:
        raise LoadTestError(f"{name}: there is no process {pid}") from error


def _counters_of(name: str, family: list[psutil.Process]) -> tuple[float, int]:
    try:
        times = [process.cpu_times() for process in family]
        switches = sum(_context_switches(process.pid) for process in family)
    except (psutil.NoSuchProcess, FileNotFoundError) as error:
        raise LoadTestError(f"{name} ended during the measurement") from error
    return sum(time.user + time.system for time in times), switches


def _context_switches(pid: int) -> int:
    """Add up all threads; psutil's figure is that of the first thread alone."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (thread / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if "ctxt" in line)
    return total
