"""Tools for testing tasks.

There is a worker that runs one task at a time, a backend that follows a script, a backend that injects faults, and
simulations of whole programs in virtual time. All of them run the worker's own code, so that what holds in a test holds
in production. To control time, use :func:`virtual_clock`, or trio's ``MockClock`` with :func:`use_wall_clock`.
"""

from .. import Monitor as _Monitor
from .._clock import use_wall_clock as use_wall_clock
from .._concurrency.threads import without_processes as without_processes
from .._exports import rename as _rename
from ._conformance.check import BackendConformance as BackendConformance, check_backend as check_backend
from ._exploration.cut import Cut as Cut
from ._exploration.explore import explore_cancellations as explore_cancellations
from ._exploration.redelivery import Redelivery as Redelivery, explore_redelivery as explore_redelivery
from ._exploration.results import BrokenByCut as BrokenByCut, DivergedError as DivergedError, Exploration as Exploration
from ._faults.backend import FaultyBackend as FaultyBackend
from ._faults.rates import Fault as Fault, FaultKind as FaultKind, Faults as Faults
from ._run_once import run_once as run_once
from ._run_until_idle import run_until_idle as run_until_idle
from ._scripted_backend import Pause as Pause, ScriptedBackend as ScriptedBackend
from ._simulation.assert_pushed import assert_pushed as assert_pushed
from ._simulation.recording import Recorded as Recorded, Recording as Recording
from ._simulation.seeded import run_seeded as run_seeded
from ._simulation.simulate import (
    SimulationFailed as SimulationFailed,
    SimulationReport as SimulationReport,
    simulate as simulate,
)
from ._simulation.simulation import Simulation as Simulation
from ._simulation.virtual_time import advance as advance, virtual_clock as virtual_clock
from ._test_worker import TestWorker as TestWorker

del _Monitor  # asked for by its public name, so that all that belongs to a run of it has its own
_rename(__name__, globals())
