"""Backtests on Ray, on Dask and on executors find what threads find; what is lost, torn or cut short is met."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

import tallybook
from tallybook import ArchiveError, Book, BookError, MissingExtra, Refused
from tallybook.adapters import clusters
from tallybook.adapters.archive.archive import Archive
from tallybook.adapters.archive.bucket_task import BucketTask, bucket_task, code
from tallybook.adapters.archive.replay_cache import ReplayCache
from tallybook.adapters.clusters import cluster_of
from tallybook.backtesting import CONTROL_NAMES
from tallybook.projections.backtest import Question
from tallybook.projections.columnar.backtesting import Asked
from tallybook.projections.exclusions import Exclusions

ROOT = Path(__file__).parent.parent
ENGINES = ["dask", "ray"]


class Shop(NamedTuple):
    """A book with an archive in its folder."""

    url: str
    digest: str
    """What threads say of the candidate."""
    sweep: str

    def open(self, **options: Any) -> Book:
        return tallybook.open(self.url, create=False, **options)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    url = f"sqlite:///{tmp_path_factory.mktemp('shop')}/made.book"
    tallybook.synth(url, customers=100, seed=5, rules=["standard"])
    with tallybook.open(url, create=False) as book:
        book.archive.catch_up()
        report, swept = book.backtest("candidate"), book.backtest_sweep(["standard", "candidate"])
    assert (report.executor, swept.executor) == ("columnar", "columnar")
    assert report.changed
    return Shop(url, report.digest(), swept.digest())


@pytest.fixture(scope="module", params=ENGINES)
def workers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two processes of an engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        if request.param == "dask":
            dask, distributed = map(import_module, ("dask", "distributed"))

            # A machine that is busy with other tests takes long to start two processes.
            slow = {f"distributed.comm.timeouts.{name}": "180s" for name in ("connect", "tcp")}
            with (
                dask.config.set({"distributed.scheduler.allowed-failures": 1, **slow}),
                distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local,
                distributed.Client(local) as client,
            ):
                yield client
        else:
            ray: Any = import_module("ray")

            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            try:
                yield "ray"
            finally:
                ray.shutdown()


class Wrapped(NamedTuple):
    """A cluster whose tasks run within something else."""

    workers: Any
    around: Callable[..., Any]

    def map(self, task: Callable[..., Any], arguments: Iterable[Any]) -> Iterator[Any]:
        with cluster_of(self.workers) as cluster:
            yield from cluster.map(partial(self.around, task), arguments)


def killed_once(marker: Path, task: Callable[..., Any], argument: Any) -> Any:
    """The worker of the twentieth task is killed in the middle of it."""
    if argument.file.name.startswith("bucket-20-"):
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return task(argument)


def killed(task: Callable[..., Any], argument: Any) -> Any:
    """A task that no worker survives."""
    os.kill(os.getpid(), signal.SIGKILL)


def noted(folder: Path, number: int) -> int:
    """A task of some length that leaves a trace."""
    (folder / str(number)).touch()
    time.sleep(0.1)
    return number


# ── the same everywhere ───────────────────────────────────────────────────────────────────────────────────────────


def test_it_finds_what_threads_find(shop: Shop, workers: Any) -> None:
    seen: list[tuple[int, int]] = []
    with shop.open() as book:
        report = book.backtest("candidate", workers=workers, progress=lambda done, of: seen.append((done, of)))
        swept = book.backtest_sweep(["standard", "candidate"], workers=workers)
    assert (report.digest(), report.executor) == (shop.digest, "columnar")
    assert swept.digest() == shop.sweep
    assert len(seen) == 64
    assert seen[-1] == (report.position, report.position)


def test_a_torn_file_is_named_and_made_anew(shop: Shop, workers: Any) -> None:
    with shop.open() as book:
        torn = next((Path(f"{shop.url.removeprefix('sqlite:///')}.archive") / "replay").glob("bucket-07-*"))
        torn.write_bytes(torn.read_bytes()[:-9])
        with pytest.raises(ArchiveError, match=r"bucket-07-.*SHA-256") as raised:
            book.backtest("candidate", workers=workers)
        assert raised.value.path == str(torn)
        assert book.backtest("candidate", workers=workers).digest() == shop.digest


def test_what_waits_is_cancelled(workers: Any, tmp_path: Path) -> None:
    with cluster_of(workers) as cluster:
        found: Any = cluster.map(partial(noted, tmp_path), range(50))
        next(found)
        found.close()  # as when the loop over it is left
        time.sleep(0.5)
        done = len(list(tmp_path.iterdir()))
        time.sleep(0.5)
        assert len(list(tmp_path.iterdir())) == done < 25


def test_workers_see_the_place_that_the_archive_has(shop: Shop, workers: Any, tmp_path: Path) -> None:
    with shop.open(archive=f"local://{tmp_path}/archive") as book:  # by fsspec, as an object store is
        book.archive.catch_up()
        assert book.backtest("candidate", workers=workers).digest() == shop.digest
        assert len(list((tmp_path / "archive" / "replay").iterdir())) == 64
        book.archive.rebuild()
        assert book.archive.status().state == "current"
    with shop.open(archive="memory://of-this-process") as book:
        book.archive.catch_up()
        with pytest.raises(BookError, match=r"memory://of-this-process/replay/bucket-.*is not there.*scaling\.md"):
            book.backtest("candidate", workers=workers)


def test_a_lost_worker_is_survived(shop: Shop, workers: Any, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    with shop.open() as book:
        report = book.backtest("candidate", workers=Wrapped(workers, partial(killed_once, marker)))
    assert marker.exists()
    assert report.digest() == shop.digest


def test_what_no_worker_survives_is_an_error_that_says_so(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "RETRIES", 1)
    with pytest.raises(BookError, match=r"A worker was lost.*memory"), cluster_of(workers) as cluster:
        list(cluster.map(partial(killed, bool), [1]))


def test_an_executor_will_do(shop: Shop) -> None:
    with shop.open() as book, ThreadPoolExecutor(2) as pool:
        assert book.backtest("candidate", workers=pool).digest() == shop.digest


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_and_what_concerns_all_accounts_can_be_sent(shop: Shop) -> None:
    left_out = Exclusions(frozenset([UUID(int=7)]), frozenset([UUID(int=(3 << 122) + 8)]))
    with shop.open() as book:
        candidate, baseline = book.rules.rules_of("candidate"), book.rules.rules_of("standard")
        control = list(book._core.history(CONTROL_NAMES))
    asked = Asked((Question(candidate, baseline, "deficit", "hindsight", 5, left_out),), sums=False)
    sent, told = pickle.loads(pickle.dumps((asked, control)))
    (question,) = sent.questions
    assert told == control
    assert (question.candidate.rule_set, question.candidate.zone) == (candidate.rule_set, candidate.zone)
    assert (question.baseline.rule_set, question.baseline.label) == (baseline.rule_set, baseline.label)
    assert question.candidate.layouts == candidate.layouts
    assert (question.unfunded, question.order, question.since_us) == ("deficit", "hindsight", 5)
    buckets = [one.questions[0].left_out for one in sent.by_bucket()]
    assert buckets[0] == Exclusions(left_out.restricted)
    assert buckets[3] == Exclusions(frozenset(), left_out.objecting)
    assert set(buckets[1:3] + buckets[4:]) == {Exclusions()}


def tasks_of(book: Book) -> list[BucketTask]:
    archive: Archive = book.archive._archive()
    manifest, cache = archive.manifest(), ReplayCache(archive, shared=True)
    asked = Asked((Question(book.rules.rules_of("candidate")),), sums=False)
    control = list(book._core.history(CONTROL_NAMES))
    return [BucketTask(cache.file(number, manifest, cache.there()), asked, control, code()) for number in range(2)]


def test_a_task_gives_the_same_after_it_was_sent(shop: Shop) -> None:
    with shop.open() as book:
        for task in tasks_of(book):
            assert bucket_task(pickle.loads(pickle.dumps(task))) == bucket_task(task)


def test_a_worker_of_another_release_does_nothing(shop: Shop) -> None:
    with shop.open() as book, pytest.raises(BookError, match="other code"):
        bucket_task(tasks_of(book)[0]._replace(code="another"))


def test_a_worker_loads_neither_book_nor_log() -> None:
    script = (
        "import sys, tallybook.adapters.archive.bucket_task\n"
        "names = ('book', 'core', 'adapters.log', 'adapters.keys', 'adapters.archive.archive')\n"
        "print([name for name in names if f'tallybook.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", ["spark", "", 2, object()])
def test_other_workers_are_refused(wrong: object, shop: Shop) -> None:
    with shop.open() as book, pytest.raises(Refused, match=r"workers: .* is wanted") as refused:
        book.backtest("candidate", workers=wrong)
    assert refused.value.code == "invalid_argument"


def test_the_reference_executor_has_no_workers(shop: Shop) -> None:
    with shop.open() as book, pytest.raises(Refused, match="workers: the reference executor"):
        book.backtest("candidate", executor="reference", workers="ray")


def test_without_an_archive_workers_have_nothing_to_read() -> None:
    with tallybook.open("memory:", archive="memory://none") as book, pytest.raises(BookError, match="catch_up"):
        book.backtest("candidate", workers="ray")


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_is_named(
    engine: str, package: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with shop.open() as book, pytest.raises(MissingExtra, match=rf"{package}.*tallybook\[{engine}\]"):
        book.backtest("candidate", workers=engine)
