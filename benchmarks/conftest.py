"""The fixture by which all benchmarks measure."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import process_time
from typing import Any, Protocol

import pytest

from .ours import import_into, open_book
from .rows import BY_KEY
from .workload import SIZES, Sizes, cdnow_lines


class Benchmark(Protocol):
    """pytest-benchmark's fixture, which is not typed."""

    group: str | None
    extra_info: dict[str, Any]

    def pedantic(
        self,
        target: Callable[..., Any],
        *,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        teardown: Callable[..., None],
        rounds: int,
        warmup_rounds: int,
    ) -> Any: ...


class Closable(Protocol):
    def close(self) -> None: ...


class Measure:
    """Measures one cell of the comparison, each round on fresh files."""

    def __init__(self, benchmark: Benchmark, folder: Path) -> None:
        self._benchmark = benchmark
        self._folder = folder
        self._round = 0
        self._open: list[Closable] = []
        self._cpu: list[float] = []
        self._elsewhere = 0.0

    def __call__(
        self,
        key: str,
        who: str,
        count: int,
        target: Callable[..., Any],
        prepare: Callable[[Path], tuple[Any, ...]],
        *,
        rounds: int,
        warmup: int = 1,
        collecting: bool = True,
    ) -> None:
        """`prepare(folder)` gives the target's arguments, outside of the measured time; what can be closed is.
        `collecting`: whether garbage collection stays on.

        Beside the time that passed, the processor's is kept: it does not depend on the disk and on who else is there.
        """
        row = BY_KEY[key]
        self._benchmark.group = key
        self._benchmark.extra_info.update(key=key, who=who, count=count, unit=row.unit)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            self._round += 1
            folder = self._folder / f"{key}-{who}-{self._round}"
            folder.mkdir()
            args = prepare(folder)
            # Each pays for what it makes, and not for what was there before.
            gc.collect()
            if not collecting:
                gc.disable()
            return args, {}

        def teardown(*args: Any) -> None:
            gc.enable()
            for arg in args:
                if hasattr(arg, "close"):
                    arg.close()
            for closable in self._open:
                closable.close()
            self._open.clear()
            with suppress(FileNotFoundError):
                shutil.rmtree(self._folder / f"{key}-{who}-{self._round}")

        def timed(*args: Any) -> None:
            self._elsewhere = 0.0
            started = process_time()
            target(*args)
            self._cpu.append(process_time() - started + self._elsewhere)

        self._benchmark.pedantic(timed, setup=setup, teardown=teardown, rounds=rounds, warmup_rounds=warmup)
        self._benchmark.extra_info["cpu"] = self._cpu[-rounds:]

    def spent(self, seconds: float) -> None:
        """Add what processes that the target started took of the processor's time."""
        self._elsewhere += seconds

    def server(self, promises: str) -> None:
        """Keep what the server is that was measured."""
        self._benchmark.extra_info["server"] = promises

    def sizes(self, **bytes_each: float) -> None:
        """Keep how many bytes an event takes on disk, by what they are of."""
        self._benchmark.extra_info["bytes"] = bytes_each

    def memory(self, load: Callable[[], object]) -> None:
        """Keep how many bytes Python holds at the peak of a load, and how many stay while its result does."""
        gc.collect()
        tracemalloc.start()
        try:
            loaded = load()
            gc.collect()
            stays, peak = tracemalloc.get_traced_memory()
            del loaded
        finally:
            tracemalloc.stop()
        self._benchmark.extra_info["memory"] = {"peak": peak, "stays": stays}

    def closing(self, closable: Closable) -> None:
        """Close something when the round is over."""
        self._open.append(closable)


@pytest.fixture
def measure(benchmark: Benchmark, tmp_path: Path) -> Iterator[Measure]:
    """Measures one cell of the comparison."""
    yield Measure(benchmark, tmp_path)
    gc.collect()


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    """How much is done."""
    return SIZES


@pytest.fixture(scope="session")
def history(sizes: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that is imported."""
    return cdnow_lines(tmp_path_factory.mktemp("cdnow"), sizes.import_lines)


@pytest.fixture(scope="session")
def imported(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed book of it, without read models."""
    path = tmp_path_factory.mktemp("imported") / "source.book"
    with open_book(path) as book:
        import_into(book, history)
    return path


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the page says about the machine; its name is nobody's business."""
    from .report import machine

    machine_info.clear()
    machine_info.update(machine(Path(str(config.option.basetemp or "/tmp"))))
