"""The contracts: for backends, layers and listeners of one's own."""

from ._backends.capabilities import LedgerCapabilities as LedgerCapabilities
from ._backends.polling import PollStrategy as PollStrategy
from ._contracts.backend import (
    Backend as Backend,
    Cancel as Cancel,
    Discard as Discard,
    Feeder as Feeder,
    FetchById as FetchById,
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
from ._contracts.context import Listener as Listener
from ._contracts.events import Event as Event
from ._contracts.layer import Admitting as Admitting, Gate as Gate, Handler as Handler, Layer as Layer
from ._contracts.sink import TaskSink as TaskSink
from ._exports import rename as _rename

_rename(__name__, globals())
