"""A comparison of SqliteStorage and FileStorage with huey and other queues on SQLite, each in a process of its own."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from .fresh import Found, measure_afresh, size
from .measuring import MICRO
from .stored import ENGINES, LEVELS

CONCURRENCIES = [1, 10, 100]
TARGETS = {"NORMAL": 10.0, "FULL": 8.0}
"""How many times huey's rate a drain should reach, at concurrency 10 and 100."""
HUEY = "huey, SqliteHuey"
BARE = "SQLite alone, as many rows at a time"
BY_HAND = "the same in a thread, for trio tasks"
"""The floor: what does not meet the target there, no library can meet."""
GUARDED = "the same with our guarantees, by hand"
"""The floor for what our layers cost: the same file, statements and checks, and nothing else."""


@dataclass(frozen=True)
class Contender:
    """A queue: its name, and the module that measures it."""

    title: str
    measure: Callable[..., Found]
    is_concurrent: bool = True
    pushes: bool = True


def contenders() -> Iterator[Contender]:
    """Return the contenders: huey first, as the baseline, then ours, then other queues on SQLite that are installed."""
    yield Contender(HUEY, partial(measure_afresh, "side_by_side.huey_on_sqlite"))
    yield Contender(BARE, partial(measure_afresh, "side_by_side.bare_sqlite"), pushes=False)
    yield Contender(BY_HAND, partial(measure_afresh, "side_by_side.by_hand_on_sqlite"), pushes=False)
    yield Contender(GUARDED, partial(measure_afresh, "side_by_side.same_guarantees_on_sqlite"), pushes=False)
    for engine, title in ENGINES.items():
        if engine != "apsw" or importlib.util.find_spec("apsw"):
            yield Contender(title, partial(measure_afresh, "stored_daily", engine=engine))
    for library, title, is_concurrent in [
        ("tinyjobs", "tinyjobs", True),
        ("litequeue", "litequeue", False),
        ("persistqueue", "persist-queue", False),
        ("simplebroker", "simplebroker", False),
    ]:
        if importlib.util.find_spec(library):
            module = f"side_by_side.{title.replace('-', '_')}_on_sqlite"
            yield Contender(title, partial(measure_afresh, module), is_concurrent)
        else:
            print(f"  {title}: not installed")


def show() -> None:
    print("tasks a second, µs of CPU for each, and how many times huey's rate that is")
    for kind, concurrency, title in [("push", 1, "one producer"), ("push", 16, "16 producers"), ("bulk", 1, "bulk")]:
        _compare(kind, concurrency, f"push, {title}")
    for concurrency in CONCURRENCIES:
        _compare("drain", concurrency, f"drain, concurrency {concurrency}")
    _show_levels_of_huey()
    _show_latency()
    _show_idle()
    _show_flatness()


def _compare(kind: str, concurrency: int, title: str) -> None:
    for synchronous in LEVELS:
        print(f"\n  {title + ', ' + synchronous:44}{'tasks/s':>10}{'CPU µs':>9}{'times huey':>12}", flush=True)
        entered = [each for each in contenders() if _takes_part(each, kind, concurrency)]
        tasks = size(5_000, 200) if synchronous == "NORMAL" else size(2_000, 100)
        found = _best_in_turns(entered, kind=kind, synchronous=synchronous, tasks=tasks, concurrency=concurrency)
        huey = found[HUEY].get("wall", math.nan)
        for name, each in found.items():
            _show_rate(name, each, huey, TARGETS[synchronous] if kind == "drain" and concurrency > 1 else None)
        _show_layers(found)


def _takes_part(contender: Contender, kind: str, concurrency: int) -> bool:
    return (contender.is_concurrent or concurrency == 1) and (contender.pushes or kind == "drain")


def _best_in_turns(entered: list[Contender], **terms: Any) -> dict[str, Found]:
    """Return the best of three runs of each, by each clock, taken in turns."""
    found: dict[str, Found] = {}
    for _ in range(size(3, 1)):
        for each in entered:
            quick = each.title in (BARE, BY_HAND, GUARDED, *ENGINES.values()) and terms["concurrency"] > 1
            many = 4 if quick else 1  # or it is over too soon
            known, new = found.get(each.title, {}), each.measure(**{**terms, "tasks": many * terms["tasks"]})
            found[each.title] = {**new, **{clock: min(new[clock], known[clock]) for clock in known.keys() & new.keys()}}
    return found


def _show_rate(title: str, found: Found, huey: float, target: float | None) -> None:
    if "sorry" in found:
        print(f"    {title:42}{found['sorry']}")
        return
    ratio = huey / found["wall"]
    rate = f"{1 / found['wall']:10,.0f}{found['cpu'] * MICRO:9.1f}{ratio:11.2f}x"
    judged = target is not None and (title == BY_HAND or title.startswith("SqliteStorage"))
    word = "" if not judged or target is None else "  PASS" if ratio >= target else f"  below target ({target:g})"
    print(f"    {title:42}{rate}{word}", flush=True)


def _show_layers(found: dict[str, Found]) -> None:
    """Print how many times the CPU of the same guarantees by hand a task of SqliteStorage takes."""
    floor, ours = (found.get(title, {}).get("cpu") for title in (GUARDED, ENGINES["sqlite3"]))
    if floor and ours:
        print(f"    {'SqliteStorage, CPU over the same by hand':42}{ours / floor:30.2f}x", flush=True)


def _show_levels_of_huey() -> None:
    print("\n  what huey calls fsync=False is OFF; its drain at concurrency 10, for comparison", end="")
    terms = {"kind": "drain", "tasks": size(5_000, 200), "concurrency": 10}
    found = measure_afresh("side_by_side.huey_on_sqlite", synchronous="OFF", **terms)
    print(f": {1 / found['wall']:,.0f} tasks/s" if "wall" in found else f": {found['sorry']}", flush=True)


def _show_latency() -> None:
    print(f"\n  {'from push to start at idle, µs':44}{'p50':>10}{'p99':>10}")
    samples = size(330, 40)
    for kind, where in {"within": "in one process", "across": "across two"}.items():
        for synchronous in LEVELS:
            for engine, title in {"huey": HUEY, **ENGINES}.items():
                module = "side_by_side.huey_on_sqlite_latency" if engine == "huey" else "stored_latency"
                terms = {} if engine == "huey" else {"engine": engine}
                if engine == "file" and kind == "across":  # it is for one process
                    continue
                found = measure_afresh(module, kind=kind, synchronous=synchronous, samples=samples, **terms)
                words = found.get("sorry") or f"{found['p50'] * MICRO:10.0f}{found['p99'] * MICRO:10.0f}"
                print(f"    {f'{title}, {synchronous}, {where}':42}{words}", flush=True)


def _show_idle() -> None:
    slots, seconds = 100, size(10, 1)
    print(
        f"\n  {f'idle for {seconds} s, {slots} slots':44}{'CPU s/min':>10}{'turns/min':>11}{'threads':>9}{'files':>7}"
    )
    idle = partial(measure_afresh, slots=slots, seconds=seconds)
    rows = {
        "a trio program with a timer": idle("stored_idle", engine=None),
        **{title: idle("stored_idle", engine=engine) for engine, title in ENGINES.items()},
        f"{HUEY}, looking each ms": idle("side_by_side.huey_on_sqlite_idle", eager=True),
        f"{HUEY}, as it comes": idle("side_by_side.huey_on_sqlite_idle", eager=False),
    }
    for title, found in rows.items():
        if "sorry" in found:
            print(f"    {title:42}{found['sorry']}")
            continue
        turns = f"{found['turns']:11.0f}" if "turns" in found else f"{'':11}"
        print(f"    {title:42}{found['cpu']:10.3f}{turns}{found['threads']:9}{found['files']:7}")


def _show_flatness() -> None:
    drained = size(5_000, 100)
    print(f"\n  the first {drained:,} of a queue that stores others; NORMAL, concurrency 100")
    print(f"    {'':42}{'µs wall':>9}{'µs CPU':>9}{'ratio':>8}{'bytes/task':>12}{'opening ms':>12}")
    plans: list[tuple[str, list[str]]] = []
    for engine in ("sqlite3", "file"):
        for kind in ("waiting", "finished", "delayed"):
            first = None
            for stored in (1_000, 10_000, 100_000, 1_000_000) if kind == "waiting" else (1_000, 1_000_000):
                stored = size(stored, stored // 100)
                terms = {"engine": engine, "kind": kind, "stored": stored, "drained": drained, "rounds": 3}
                found = measure_afresh("stored_flatness", **terms)
                first = first or found.get("cpu")
                plans = found.get("plans") or plans
                _show_flat_row(f"{ENGINES[engine]}: {stored:,} {kind}", found, first or math.nan)
    for name, steps in plans:
        print(f"    {name}: {'; '.join(steps)}")


def _show_flat_row(title: str, found: Found, first: float) -> None:
    if "sorry" in found:
        print(f"    {title:42}{found['sorry']}", flush=True)
        return
    micros = f"{found['wall'] * MICRO:9.1f}{found['cpu'] * MICRO:9.1f}{found['cpu'] / first:7.2f}x"
    print(f"    {title:42}{micros}{found['size']:12.0f}{found['opening'] * 1000:12.1f}", flush=True)
