"""Encoding and checks for a queue in memory, as a stored storage makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from .._codecs.codec import CborCodec, as_codec
from .._contracts.sink import check_storable, check_task
from .._logging import catch_errors
from .._tasks.errors import UnsettledError
from .._tasks.extensions import Metadata
from .._tasks.outcome import Status, Succeeded
from .._tasks.task import Parts, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._codecs.codec import Codec
    from .._tasks.outcome import Outcome


@final
class Encoding:
    """The codecs of a queue in memory, for args and results.

    Args:
      type: the type of the args.
      codec: see :func:`as_codec`.
      result_type: the type that handlers return.
    """

    def __init__(self, type: Any, codec: Codec | Callable[[Any], Codec] | None, result_type: Any) -> None:
        self.codec = as_codec(codec, type)
        self._results = CborCodec(result_type, name="the result")
        self._metadata = CborCodec(name="metadata")
        self._progress = CborCodec(name="the progress")

    def encode(self, task: Task[Any]) -> Task[Any]:
        """Make the task that is kept: its args are the payload, and its parts are a copy.

        Raises:
          TypeError, ValueError: something in it cannot be stored.
        """
        parts = check_task(task).parts
        check_storable(parts)
        payload = self.codec.encode(task.args)
        metadata = Metadata(self.metadata(parts.metadata)) if parts.metadata else parts.metadata
        extensions = parts.extensions if parts.has_extensions else None
        kept = Parts(parts.id, terms=parts.terms, metadata=metadata, extensions=extensions)
        if parts.status is Status.Pending:
            kept.run_at = parts.run_at
        return Task(payload, kept)

    def decode(self, task: Task[Any]) -> Task[Any]:
        """Make the task that is given out, with the args decoded. One whose payload does not decode is unfit, with the
        payload as its args.
        """
        args: Any = task.args
        with catch_errors() as caught:
            args = self.codec.decode(task.args)
        error: Any = caught.error
        if error is not None:
            task.parts.unfit = error
        return Task(args, task.parts)

    def settled(self, outcome: Outcome) -> Outcome:
        """Return the outcome with its result encoded and decoded once.

        Raises:
          UnsettledError: the result cannot be stored.
        """
        if not isinstance(outcome, Succeeded) or outcome.result is None:
            return outcome
        result: Any = None
        with catch_errors() as caught:
            result = self._results.decode(self._results.encode(outcome.result))
        error: Any = caught.error
        if error is not None:
            raise UnsettledError(error, permanent=True)
        return Succeeded(result)

    def metadata(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return metadata encoded and decoded once.

        Raises:
          EncodeError: a value is not plain.
        """
        decoded: dict[str, Any] = self._metadata.decode(self._metadata.encode(dict(values)))
        return decoded

    def progress(self, value: Any) -> Any:
        """Return the progress encoded and decoded once.

        Raises:
          EncodeError: it is not plain.
        """
        return self._progress.decode(self._progress.encode(value))

    def __repr__(self) -> str:
        return f"{self.codec!r}, results by {self._results!r}"
