"""Background tasks inside a trio application."""

from types import ModuleType as _Module
from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

from . import abc as _abc
from ._backends.memory import MemoryStorage as MemoryStorage, MemoryStorageStatistics as MemoryStorageStatistics
from ._contracts.backend import (
    ActOnMany as ActOnMany,
    Audit as Audit,
    Backend as Backend,
    CallTask as CallTask,
    Cancel as Cancel,
    Discard as Discard,
    Explain as Explain,
    FetchById as FetchById,
    ListQueues as ListQueues,
    ListTasks as ListTasks,
    ListWorkers as ListWorkers,
    Metrics as Metrics,
    Pause as Pause,
    Progress as Progress,
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
from ._contracts.bulk import ChangeReport as ChangeReport
from ._contracts.listing import Page as Page, TaskFilters as TaskFilters
from ._contracts.metrics import (
    AttemptTotals as AttemptTotals,
    Balance as Balance,
    Minute as Minute,
    QueueMetrics as QueueMetrics,
)
from ._contracts.sink import TaskSink as TaskSink
from ._contracts.storage_events import (
    Cancelled as Cancelled,
    DeadlinePassed as DeadlinePassed,
    Expired as Expired,
    Missed as Missed,
    Pushed as Pushed,
    Replaced as Replaced,
    StorageEvent as StorageEvent,
)
from ._exports import rename as _rename
from ._tasks.errors import (
    AbortError as AbortError,
    BackendError as BackendError,
    DeadlineError as DeadlineError,
    DeferredError as DeferredError,
    DuplicateTaskError as DuplicateTaskError,
    LeaseLostError as LeaseLostError,
    MonitorError as MonitorError,
    OrphanedError as OrphanedError,
    OutcomeError as OutcomeError,
    OverloadedError as OverloadedError,
    ProcessDiedError as ProcessDiedError,
    RetryAfterError as RetryAfterError,
    StoredError as StoredError,
    SuspendError as SuspendError,
    TaskExpiredError as TaskExpiredError,
    UnknownTaskError as UnknownTaskError,
    UnsettledError as UnsettledError,
    WorkerError as WorkerError,
)
from ._tasks.extensions import Extensions as Extensions, Metadata as Metadata
from ._tasks.limits import Limits as Limits, Rate as Rate
from ._tasks.outcome import (
    Failed as Failed,
    Killed as Killed,
    Outcome as Outcome,
    Released as Released,
    Retried as Retried,
    Status as Status,
    Succeeded as Succeeded,
    Suspended as Suspended,
    TaskResult as TaskResult,
)
from ._tasks.retry import RetryPolicy as RetryPolicy, constant as constant, exponential as exponential, linear as linear
from ._tasks.task import (
    Attempt as Attempt,
    Parts as Parts,
    Task as Task,
    TaskBuilder as TaskBuilder,
    TaskOptions as TaskOptions,
)
from ._tasks.task_id import TaskId as TaskId
from ._tasks.task_info import PastAttempt as PastAttempt, StoredTaskInfo as StoredTaskInfo

if _TYPE_CHECKING:
    from ._backends.custom import CustomBackend as CustomBackend
    from ._backends.durable.queue import Lease as Lease, StorageOptions as StorageOptions
    from ._backends.durable.storage import DurableStorage as DurableStorage
    from ._backends.file.storage import FileStorage as FileStorage
    from ._backends.pipe import Pipe as Pipe, pipe_to as pipe_to
    from ._backends.polling import (
        Backoff as Backoff,
        Interval as Interval,
        OnSignal as OnSignal,
        poll as poll,
        race as race,
    )
    from ._backends.sqlite.storage import SqliteStorage as SqliteStorage, SqliteTransaction as SqliteTransaction
    from ._backends.sqlite.sync_storage import SyncSqliteStorage as SyncSqliteStorage
    from ._backends.urls import open_url as open_url
    from ._codecs.codec import (
        CborCodec as CborCodec,
        Codec as Codec,
        DecodeError as DecodeError,
        EncodeError as EncodeError,
        JsonCodec as JsonCodec,
        PydanticCodec as PydanticCodec,
    )
    from ._contracts.context import WorkerContext as WorkerContext, WorkerStatistics as WorkerStatistics
    from ._contracts.events import (
        Custom as Custom,
        Engage as Engage,
        Error as Error,
        Event as Event,
        HeartBeat as HeartBeat,
        Idle as Idle,
        Release as Release,
        Start as Start,
        Stop as Stop,
        Success as Success,
    )
    from ._contracts.explanation import Explanation as Explanation
    from ._contracts.report import (
        Interruption as Interruption,
        Overrun as Overrun,
        Report as Report,
        WorkerReport as WorkerReport,
    )
    from ._contracts.store_info import StoreInfo as StoreInfo
    from ._contracts.transfer import ImportReport as ImportReport, StoredTask as StoredTask
    from ._contracts.worker_info import RunningTask as RunningTask, WorkerInfo as WorkerInfo
    from ._handlers.adapter import Data as Data, HandlerSignatureError as HandlerSignatureError
    from ._handlers.parameters import Injected as Injected
    from ._monitor import Monitor as Monitor
    from ._router.function import TaskFunction as TaskFunction
    from ._router.queues import Queues as Queues
    from ._router.router import Router as Router
    from ._schedules.cron import Cron as Cron, CronSpec as CronSpec, cron as cron
    from ._schedules.schedule import Firing as Firing, IntervalSpec as IntervalSpec, every as every
    from ._schedules.schedules import (
        ScheduleInfo as ScheduleInfo,
        ScheduleOptions as ScheduleOptions,
        Schedules as Schedules,
    )
    from ._tasks.call import Call as Call
    from ._worker.builder import WorkerBuilder as WorkerBuilder
    from ._worker.worker import Worker as Worker

__version__ = "0.1.0"

del _abc  # imported since it gives the base classes that users meet their public names
_rename(__name__, globals())

_WHEN_ASKED_FOR = {
    "Backoff": "._backends.polling",
    "Call": "._tasks.call",
    "CborCodec": "._codecs.codec",
    "Codec": "._codecs.codec",
    "Custom": "._contracts.events",
    "Cron": "._schedules.cron",
    "CronSpec": "._schedules.cron",
    "CustomBackend": "._backends.custom",
    "Data": "._handlers.adapter",
    "DecodeError": "._codecs.codec",
    "DurableStorage": "._backends.durable.storage",
    "EncodeError": "._codecs.codec",
    "Engage": "._contracts.events",
    "Error": "._contracts.events",
    "Event": "._contracts.events",
    "Explanation": "._contracts.explanation",
    "FileStorage": "._backends.file.storage",
    "Firing": "._schedules.schedule",
    "HandlerSignatureError": "._handlers.adapter",
    "HeartBeat": "._contracts.events",
    "Idle": "._contracts.events",
    "ImportReport": "._contracts.transfer",
    "Injected": "._handlers.parameters",
    "Interruption": "._contracts.report",
    "Interval": "._backends.polling",
    "IntervalSpec": "._schedules.schedule",
    "JsonCodec": "._codecs.codec",
    "Lease": "._backends.durable.queue",
    "Monitor": "._monitor",
    "OnSignal": "._backends.polling",
    "Overrun": "._contracts.report",
    "Pipe": "._backends.pipe",
    "PydanticCodec": "._codecs.codec",
    "Queues": "._router.queues",
    "Release": "._contracts.events",
    "Report": "._contracts.report",
    "Router": "._router.router",
    "RunningTask": "._contracts.worker_info",
    "ScheduleInfo": "._schedules.schedules",
    "ScheduleOptions": "._schedules.schedules",
    "Schedules": "._schedules.schedules",
    "SqliteStorage": "._backends.sqlite.storage",
    "SqliteTransaction": "._backends.sqlite.storage",
    "Start": "._contracts.events",
    "Stop": "._contracts.events",
    "StoreInfo": "._contracts.store_info",
    "StorageOptions": "._backends.durable.queue",
    "StoredTask": "._contracts.transfer",
    "Success": "._contracts.events",
    "SyncSqliteStorage": "._backends.sqlite.sync_storage",
    "TaskFunction": "._router.function",
    "Worker": "._worker.worker",
    "WorkerBuilder": "._worker.builder",
    "WorkerContext": "._contracts.context",
    "WorkerInfo": "._contracts.worker_info",
    "WorkerReport": "._contracts.report",
    "WorkerStatistics": "._contracts.context",
    "cron": "._schedules.cron",
    "every": "._schedules.schedule",
    "open_url": "._backends.urls",
    "pipe_to": "._backends.pipe",
    "poll": "._backends.polling",
    "race": "._backends.polling",
}
"""Public names that are imported when they are first asked for: a program that only pushes loads no worker, and no
library of a storage or codec that it does not use."""


def __getattr__(name: str) -> _Any:
    if (
        name == "__all__"
    ):  # a star asks for it; checkers, which see no such list, take every name that is imported as itself
        return [each for each in __dir__() if not each.startswith("_") and not isinstance(globals().get(each), _Module)]
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    from sys import modules

    value = getattr(import_module(_WHEN_ASKED_FOR[name], __name__), name)
    globals()[name] = value
    # What came along with it gets its public name, too: a run of a Worker gives a WorkerReport.
    along = {each: getattr(modules.get(__name__ + home), each, None) for each, home in _WHEN_ASKED_FOR.items()}
    _rename(__name__, along)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHEN_ASKED_FOR})
