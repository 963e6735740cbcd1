"""What tests of tasks are made of: a worker that runs one task when told to, a backend that follows a script, two
functions that run just enough, and simulations: whole programs, in virtual time, by one schedule after another.

Everything here runs the worker's own code, so that what holds in a test holds in production. For time, take
:func:`virtual_clock`, or trio's ``MockClock`` and :func:`use_wall_clock`.
"""

from .._clock import use_wall_clock as use_wall_clock
from .._names import rename as _rename
from ._faulty_backend import FaultyBackend as FaultyBackend
from ._faulty_rates import Fault as Fault, FaultKind as FaultKind, Faults as Faults
from ._run_once import run_once as run_once
from ._run_until_idle import run_until_idle as run_until_idle
from ._scripted_backend import Pause as Pause, ScriptedBackend as ScriptedBackend
from ._test_worker import TestWorker as TestWorker
from .conformance._check import BackendConformance as BackendConformance, check_backend as check_backend
from .cuts._cut import Cut as Cut
from .cuts._explore import explore_cancellations as explore_cancellations
from .cuts._verdict import BrokenByCut as BrokenByCut, DivergedError as DivergedError, Exploration as Exploration
from .simulation._pushed import assert_pushed as assert_pushed
from .simulation._recording import Recorded as Recorded, Recording as Recording
from .simulation._seeded import run_seeded as run_seeded
from .simulation._simulate import (
    SimulationFailed as SimulationFailed,
    SimulationReport as SimulationReport,
    simulate as simulate,
)
from .simulation._simulation import Simulation as Simulation
from .simulation._virtual_time import advance as advance, virtual_clock as virtual_clock

_rename(__name__, globals())
