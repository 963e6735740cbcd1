"""The function of a router: its parameters, the calls that it makes, and the form in which they are stored."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import update_wrapper
from inspect import Parameter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast, final

from .._checks import check_count, check_flag, check_name, check_several, check_sync
from .._codecs.codec import CborCodec, DecodeError, EncodeError
from .._codecs.pydantic import PydanticArgument
from .._codecs.schema import PydanticTypeError, label_of
from .._contracts.layer import Gate, Layer
from .._handlers.adapter import attempt_by
from .._handlers.annotations import Annotations
from .._handlers.parameters import Injected, Plan, Routed, handler_name, is_filled_in, not_a_task, parameter_text
from .._logging import catch_errors, line_of
from .._printing import escaped, quoted
from .._tasks.call import Call, make_call
from .._tasks.errors import AbortError
from .._tasks.retry import RetryPolicy
from .._tasks.task import TaskOptions, builder_for, check_options
from .value_checks import compile_check

if TYPE_CHECKING:
    from .._contracts.backend import WaitForCompletion
    from .child import FunctionPlace

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")

Upgrade = Callable[[dict[str, Any]], Mapping[str, Any]]
"""A function from the arguments of one version to those of the next, as plain values."""


class FunctionOptions(TaskOptions, total=False):
    """The keyword options of :meth:`Router.task`, whose docstring describes them, and those of ``push`` but ``id``."""

    name: str | None
    """The name of its tasks, without the prefix."""
    aliases: Iterable[str]
    """Former names."""
    queue: str
    """The queue to which it is pushed."""
    version: int
    """The version of its arguments."""
    upgrade: Mapping[int, Upgrade] | None
    """By former version, a function from its arguments to those of the next one."""
    retry: RetryPolicy | None
    """The policy for its errors."""
    layers: Iterable[Layer[Any, Any]]
    """Middleware around it."""
    process: bool
    """True if it runs in a process."""


_OWN = FunctionOptions.__annotations__.keys() - TaskOptions.__annotations__.keys()


@final
class Argument:
    """A parameter whose values are stored; or the result.

    Args:
      label: what its values are called in errors.
      name: the name of the parameter.
      annotation: its type.
      default: its default.
    """

    __slots__ = ("_check", "_codec", "_key", "_label", "annotation", "default", "kind", "name")

    def __init__(self, label: str, name: str, annotation: Any, default: Any = Parameter.empty) -> None:
        self.name = name
        self.default = default
        self.annotation = annotation
        self.kind = annotation if isinstance(annotation, type) else None
        """The class of nearly all its values: one of just this class needs no further look."""
        self._label = label
        self._check = compile_check(self.annotation)
        self._codec: CborCodec | PydanticArgument | None = None
        self._key: bytes | None = None

    @property
    def is_required(self) -> bool:
        """True if it has no default."""
        return self.default is Parameter.empty

    @property
    def codec(self) -> CborCodec | PydanticArgument:
        """The codec of its values; it is made when it is first needed, since storages in memory need none."""
        if self._codec is None:
            try:
                self._codec = CborCodec(self.annotation, name=self._label)
            except PydanticTypeError:
                self._codec = PydanticArgument(self.annotation, self._label)
        return self._codec

    @property
    def key(self) -> bytes:
        """Its name, encoded."""
        if self._key is None:
            self._key = CborCodec(str).encode(self.name)
        return self._key

    def check(self, value: Any) -> None:
        """Raise :class:`EncodeError` if the value does not fit the annotation."""
        if not self.fits(value):
            wanted = label_of(self.annotation)
            raise EncodeError(f"{self._label} must be {wanted}, not {_told(value, wanted)}")

    def fits(self, value: Any) -> bool:
        """Return True if the value fits the annotation."""
        return self._check is None or self._check(value)


def _told(value: Any, wanted: str) -> str:
    given = type(value).__name__
    return given if given != wanted.partition("[")[0] else f"a {given} with other values in it"


@final
class TaskFunction(Generic[P, C, R]):
    """A function of a :class:`Router`. It can be called as before; :meth:`bind` makes a call to be pushed.

    ``tasks.task`` makes it, with the arguments that are described there.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, C]
    options: Mapping[str, Any]
    """The options of its tasks, where a push does not say otherwise."""

    def __init__(self, function: Callable[P, C], name: str, options: FunctionOptions) -> None:
        update_wrapper(self, function, updated=())  # an attribute of the function could hide one of these
        self._function = function
        self.name = check_name(name, "the name of a task")
        """The name by which the tasks are stored."""
        self.aliases = tuple(check_several(options.get("aliases", ()), "aliases", "former names"))
        """Former names; stored tasks of these names are run by the function, too."""
        for alias in self.aliases:
            check_name(alias, "an alias")
        self.queue = check_name(options.get("queue", "default"), "queue")
        """The name of the queue that its calls are pushed to, on :class:`Queues`."""
        self.version = check_count(options.get("version", 1), "version")
        """The version of its arguments."""
        self.retry = _check_retry(options.get("retry"))
        layers = check_several(options.get("layers", ()), "layers", "layers, each (handler, task) -> result")
        self.layers = tuple(map(_check_layer, layers))
        self._upgrade = _check_upgrade(options.get("upgrade"), self.version)
        self._read_parameters()
        self.place = self._place() if check_flag(options.get("process", False), "process") else None
        """The place at which a process finds it; None if it runs in the process of the worker."""
        self._set_options(cast("TaskOptions", {each: value for each, value in options.items() if each not in _OWN}))
        self._prefix: bytes | None = None
        self._returns: Argument | None = None

    # Made once

    def _read_parameters(self) -> None:
        function: Any = self._function
        annotations = Annotations(function)
        injected: list[str] = []
        self.arguments: dict[str, Argument] = {}
        """The parameters whose values are stored, by name."""
        self._positional: list[str] = []
        for parameter in annotations.parameters.values():
            self._check_kind(parameter)
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
                self._positional.append(parameter.name)
            if parameter.default is Injected:
                injected.append(parameter.name)
            else:
                self.arguments[parameter.name] = self._argument(parameter, annotations)
        self.routed = Routed(annotations, tuple(injected))
        self._defaults = {name: each.default for name, each in self.arguments.items() if not each.is_required}
        self._required = frozenset(each.name for each in self.arguments.values() if each.is_required)
        plan = Plan(function, (), routed=self.routed, resource_for=lambda kinds: lambda task: None)
        attempt_by(plan)  # it refuses what is wrong

    def _place(self) -> FunctionPlace:
        from .processes import place_of  # most programs have none

        return place_of(self._function, self.routed)

    @property
    def process_function(self) -> Callable[P, C]:
        """The function that a process calls."""
        return self._function

    def _check_kind(self, parameter: Parameter) -> None:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            star = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            self._refuse(
                f"its parameter '{star}{parameter.name}' has no names to store: list the parameters one by one"
            )
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            self._refuse(
                f"its parameter '{parameter.name}' is positional-only, and arguments are stored by name: "
                "take the '/' out"
            )

    def _argument(self, parameter: Parameter, annotations: Annotations) -> Argument:
        shown = parameter_text(parameter)
        if parameter.annotation is Parameter.empty:
            self._refuse(
                f"its parameter '{shown}' has no annotation, by which its values are checked and stored: give it one; "
                "Any is for plain values of all kinds"
            )
        try:
            annotation = annotations.resolve(parameter)
        except Exception as error:  # evaluating an annotation may raise anything
            why = (
                f"its parameter '{shown}' cannot be evaluated ({error}): define or import the name before the function"
            )
            raise not_a_task(self._function, why) from error
        if is_filled_in(annotation):
            self._refuse(f"its parameter '{shown}' is filled in by the worker: give it the default `Injected`")
        label = f"args of {self.name}.{parameter.name}"
        return Argument(label, parameter.name, annotation, parameter.default)

    def _refuse(self, why: str) -> NoReturn:
        raise not_a_task(self._function, why)

    def _set_options(self, options: TaskOptions) -> None:
        check_options(options, "Router.task", without=("id",))
        values = dict(options)
        if self.retry is not None:
            values.setdefault("attempts", self.retry.attempts)
        self.unique = options.get("unique")
        """The template of the unique key."""
        self._templates: dict[str, Any] = {
            name: values[name] for name in ("unique", "key") if values.get(name) is not None
        }
        for name, template in self._templates.items():
            self._check_template(name, template)
        self._builder = builder_for(self.name, values)
        self.options = MappingProxyType(values)

    def _check_template(self, option: str, template: Any) -> None:
        """Raise if the template names something else than an argument."""
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{option} must be a template such as '{{path}}', not {quoted(template)}: {error}"
            ) from None
        for field in fields:
            name = field.partition(".")[0].partition("[")[0]
            if name not in self.arguments:
                known = ", ".join(self.arguments) or "none"
                raise ValueError(
                    f"{option} of {self.name} names {{{field}}}, which is no argument of the function; those are: "
                    f"{known}"
                )

    # Calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function itself, here and now.

        Raises:
          TypeError: a parameter that a worker would fill in was not given.
        """
        injected = self.routed.injected
        if injected and len(kwargs) < len(injected) + len(self._required):
            given = {*kwargs, *self._positional[: len(args)]}
            missing = [name for name in injected if name not in given]
            if missing:
                raise TypeError(
                    f"{self.__qualname__}() called directly needs a value for {missing[0]!r}, which a worker fills in"
                )
        return self._function(*args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Make a call with these arguments, to be pushed.

        >>> await queues.push(send_email.bind("a@example.com", subject="hi"), delay=60)

        Raises:
          EncodeError: an argument is of the wrong type; the message names it.
          TypeError: an argument is missing, or there is no such parameter.
        """
        given: dict[str, Any] = kwargs if not args else self._by_name(args, kwargs)
        arguments = self.arguments
        for name, value in given.items():
            argument = arguments.get(name)
            if argument is None:
                self._refuse_argument(name)
            if value.__class__ is not argument.kind:
                argument.check(value)
        if not self._required <= given.keys():
            missing = next(name for name in arguments if name in self._required and name not in given)
            raise TypeError(f"{self.name}.bind() misses the argument {missing!r}")
        if not self._templates:
            return make_call(self.name, given, self.version, self.options, self._builder)
        filled = {option: self._fill(option, template, given) for option, template in self._templates.items()}
        options = MappingProxyType({**self.options, **filled})
        return make_call(self.name, given, self.version, options, self._builder, filled)

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        positional = self._positional
        if len(args) > len(positional):
            raise TypeError(f"{self.name}.bind() takes {len(positional)} arguments by position, not {len(args)}")
        given = dict(zip(positional, args, strict=False))
        if kwargs:
            if both := given.keys() & kwargs.keys():
                raise TypeError(f"{self.name}.bind() was given the argument {min(both)!r} twice")
            given.update(kwargs)
        return given

    def _refuse_argument(self, name: str) -> NoReturn:
        if name in self.routed.injected:
            raise TypeError(f"{self.name}.bind() takes no {name!r}: a worker fills it in")
        known = ", ".join(self.arguments) or "no arguments"
        raise TypeError(f"{self.name}.bind() has no parameter {quoted(name)}; it takes {known}")

    def _fill(self, option: str, template: str, given: dict[str, Any]) -> str:
        """Fill the arguments in a template; return the value of the option."""
        try:
            key = template.format_map({**self._defaults, **given} if self._defaults else given)
            return check_name(key, "the key")
        except (AttributeError, LookupError, ValueError, TypeError) as error:
            raise EncodeError(f"{option} of {self.name}, {template!r}, cannot be made: {line_of(error)}") from error

    async def result(self, queues: WaitForCompletion, task_id: str) -> R:
        """Wait until a task of this function is finished, and return its result, as the function's return type.

        Args:
          queues: the queues, or the storage, that have the task.
          task_id: the id of the task.

        Raises:
          UnknownTaskError: no task of this id is known.
          DecodeError: the result is not of the return type.
          BaseException: the error of the task, if it has failed or was killed.

        If it is cancelled, the task goes on.
        """
        found = await queues.wait_for(task_id)
        return cast("R", self.result_of(found.unwrap()))

    def result_of(self, value: Any) -> Any:
        """Convert a result that was stored to the return type; one in memory is of that type already.

        Raises:
          DecodeError: it is not of that type.
        """
        if self._returns is None:
            returns: Any = Any
            with suppress(Exception):  # evaluating an annotation may raise anything, and there may be none
                returns = self.routed.annotations.resolve_return()
            self._returns = Argument(f"the result of {self.name}", "return", returns)
        return value if self._returns.fits(value) else self._returns.codec.from_plain(value)

    # Stored

    def encode(self, call: Call[Any]) -> bytes:
        """Encode a call: a map of the name, the version and the arguments.

        Raises:
          EncodeError: an argument cannot be stored, or is none of the function's.
        """
        if call.version != self.version:
            raise EncodeError(f"a call of version {call.version} of {self.name}, which has version {self.version} here")
        if self._prefix is None:
            self._prefix = _prefix_of(self.name, self.version)
        parts = [self._prefix, _map_of(len(call.arguments))]
        for name, value in call.arguments.items():
            argument = self.arguments.get(name)
            if argument is None:
                self._refuse_argument(name)
            parts += (argument.key, argument.codec.encode(value))
        return b"".join(parts)

    def decode(self, version: int, plain: dict[str, Any], name: str) -> Call[Any]:
        """Make the call of what was stored: upgraded, and with its arguments as their types.

        Args:
          version: the version that was stored; this one, or one from which upgrades lead here.
          plain: the arguments as plain values.
          name: the name that was stored.

        Raises:
          DecodeError: the arguments are not those of this version.
        """
        if version == self.version:
            return make_call(self.name, self._typed(plain), version, self.options, self._builder)
        upgraded, step = plain, version
        with catch_errors() as caught:
            for step in range(version, self.version):
                upgraded = dict(self._upgrade[step](upgraded))
            return make_call(self.name, self._typed(upgraded), self.version, self.options, self._builder)
        assert caught.error is not None
        problem = f"the upgrade of {escaped(name)} from version {step} to {step + 1} failed: {line_of(caught.error)}"
        error = AbortError(problem)
        error.__cause__ = caught.error
        return make_call(name, plain, version, problem=error)

    def leads_from(self, version: int) -> bool:
        """Return True if arguments of this version can be read."""
        return version <= self.version and all(step in self._upgrade for step in range(version, self.version))

    def _typed(self, plain: dict[str, Any]) -> dict[str, Any]:
        typed: dict[str, Any] = {}
        for name, value in plain.items():
            argument = self.arguments.get(name)
            if argument is None:
                raise DecodeError(
                    f"{self.name} has no parameter {quoted(name)} here: give it a new version=, and an upgrade= from "
                    f"version {self.version} that leaves it out"
                )
            typed[name] = argument.codec.from_plain(value)
        if not self._required <= typed.keys():
            missing = next(name for name in self.arguments if name in self._required and name not in typed)
            raise DecodeError(f"{self.name} needs {missing!r}, which is not stored: give it a default, or an upgrade=")
        return typed

    def __repr__(self) -> str:
        return f"<TaskFunction {escaped(self.name)}: {handler_name(self._function)}>"


def _check_retry(retry: object) -> RetryPolicy | None:
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry must be a RetryPolicy, not {quoted(retry)}")
    return retry


def _check_layer(layer: Layer[Any, Any]) -> Layer[Any, Any]:
    if isinstance(layer, type) or not callable(layer):
        raise TypeError(f"each of layers must be an async layer(handler, task) -> result, not {quoted(layer)}")
    if isinstance(layer, Gate):
        raise ValueError(
            f"{quoted(layer)} has a gate, which is asked before a task is received, when its function is not known: "
            "give it to the worker"
        )
    return layer


def _check_upgrade(upgrade: Mapping[int, Upgrade] | None, version: int) -> dict[int, Upgrade]:
    if upgrade is None:
        return {}
    if not isinstance(upgrade, Mapping):
        raise TypeError(f"upgrade must be a dict from versions to functions, not {quoted(upgrade)}")
    for step, function in upgrade.items():
        check_count(step, "a version in upgrade")
        check_sync(function, f"upgrade[{step}]", "upgrade(args) -> args")
        if step >= version:
            raise ValueError(f"upgrade[{step}] leads to version {step + 1}, and the function has version {version}")
    return dict(upgrade)


def _prefix_of(name: str, version: int) -> bytes:
    """Return the first bytes of a stored call, up to its arguments."""
    import cbor2

    fields = [*map(cbor2.dumps, ("task", name, "v", version, "args"))]
    return b"".join([_map_of(3), *fields])


def _map_of(length: int) -> bytes:
    """Return the head of a CBOR map of this many pairs."""
    if length < 24:
        return bytes([0xA0 + length])
    return bytes([0xB8, length]) if length < 256 else b"\xb9" + length.to_bytes(2, "big")
