"""The processes of a loader obey their parent alone."""

import os
import signal
import subprocess
import sys
import time

SCRIPT = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from mto.data.workers import obey_parent_alone

class Slow(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): time.sleep(0.05); return index

loader = DataLoader(Slow(), num_workers=2, worker_init_fn=obey_parent_alone, persistent_workers=True)
batches = iter(loader)
next(batches)
workers = [worker.pid for worker in batches._workers]
print(*workers, flush=True)
sys.stdin.readline()                   # the test signals the workers
print(sum(1 for _ in batches), all(worker.is_alive() for worker in batches._workers), flush=True)
raise SystemExit(143)                  # with the iterator alive, as a traceback keeps it
"""


def test_a_signal_to_all_processes_breaks_no_step_and_nobody_stays_behind():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(worker, number)
    time.sleep(0.3)
    out, errors = process.communicate("go on\n", timeout=30)
    assert out.split() == ["7", "True"]
    assert process.returncode == 143
    assert errors == ""
    for worker in workers:
        assert not os.path.exists(f"/proc/{worker}")
