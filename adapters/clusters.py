"""Where tasks run that don't run in this process: Ray, Dask, or whatever has a `map`. One bucket a task.

A worker that is lost takes nothing with it but time: its task is run again by another. What a task raises is raised
here as what it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, TypeVar

from tallybook.domain.errors import BookError, MissingExtra, refusal

Task = TypeVar("Task")
Found = TypeVar("Found")
RAY, DASK = "ray", "dask"
RETRIES = 3
"""So often a task is run again whose worker was lost."""


class Cluster(Protocol):
    """What runs tasks: an executor of `concurrent.futures` is one."""

    def map(self, task: Callable[[Task], Found], arguments: Iterable[Task], /) -> Iterator[Found]:
        """What a task gives for each argument, in any order."""
        ...


@contextmanager
def cluster_of(workers: Any) -> Iterator[Cluster]:
    """The cluster that is meant: "ray" (that of this process, else one on this host), "auto", "ray://…"; "dask", the
    address of a scheduler, a `distributed.Client`; or what has a `map`. What is begun here is ended here. Raises
    MissingExtra, BookError. Refuses: invalid_argument."""
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(workers, distributed.Client):
        yield _Dask(workers)
    elif isinstance(workers, str) and (workers in (RAY, "auto") or workers.startswith("ray://")):
        with _ray(None if workers == RAY else workers) as ray:
            yield _Ray(ray)
    elif isinstance(workers, str) and (workers == DASK or workers.startswith(("tcp://", "tls://", "ucx://"))):
        with _dask(None if workers == DASK else workers) as client:
            yield _Dask(client)
    elif not isinstance(workers, str) and callable(getattr(workers, "map", None)):
        yield workers
    else:
        raise refusal(
            "invalid_argument",
            f"workers: {workers!r} is given, and ray, dask, an address of theirs, or what has a `map` is wanted.",
            argument="workers",
        )


class _Ray:
    """Ray: tasks as it has processors free."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(self, task: Callable[[Task], Found], arguments: Iterable[Task]) -> Iterator[Found]:
        """What a task gives for each argument, as they are done."""
        ray = self._ray
        run = ray.remote(max_retries=RETRIES)(_run)
        waiting = [run.remote(task, argument) for argument in arguments]
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                yield ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise _lost(error) from error
        finally:
            for one in waiting:
                ray.cancel(one)


def _run(task: Callable[[Task], Found], argument: Task) -> Found:
    # Ray takes functions alone, and nothing else that can be called.
    return task(argument)


class _Dask:
    """Dask: tasks as its workers have threads free."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, task: Callable[[Task], Found], arguments: Iterable[Task]) -> Iterator[Found]:
        """What a task gives for each argument, as they are done."""
        distributed = _engine("distributed", DASK)
        waiting = self._client.map(task, list(arguments), pure=False)
        try:
            for one in distributed.as_completed(waiting):
                yield one.result()
        except (distributed.KilledWorker, distributed.CancelledError) as error:
            raise _lost(error) from error
        finally:
            self._client.cancel(waiting)


def _engine(package: str, extra: str) -> Any:
    """A package of an engine. Raises MissingExtra."""
    try:
        return import_module(package)
    except ImportError as missing:
        raise MissingExtra(package, extra) from missing


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    ray = _engine("ray", RAY)
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreached("Ray", address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _dask(address: str | None) -> Iterator[Any]:
    distributed = _engine("distributed", DASK)
    if address is None:
        try:
            client = distributed.Client.current()
        except ValueError:
            pass
        else:
            yield client
            return
    try:
        own = (
            distributed.Client(threads_per_worker=1, dashboard_address=None)
            if address is None
            else distributed.Client(address)
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreached("Dask", address, error) from error
    with own:
        yield own


def _unreached(engine: str, address: str | None, error: Exception) -> BookError:
    where = "on this host" if address is None else f"at {address}"
    return BookError(
        f"There is no {engine} {where}: {error}.", path=address or "", remedy="Check that it runs there, and answers."
    )


def _lost(error: Exception) -> BookError:
    return BookError(
        f"A worker was lost with a task, and so were those that took it up: {error}.",
        remedy="Give workers more memory, or fewer tasks at once: docs/scaling.md tells how much a bucket needs.",
    )
