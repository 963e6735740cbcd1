"""Errors in a form that another process can read: with their class, text, traceback, causes and members.

Each is pickled on its own, and read again at once to see that this works: with its class called as the class says, or
else without ``__init__``. One that cannot be made again is a :class:`StoredError` in the other process, and leaves the
others as they are: an :class:`AbortError` around it remains one.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple, final

import trio

from .._concurrency.exception_groups import attribute_of, is_a
from .._concurrency.tracebacks import FramePlace, places_of, traceback_of, traceback_text
from .._logging import catch_errors, text_of
from .._tasks.errors import StoredError

_MOST_ERRORS = 32
"""Errors that are carried with one: those behind it, in it, and in its group."""
_HERE_ONLY: tuple[type[BaseException], ...] = (KeyboardInterrupt, trio.Cancelled)
"""Errors that mean something to the process in which they were raised, and would mean another thing elsewhere."""


class PortableError(NamedTuple):
    """One error.

    Attributes:
      pickled: how it is made again, with other errors by their numbers; None if it cannot be.
      stored: the class, the text and the traceback, for a :class:`StoredError` in its place.
      places: the frames of its traceback.
      cause: the number of its cause; None if it has none. Likewise ``context``.
      hides_context: as for ``__suppress_context__``.
    """

    pickled: bytes | None
    stored: tuple[str, str, str]
    places: list[FramePlace]
    cause: int | None
    context: int | None
    hides_context: bool


_UNKNOWN = PortableError(
    None, ("Exception", "an error that does not let itself be looked at", ""), [], None, None, False
)


def freeze(error: BaseException) -> list[PortableError]:
    """Return an error, which is the first one, and all errors that belong to it."""
    freezer = _Freezer()
    with catch_errors():
        freezer.add(error)
    return [_UNKNOWN if each is None else each for each in freezer.frozen]


def thaw(frozen: list[PortableError]) -> BaseException:
    """Make an error again."""
    thawer = _Thawer(frozen)
    errors = [thawer.error(number) for number in range(len(frozen))]
    for error, each in zip(errors, frozen, strict=True):
        with catch_errors():  # a class may have its own attributes of these names
            error.__cause__ = None if each.cause is None else errors[each.cause]
            error.__context__ = None if each.context is None else errors[each.context]
            error.__suppress_context__ = each.hides_context
            error.__traceback__ = traceback_of(each.places)
    return errors[0]


class _ErrorParts(NamedTuple):
    """The parts of an error whose class takes other arguments than those that its base of Python's was given."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, error: BaseException) -> _ErrorParts:
        """Take an error apart."""
        _, args, *more = _base_of(type(error)).__reduce__(error)
        return cls(type(error), args, dict(*more))

    def make(self) -> BaseException:
        """Make the error, without the ``__init__`` of its class."""
        error = self.kind.__new__(self.kind, *self.args)
        _base_of(self.kind).__init__(error, *self.args)
        error.__setstate__(self.attributes)
        return error


def _base_of(kind: type[BaseException]) -> Any:
    """Return the class of Python that a class of errors comes from."""
    return next(each for each in kind.__mro__ if each.__module__ == "builtins")


@final
class _Freezer:
    """The errors that were carried so far, each with its number."""

    def __init__(self) -> None:
        self.frozen: list[PortableError | None] = []
        self._errors: list[BaseException] = []

    def add(self, error: BaseException) -> int:
        """Return the number of an error.

        Raises:
          PicklingError: there are too many.
        """
        for number, each in enumerate(self._errors):
            if each is error:
                return number
        if len(self._errors) == _MOST_ERRORS:
            raise pickle.PicklingError("too many errors belong to this one")
        number = len(self._errors)
        self._errors.append(error)
        self.frozen.append(None)
        self.frozen[number] = PortableError(
            pickled=None if issubclass(type(error), _HERE_ONLY) else self._pickled(error),
            stored=_stored(error),
            places=places_of(attribute_of(error, "__traceback__")),
            cause=self._behind(error, "__cause__"),
            context=self._behind(error, "__context__"),
            hides_context=bool(attribute_of(error, "__suppress_context__")),
        )
        return number

    def _behind(self, error: BaseException, name: str) -> int | None:
        behind = attribute_of(error, name)
        with catch_errors():
            return None if behind is None else self.add(behind)
        return None

    def _pickled(self, error: BaseException) -> bytes | None:
        with catch_errors():
            return self._tried(error, error)
        with catch_errors():
            return self._tried(error, _ErrorParts.of(error))
        return None

    def _tried(self, error: BaseException, form: object) -> bytes:
        """Pickle a form of an error.

        Raises:
          PicklingError: another error is made of it; or what the class of the error raises.
        """
        file = io.BytesIO()
        _Pickler(file, form, self).dump(form)
        pickled = file.getvalue()
        again = _Unpickler(pickled, self._errors.__getitem__).load()
        if type(again) is not type(error) or text_of(again) != text_of(error):
            raise pickle.PicklingError(f"made of its args, it is {again!r:.100}")
        return pickled


@final
class _Pickler(pickle.Pickler):
    """A pickler of one error, with other errors by their numbers."""

    def __init__(self, file: io.BytesIO, form: object, freezer: _Freezer) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._form = form
        self._freezer = freezer

    def persistent_id(self, value: Any) -> int | None:
        """Return the number of another error; None for anything else, which is pickled."""
        if value is self._form or not is_a(value, BaseException):
            return None
        return self._freezer.add(value)


@final
class _Unpickler(pickle.Unpickler):
    """An unpickler of one error."""

    def __init__(self, pickled: bytes, error_of: Any) -> None:
        super().__init__(io.BytesIO(pickled))
        self._error_of = error_of

    def load(self) -> Any:
        """Make the error."""
        made = super().load()
        return made.make() if type(made) is _ErrorParts else made

    def persistent_load(self, pid: Any) -> Any:
        """Return another error by its number."""
        return self._error_of(pid)


@final
class _Thawer:
    """Errors that are made again, each once."""

    def __init__(self, frozen: list[PortableError]) -> None:
        self._frozen = frozen
        self._made: dict[int, BaseException | None] = {}

    def error(self, number: int) -> BaseException:
        """Return the error of this number.

        Raises:
          UnpicklingError: it is being made, and has itself in it.
        """
        if number not in self._made:
            self._made[number] = None
            self._made[number] = self._make(self._frozen[number])
        made = self._made[number]
        if made is None:
            raise pickle.UnpicklingError("an error has itself in it")
        return made

    def _make(self, each: PortableError) -> BaseException:
        if each.pickled is not None:
            with catch_errors():  # the program may have another class of this name here
                made: BaseException = _Unpickler(each.pickled, self.error).load()
                return made
        return StoredError(*each.stored)


def _stored(error: BaseException) -> tuple[str, str, str]:
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}", text_of(error), traceback_text(error)
