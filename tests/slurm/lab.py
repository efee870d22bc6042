"""A Slurm of two nodes on this machine, for one test session: real daemons, nothing of the system's own touched.

Each node claims CPUs, memory and GPUs that need not exist. Everything lies in one folder: configuration, keys, logs.
No systemd, no cgroups, no accounting database.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2")
CPUS, MEMORY, GPUS = 128, 600_000, 8
PARTITIONS = {"gpu": "2-00:00:00", "short": "00:30:00"}

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=1
ReturnToService=2
JobRequeue=1
KillWait=3
MinJobAge=600
SlurmdTimeout=15
SlurmctldTimeout=30
MessageTimeout=10
GresTypes=gpu
SlurmdParameters=config_overrides
"""


class Cluster:
    """Two nodes n1 and n2 of one partition of a two days' limit and one of half an hour's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            "SLURM_CONF": str(root / "slurm.conf"),
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        }
        for folder in ("munge", "state", "bin", *(f"spool.{node}" for node in NODES)):
            (root / folder).mkdir(parents=True)
        (root / "munge").chmod(0o755)
        self._configure()

    # ------------------------------------------------------------------------------------------------- up and down
    def start(self) -> None:
        munge = self.root / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        subprocess.run(["munged", "--force", f"--socket={munge / 'socket'}", *files], check=True)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def start_controller(self) -> None:
        subprocess.run(["slurmctld"], env=self._env(), check=True)
        wait(lambda: " is UP" in self.run("scontrol", "ping", check=False), "slurmctld answers")

    def start_node(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node], env=self._env(), check=True)

    def wait_until_idle(self) -> None:
        def idle() -> bool:
            states = self.run("sinfo", "-h", "-N", "-o", "%T").split()
            if any(state.strip("*") in ("down", "drained", "draining", "unknown") for state in states):
                self.run("scontrol", "update", f"nodename={','.join(NODES)}", "state=resume", check=False)
            return set(states) == {"idle"}

        wait(idle, "both nodes are idle", 120)

    def stop(self) -> None:
        """Cancel every job, then stop the daemons that this cluster started."""
        if self.pid("slurmctld"):
            self.cancel_all()
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld"):
            self.kill(name, 15)
        self.kill("munge/pid", 15)

    def clear(self) -> None:
        """Cancel what a test left behind, and bring lost daemons back."""
        if not self.pid("slurmctld"):
            self.start_controller()
        for node in NODES:
            if not self.pid(f"slurmd.{node}"):
                self.start_node(node)
        self.cancel_all()
        self.wait_until_idle()

    def cancel_all(self) -> None:
        if ids := self.jobs():
            self.run("scancel", *ids, check=False)
            wait(lambda: not self.jobs("-t", "R,CG"), "jobs end", 60, check=False)

    def kill(self, name: str, signal: int) -> None:
        """Send a daemon a signal, and wait until it is gone."""
        if pid := self.pid(name):
            os.kill(pid, signal)
            wait(lambda: not self.pid(name), f"{name} ends", 60)

    def pid(self, name: str) -> int | None:
        """The process of a daemon, if it lives."""
        file = self.root / (name if "/" in name else f"{name}.pid")
        try:
            pid = int(file.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state == "Z" else pid

    # ---------------------------------------------------------------------------------------------------- commands
    def run(self, *command: str, check: bool = True, seconds: float = 120) -> str:
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=seconds)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, *arguments: str) -> list[str]:
        """Ids of the jobs that wait or run, oldest first."""
        return sorted(self.run("squeue", "-h", "-o", "%A", *arguments, check=False).split(), key=int)

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        words = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def _env(self) -> dict[str, str]:
        return os.environ | self.environment

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = free_ports(1 + len(NODES))
        lines = [CONFIG.format(host=host, root=self.root, ports=ports)]
        for node, port in zip(NODES, ports[1:], strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} Boards=1 "
                f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY} Gres=gpu:h100:{GPUS}"
            )
        for name, limit in PARTITIONS.items():
            default = "YES" if name == "gpu" else "NO"
            lines.append(f"PartitionName={name} Nodes={','.join(NODES)} Default={default} MaxTime={limit} State=UP")
        (self.root / "slurm.conf").write_text("\n".join(lines) + "\n")
        for number in range(GPUS):  # Slurm wants a character device for each
            (self.root / f"gpu{number}").symlink_to("/dev/null")
        devices = f"File={self.root}/gpu[0-{GPUS - 1}]"
        (self.root / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n[1-2] Name=gpu Type=h100 {devices}\n")
        # The executor plugin drops SLURM_CONF between a job and its step; the system's own place would answer.
        for name in ("srun", "scontrol", "squeue", "sinfo"):
            program = self.root / "bin" / name
            program.write_text(f'#!/bin/sh\nSLURM_CONF={self.root}/slurm.conf exec {shutil.which(name)} "$@"\n')
            program.chmod(0o755)


def why_not() -> str | None:
    """Why no cluster can be brought up here, or None."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"needs {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "needs root, as slurmd does"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait(condition: Callable[[], object], what: str, seconds: float = 60, check: bool = True) -> object:
    """Look every tenth of a second until something is true; return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            assert not check, f"not within {seconds} s: {what}"
            return value
        time.sleep(0.1)
    return value
