"""Takes the trainer's place where the job script alone is tested: steps, checkpoints, status; no torch.

stand_in.py --config FILE run.root=DIR run.name=NAME [mode=MODE] [steps=N] [seconds=S]

Modes: train, crash, crash_once, killed_at_the_end (between the summary and the status), deaf (to signals).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

values = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
run = Path(values["run.root"]) / values["run.name"]
heard = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _frame: heard.append(signal.Signals(number).name))


def write_status(state, **details):
    if int(os.environ.get("SLURM_PROCID", "0")) == 0:
        path = run / f"status.json.{os.getpid()}"
        path.write_text(json.dumps({"state": state, **details}))
        path.replace(run / "status.json")


def save(step):
    if int(os.environ.get("SLURM_PROCID", "0")) == 0:
        (run / "checkpoints").mkdir(exist_ok=True)
        (run / "checkpoints/latest").write_text(f"step_{step:08d}")


def main():
    latest = run / "checkpoints/latest"
    step = int(latest.read_text().removeprefix("step_")) if latest.exists() else 0
    write_status("starting")
    mode = values.get("mode", "train")
    print("arguments", *sys.argv[1:], "port", os.environ.get("MASTER_PORT"), flush=True)
    if mode == "crash" or (mode == "crash_once" and step == 0):
        if mode == "crash_once":
            save(2)
        sys.exit("the stand-in crashes")
    while step < int(values.get("steps", "5")):
        time.sleep(float(values.get("seconds", "0.02")))
        step += 1
        if (heard and mode != "deaf") or (run / "STOP").exists():
            save(step)
            write_status("stopped", reason=heard[0] if heard else "STOP file")
            return
    save(step)
    (run / "summary.json").write_text("{}")
    if mode != "killed_at_the_end":
        write_status("finished")


main()
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
