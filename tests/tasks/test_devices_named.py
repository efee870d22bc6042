"""Each stage to its end on two processes whose wrapper names its devices, as on GPUs.

``device_ids`` alone makes `DistributedDataParallel` move its inputs, and refuse a call without any. Only GPUs have
them, so a job that dies of it dies on the first cluster. Here the wrapper gets them on the CPU.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from dense_jobs import ade20k_job, coco_job, save_encoder
from tiny import finetune_job, linear_job, pretrain_job

from mto.data.demo import make_ade20k, make_coco

STAGES = ("pretrain", "finetune", "linear", "ade20k", "coco")

#: Forks once, so that the libraries are imported once for all jobs.
PROCESSES = """
import contextlib, json, os, sys
import torch
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel
from mto.__main__ import main
from mto.runtime.ranks import LAUNCHER

plain = DistributedDataParallel.__init__

def named(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    self.device_ids, self.device_type = [0], "cpu"  # a GPU job has them, but for the type

def work(rank, runs):
    DistributedDataParallel.__init__ = named
    for port, argv, said in runs:
        os.environ |= {LAUNCHER: str(os.getppid()), "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        with open(f"{said}.{rank}", "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                main(argv)
            except Exception as error:
                print(f"{type(error).__name__}: {error}")

if __name__ == "__main__":
    import mto.tasks.ade20k, mto.tasks.coco, mto.tasks.pretrain
    from mto.openmmlab.libraries import load_mmdet, load_mmseg
    load_mmseg(), load_mmdet()
    torch.set_num_threads(1)
    multiprocessing.start_processes(work, (json.loads(sys.argv[1]),), nprocs=2, start_method="fork")
"""


@pytest.fixture(scope="module")
def out(images, tmp_path_factory) -> Path:
    """The folder of all five jobs, run to their ends, with what each said."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    make_ade20k(data / "ade20k", size=48, train=4, val=2)
    make_coco(data / "coco", size=48, train=4, val=2)
    jobs = {
        "pretrain": pretrain_job(images, "bootmae"),  # its teacher gets no gradient
        "finetune": finetune_job(images, "mae"),
        "linear": linear_job(images, "mae"),
        "ade20k": ade20k_job(data / "ade20k"),
        "coco": coco_job(data / "coco"),
    }
    jobs["ade20k"]["optim"]["batch_size"] = 4  # its pooling to one cell leaves a batch norm no other values
    runs = []
    with ExitStack() as ports:
        for name, job in jobs.items():
            free = ports.enter_context(socket.socket())
            free.bind(("localhost", 0))
            argv = [name, "--job", json.dumps(job), "--out", str(out / name), "--processes", "2"]
            if name != "pretrain":
                argv += ["--inputs", f"encoder={save_encoder(data / f'{name}.safetensors', job)}"]
            runs.append((free.getsockname()[1], argv, str(out / f"{name}.said")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", PROCESSES, json.dumps(runs)], env=environment, check=True, timeout=300)
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_well_with_devices_named_as_on_gpus(out, stage):
    metrics = out / stage / "metrics.json"
    assert metrics.exists(), "".join(path.read_text() for path in sorted(out.glob(f"{stage}.said.*")))
    assert json.loads(metrics.read_text())["metrics"]
