"""One process of a DPO training on several GPUs; started by jobs.dpo.train through accelerate.

accelerate launch --num_processes 8 -m jobs.dpo.process JOB_FOLDER
"""

import json
import shutil
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size

from jobs.dpo.config import DPOConfig
from jobs.dpo.fit import Fit
from jobs.dpo.train import FIT, OUT_OF_MEMORY, train
from jobs.runtime import Interrupted, Job, write_whole


def main() -> None:
    """Train this process's part; the first one writes the metrics."""
    state = PartialState(cpu=not torch.cuda.is_available())
    job = Job(Path(sys.argv[1]).resolve(), DPOConfig)
    scratch = job.scratch
    job.scratch = scratch / f"process-{state.process_index}"
    job.scratch.mkdir(exist_ok=True)

    def stop(_signal: int, _frame: object) -> None:
        job.stopping = True

    signal.signal(signal.SIGTERM, stop)
    try:
        metrics = train(job, Fit.load(job.folder / FIT))
    except Interrupted:
        return
    except RuntimeError as error:
        if should_reduce_batch_size(error):
            (scratch / OUT_OF_MEMORY).touch()
        raise
    if state.is_main_process:
        shutil.rmtree(scratch / "candidate", ignore_errors=True)
        (job.scratch / "candidate").rename(scratch / "candidate")
        write_whole(scratch / "metrics.json", json.dumps(metrics))


if __name__ == "__main__":
    main()
