"""The interfaces for backends, layers and listeners of your own."""

from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

from ._backends.capabilities import LedgerCapabilities as LedgerCapabilities
from ._contracts.backend import (
    ActOnMany as ActOnMany,
    Audit as Audit,
    Backend as Backend,
    CallTask as CallTask,
    Cancel as Cancel,
    Discard as Discard,
    Explain as Explain,
    Feeder as Feeder,
    FetchById as FetchById,
    ListQueues as ListQueues,
    ListTasks as ListTasks,
    ListWorkers as ListWorkers,
    Metrics as Metrics,
    NowaitBackend as NowaitBackend,
    Pause as Pause,
    PollStrategy as PollStrategy,
    Progress as Progress,
    ReceiveNowaitBackend as ReceiveNowaitBackend,
    RegisterWorker as RegisterWorker,
    Reschedule as Reschedule,
    ResumeAbandoned as ResumeAbandoned,
    ResumeById as ResumeById,
    SetLimits as SetLimits,
    SetMetadata as SetMetadata,
    StoreSchedules as StoreSchedules,
    Throughput as Throughput,
    TransferTasks as TransferTasks,
    Update as Update,
    Vacuum as Vacuum,
    WaitForCompletion as WaitForCompletion,
    Watch as Watch,
)
from ._contracts.deadlines import seconds_to_deadline as seconds_to_deadline
from ._contracts.layer import (
    Admitting as Admitting,
    Gate as Gate,
    Handler as Handler,
    Layer as Layer,
    NowaitGate as NowaitGate,
)
from ._contracts.listing import make_page as make_page
from ._contracts.metrics import EMPTY_METRICS as EMPTY_METRICS
from ._contracts.schedules import (
    ScheduleChange as ScheduleChange,
    ScheduleEntry as ScheduleEntry,
    ScheduleResult as ScheduleResult,
    StoredSchedule as StoredSchedule,
    TaskTemplate as TaskTemplate,
)
from ._contracts.sink import TaskSink as TaskSink
from ._exports import rename as _rename

if _TYPE_CHECKING:
    from ._backends.durable.capabilities import DurableCapabilities as DurableCapabilities
    from ._contracts.context import Listener as Listener
    from ._contracts.events import Event as Event

_rename(__name__, globals())

_WHEN_ASKED_FOR = {
    "DurableCapabilities": "._backends.durable.capabilities",
    "Event": "._contracts.context",
    "Listener": "._contracts.context",
}
"""Names that belong to workers and to stored storages, which are imported when they are first asked for."""


def __getattr__(name: str) -> _Any:
    if name == "__all__":  # so that `import *` includes them
        return [each for each in __dir__() if not each.startswith("_")]
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_WHEN_ASKED_FOR[name], __package__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHEN_ASKED_FOR})
