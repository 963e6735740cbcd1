"""What tests of tasks are made of: a worker that runs one task when told to, a backend that follows a script, and two
functions that run just enough.

Everything here runs the worker's own code, so that what holds in a test holds in production. For time, take trio's
``MockClock``; for the wall clock, :func:`use_wall_clock`.
"""

from .._clock import use_wall_clock as use_wall_clock
from .._names import rename as _rename
from ._run_once import run_once as run_once
from ._run_until_idle import run_until_idle as run_until_idle
from ._scripted_backend import Pause as Pause, ScriptedBackend as ScriptedBackend
from ._test_worker import TestWorker as TestWorker
from .conformance._check import BackendConformance as BackendConformance, check_backend as check_backend

_rename(__name__, globals())
