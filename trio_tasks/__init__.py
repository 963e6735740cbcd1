"""Background tasks inside a trio application."""

from ._abc import (
    Backend as Backend,
    Cancel as Cancel,
    FetchById as FetchById,
    ListQueues as ListQueues,
    ListTasks as ListTasks,
    ListWorkers as ListWorkers,
    Metrics as Metrics,
    RegisterWorker as RegisterWorker,
    Reschedule as Reschedule,
    ResumeAbandoned as ResumeAbandoned,
    ResumeById as ResumeById,
    Update as Update,
    Vacuum as Vacuum,
    WaitForCompletion as WaitForCompletion,
)
from ._backoff import (
    RetryPolicy as RetryPolicy,
    constant as constant,
    exponential as exponential,
    linear as linear,
)
from ._builder import WorkerBuilder as WorkerBuilder
from ._context import WorkerContext as WorkerContext, WorkerStatistics as WorkerStatistics
from ._custom import CustomBackend as CustomBackend
from ._errors import (
    AbortError as AbortError,
    BackendError as BackendError,
    DeferredError as DeferredError,
    DuplicateTaskError as DuplicateTaskError,
    LeaseLostError as LeaseLostError,
    MonitorError as MonitorError,
    OverloadedError as OverloadedError,
    RetryAfterError as RetryAfterError,
    TaskExpiredError as TaskExpiredError,
    UnknownTaskError as UnknownTaskError,
    WorkerError as WorkerError,
)
from ._events import (
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
from ._extensions import Extensions as Extensions, Metadata as Metadata
from ._memory import MemoryStorage as MemoryStorage, MemoryStorageStatistics as MemoryStorageStatistics
from ._monitor import Monitor as Monitor
from ._names import rename as _rename
from ._outcome import (
    Failed as Failed,
    Killed as Killed,
    Outcome as Outcome,
    Released as Released,
    Retried as Retried,
    Succeeded as Succeeded,
    TaskResult as TaskResult,
)
from ._pipe import Pipe as Pipe, pipe_to as pipe_to
from ._polling import (
    Backoff as Backoff,
    Interval as Interval,
    OnSignal as OnSignal,
    poll as poll,
    race as race,
)
from ._report import Interruption as Interruption, Report as Report, WorkerReport as WorkerReport
from ._sink import TaskSink as TaskSink
from ._task import Attempt as Attempt, Parts as Parts, Status as Status, Task as Task
from ._task_builder import TaskBuilder as TaskBuilder, TaskOptions as TaskOptions
from ._task_fn import Data as Data, HandlerSignatureError as HandlerSignatureError
from ._task_id import TaskId as TaskId
from ._worker import Worker as Worker

__version__ = "0.1.0"

_rename(__name__, globals())
