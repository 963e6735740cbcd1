"""The command that shows and sets the limits of a queue, and of single keys in it."""

from __future__ import annotations

import re
from typing import Any

import click

from .. import Limits, Rate
from .options import duration, on_store, store_options
from .output import Answer, CommandError, ExitStatus, exactly, printable
from .records import limits_record
from .store import StoreOptions, changing, looking

_RATE = re.compile(r"(\d{1,12})/(.+)")
_UNITS = {"s": "1s", "m": "1m", "min": "1min", "h": "1h", "d": "1d"}


def rate(text: str) -> Rate:
    """Return a rate from ``N/DURATION``, as in ``100/60``, ``100/min``, ``5/1.5h``."""
    found = _RATE.fullmatch(text.strip().lower())
    if found is None:
        raise click.BadParameter(f"{printable(text)!r} is no rate such as 100/60s, 100/min, 5/1.5h")
    try:
        return Rate(int(found[1]), per=duration(_UNITS.get(found[2].strip(), found[2])))
    except ValueError as error:
        raise click.BadParameter(f"{printable(text)!r} is no rate such as 100/60s, 100/min, 5/1.5h: {error}") from None


_COUNT = click.IntRange(min=1, max=2**31)


@click.command()
@store_options
@click.argument("queue", required=False, metavar="[QUEUE]")
@click.option(
    "-k", "--key", metavar="KEY", help="The limits of one key, in place of those that the queue has for keys."
)
@click.option("--concurrency", type=_COUNT, metavar="N", help="Attempts of the queue that run at once.")
@click.option("--per-key", type=_COUNT, metavar="N", help="Attempts of each key that run at once.")
@click.option("--rate", type=rate, metavar="N/DURATION", help="Attempts of the queue that begin within a time.")
@click.option("--rate-per-key", type=rate, metavar="N/DURATION", help="Attempts of each key that begin within a time.")
@click.option("--weight", type=float, metavar="W", help="The share of a key beside other keys. Default: 1.")
@click.option("--none", is_flag=True, help="Remove the limits.")
@on_store
async def limits(options: StoreOptions, answer: Answer, /, *, key: str | None, none: bool, **limited: Any) -> None:
    """Show or set the limits of a queue, or of a key in it.

    Without an option for a limit it shows them, and those of single keys, of all queues if none is named. With one or
    more, it sets them: what is not given is not limited any more. They hold over all processes, from the next task on
    that is taken.
    """
    given = {name: value for name, value in limited.items() if value is not None}
    if none and given:
        raise CommandError("give limits or --none, not both", ExitStatus.USAGE)
    if options.queue is None and (none or given or key is not None):
        raise CommandError("name the queue: `trio-tasks limits QUEUE …`; it sets limits of one queue", ExitStatus.USAGE)
    if none or given:
        try:
            wanted = None if none else Limits(**given)
        except ValueError as error:
            raise CommandError(str(error), ExitStatus.USAGE) from None
        async with changing(options) as store:
            [queue] = await store.queues()
            await queue.set_limits(wanted, key=key)
            _show(queue.queue, key, await queue.get_limits(key=key), answer)
        return
    async with looking(options) as store:
        for queue in await store.queues():
            known: dict[str | None, Limits | None] = {key: await queue.get_limits(key=key)}
            if key is None:
                known |= await queue.list_limits()
            for each, found in known.items():
                _show(queue.queue, each, found, answer)


def _show(queue: str, key: str | None, found: Limits | None, answer: Answer) -> None:
    told = _sentence(found, is_key=key is not None)
    whose = printable(queue) if key is None else f"{printable(queue)}, key {printable(key)}"
    answer.record({"queue": queue, "key": key, **limits_record(found)}, f"{whose}: {told}")


def _sentence(limits: Limits | None, *, is_key: bool) -> str:
    if limits is None:
        return "as the queue says for each key" if is_key else "no limits"
    told: list[str] = []
    if limits.concurrency is not None:
        told.append(f"at most {limits.concurrency} at once")
    if limits.rate is not None:
        told.append(f"at most {_rate_shown(limits.rate)}")
    each = "" if is_key else " of each key"
    if limits.per_key is not None:
        told.append(f"at most {limits.per_key} at once{each}")
    if limits.rate_per_key is not None:
        told.append(f"at most {_rate_shown(limits.rate_per_key)}{each}")
    if limits.weight != 1.0:
        told.append(f"weight {limits.weight:g}{each}")
    return ", ".join(told) or "no limits"


def _rate_shown(limit: Rate) -> str:
    return f"{limit.n} begun within {exactly(limit.per)}"
