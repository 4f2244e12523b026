"""The step beside this file, loaded at a low priority: the server answers with other steps meanwhile.

`cma-clip publish` puts a copy of this file beside each python step of a set. Where a process may not take its priority
back (no root, and `ulimit -e` below 20) it keeps the one that it has.
"""

import importlib.util
import os
import resource
from contextlib import suppress
from pathlib import Path

LOW, ORDINARY = 10, 0
BACK_RIGHT = 20 - ORDINARY  # RLIMIT_NICE counts the other way round

_limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
_quiet = os.geteuid() == 0 or _limit == resource.RLIM_INFINITY or _limit >= BACK_RIGHT
if _quiet:  # before the imports of the step, which take as long as its load
    os.setpriority(os.PRIO_PROCESS, 0, LOW)
(_file,) = Path(__file__).parent.glob("*_step.py")
_spec = importlib.util.spec_from_file_location(_file.stem, _file)
assert _spec is not None and _spec.loader is not None
_step = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_step)


class TritonPythonModel(_step.TritonPythonModel):  # type: ignore[name-defined, misc]
    def initialize(self, args: dict[str, str]) -> None:
        super().initialize(args)
        if _quiet:
            for thread in os.listdir("/proc/self/task"):  # Linux keeps a priority for each thread
                with suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, int(thread), ORDINARY)
