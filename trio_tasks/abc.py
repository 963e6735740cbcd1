"""The contracts: for backends, layers and listeners of one's own."""

from ._abc import (
    Admitting as Admitting,
    Backend as Backend,
    Cancel as Cancel,
    Discard as Discard,
    Feeder as Feeder,
    FetchById as FetchById,
    Gate as Gate,
    Handler as Handler,
    Layer as Layer,
    ListQueues as ListQueues,
    ListTasks as ListTasks,
    ListWorkers as ListWorkers,
    Metrics as Metrics,
    NowaitBackend as NowaitBackend,
    Progress as Progress,
    RegisterWorker as RegisterWorker,
    Reschedule as Reschedule,
    ResumeAbandoned as ResumeAbandoned,
    ResumeById as ResumeById,
    StockedBackend as StockedBackend,
    Update as Update,
    Vacuum as Vacuum,
    WaitForCompletion as WaitForCompletion,
)
from ._events import Event as Event, Listener as Listener
from ._names import rename as _rename
from ._polling import PollStrategy as PollStrategy
from ._sink import TaskSink as TaskSink

_rename(__name__, globals())
