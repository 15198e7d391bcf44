"""One implementation in a process of its own: asked over standard input to run steps, it answers with what they took.

Its first line is the time from the start of the process to the end of the first step.
"""

import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

from tnt_exp.hardware import seconds_since_start


def build(spec: dict):
    """Build what `spec` names."""
    kind = spec.pop("kind")
    if kind == "seed":
        from benchmarks.seed import Seed

        return Seed(**spec)
    if kind == "ours":
        import tnt_exp.cli  # noqa: F401, as in a command: Keras then imports no packages that are not used
        from tnt_exp.training.device import load_backend

        load_backend(os.environ["KERAS_BACKEND"])
        from benchmarks.ours import Ours

        return Ours(**spec)
    if kind == "export":
        from benchmarks.exports import Exported

        return Exported(**spec)
    from benchmarks.timm_tnt import Timm

    return Timm(**spec)


def own_bytes() -> int:
    """Memory of this process without the pages of files, which the system shares and takes back where it needs them.

    Allocators keep what is freed here, so that it is near its peak after a step. 0 where the system does not say.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    """Read {"steps": n} lines, answer each with seconds and CPU seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    spec = json.loads(sys.argv[1])
    mode = spec.pop("mode")
    one = build(spec)
    step = getattr(one, mode)
    step()
    say = {
        "first_step_seconds": seconds_since_start(),
        "parameters": one.parameters(),
        "bytes": getattr(one, "bytes", 0),
    }
    while True:
        say["own_bytes"] = own_bytes()
        say["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(say), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        wall, cpu = time.perf_counter(), time.process_time()
        ends = [wall]
        for _ in range(json.loads(line)["steps"]):
            step()
            ends.append(time.perf_counter())
        steps = [end - begin for begin, end in itertools.pairwise(ends)]
        say = {"seconds": ends[-1] - wall, "cpu_seconds": time.process_time() - cpu, "step_seconds": steps}


if __name__ == "__main__":
    main()
