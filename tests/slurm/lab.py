"""A Slurm of two nodes on this machine, for one test session: real daemons, nothing of the system's own touched.

Each node claims CPUs, memory and GPUs that need not exist. Everything lies in one folder: configuration, keys, logs.
No systemd; cgroups where a test asks for them, and an accounting database likewise (database.py).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from machine import PATH, free_ports, wait, which

NODES = ("n1", "n2")
OUT_OF_SERVICE = {"down", "drained", "draining"}
CPUS, MEMORY, GPUS = 128, 600_000, 8
PARTITIONS = {  # a job of the last one takes what it wants from the others' jobs, which are queued again
    "gpu": "Default=YES MaxTime=2-00:00:00 PriorityTier=1",
    "short": "MaxTime=00:30:00 PriorityTier=1",
    "urgent": "MaxTime=00:30:00 PriorityTier=2",
    "yielding": "MaxTime=2-00:00:00 PriorityTier=1 PreemptMode=CANCEL",  # its jobs are not queued again
}

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
FirstJobId={first}
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=0
Prolog={root}/prolog
KillWait={killwait}
MinJobAge=7200
SlurmdTimeout=8
SlurmctldTimeout=30
MessageTimeout=5
GresTypes=gpu
SlurmdParameters=config_overrides
"""


# Control groups of the first version, which are there or not: nothing is mounted.
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"


class Cluster:
    """Two nodes n1 and n2, which the partitions share.

    Args:
        proctrack: how Slurm knows the processes of a job: linuxproc (each is a child of another), or cgroup.
    """

    def __init__(self, root: Path, proctrack: str = "linuxproc") -> None:
        self.root, self.proctrack = root, proctrack
        self.killwait = 30 if proctrack == "cgroup" else 3  # Slurm's own, where none is left over when it is past
        self.environment = {
            "SLURM_CONF": str(root / "slurm.conf"),
            "PATH": f"{root / 'bin'}:{PATH}",
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
        self.start_daemon("munged", "--force", f"--socket={munge / 'socket'}", *files)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def start_daemon(self, *command: str) -> None:
        """Start what goes into the background by itself."""
        with (self.root / "daemons.txt").open("a") as said:
            done = subprocess.run(command, env=self._env(), stdout=said, stderr=said, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(command)} ends with {done.returncode}"

    def start_controller(self) -> None:
        self.start_daemon("slurmctld")
        wait(lambda: " is UP" in self.run("scontrol", "ping", check=False), "slurmctld answers")

    def restart_controller(self) -> None:
        self.kill("slurmctld")
        self.start_controller()

    def forget_jobs(self) -> None:
        """Let slurmctld come back without what it had saved, as from a lost disk; old ids are not given again."""
        latest = max(int(job) for job in re.findall(r"JobId=(\d+)", self.run("scontrol", "-o", "show", "jobs")))
        self.kill("slurmctld", signal.SIGKILL)
        shutil.rmtree(self.root / "state")
        (self.root / "state").mkdir()
        file = self.root / "slurm.conf"
        file.write_text(re.sub("FirstJobId=.*", f"FirstJobId={latest + 1000}", file.read_text()))
        self.start_controller()

    @contextmanager
    def no_launches(self) -> Iterator[None]:
        """The nodes start no job: one that is sent to them is queued again and held, and they are drained."""
        (self.root / "refuse").touch()
        try:
            yield
        finally:
            (self.root / "refuse").unlink()
            wait(lambda: not self.revive() & OUT_OF_SERVICE, "both nodes serve", 120)

    def start_node(self, node: str) -> None:
        self.start_daemon("slurmd", "-N", node)

    def wait_until_idle(self) -> None:
        wait(lambda: self.revive() == {"idle"}, "both nodes are idle", 120)

    def revive(self) -> set[str]:
        """Let nodes that are out of service serve again; return the states that nodes are in."""
        states = self.run("sinfo", "-h", "-N", "-o", "%T").split()
        if any(state.strip("*") in OUT_OF_SERVICE for state in states):
            self.run("scontrol", "update", f"nodename={','.join(NODES)}", "state=resume", check=False)
        return set(states)

    def stop(self) -> None:
        """Cancel every job, then stop the daemons that this cluster started."""
        if self.pid("slurmctld"):
            self.cancel_all()
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld"):
            self.kill(name)
        self.kill("munge/pid")

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

    def kill(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a daemon a signal, and wait until it is gone."""
        if pid := self.pid(name):
            os.kill(pid, number)
            wait(lambda: not self.pid(name), f"{name} ends", 60)

    def crash(self, node: str, job: str) -> None:
        """End a node and all that a job runs there, at once and without a word."""
        steps = [p for p in psutil.process_iter(["name", "cwd", "cmdline"]) if p.info["name"] == "slurmstepd"]
        of_job = [p for p in steps if p.info["cwd"] == str(self.root) and f"[{job}." in " ".join(p.info["cmdline"])]
        family = [child for step in of_job for child in step.children(recursive=True)]
        assert family
        self.kill(f"slurmd.{node}", signal.SIGKILL)
        for process in (*of_job, *family):
            with suppress(psutil.NoSuchProcess):
                process.kill()

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

    def last_words(self) -> str:
        """What the daemons printed and logged, the one that started last at the end."""
        files = ("munge/log", "slurmctld.log", *(f"slurmd.{node}.log" for node in NODES), "daemons.txt")
        return "".join((self.root / file).read_text() for file in files if (self.root / file).exists())

    def _env(self) -> dict[str, str]:
        return os.environ | self.environment

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = free_ports(1 + len(NODES))
        # Nodes of all clusters have the same names, and so their jobs' control groups: ids are to tell them apart.
        first = 1 + 10_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        names = {"host": host, "root": self.root, "ports": ports, "first": first}
        lines = [CONFIG.format(**names, proctrack=self.proctrack, killwait=self.killwait)]
        for node, port in zip(NODES, ports[1:], strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} Boards=1 "
                f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY} Gres=gpu:h100:{GPUS}"
            )
        lines += [f"PartitionName={name} Nodes={','.join(NODES)} {rules}" for name, rules in PARTITIONS.items()]
        (self.root / "slurm.conf").write_text("\n".join(lines) + "\n")
        for number in range(GPUS):  # Slurm wants a character device for each
            (self.root / f"gpu{number}").symlink_to("/dev/null")
        devices = f"File={self.root}/gpu[0-{GPUS - 1}]"
        (self.root / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n[1-2] Name=gpu Type=h100 {devices}\n")
        # Unless a test is about control groups, which a container may lack, slurmd is told not to look.
        without = f"CgroupPlugin={'disabled' if version() >= (24, 5) else 'cgroup/v1'}\n"
        (self.root / "cgroup.conf").write_text(CGROUPS if self.proctrack == "cgroup" else without)
        (self.root / "prolog").write_text(f"#!/bin/sh\ntest ! -e {self.root}/refuse\n")
        (self.root / "prolog").chmod(0o755)
        # The executor plugin drops SLURM_CONF between a job and its step; the system's own place would answer.
        for name in ("srun", "scontrol", "squeue", "sinfo"):
            program = self.root / "bin" / name
            program.write_text(f'#!/bin/sh\nSLURM_CONF={self.root}/slurm.conf exec {which(name)} "$@"\n')
            program.chmod(0o755)


def version() -> tuple[int, int]:
    """Slurm's year and month."""
    said = subprocess.run([which("slurmd"), "-V"], capture_output=True, text=True, check=True).stdout
    year, month = re.search(r"(\d+)\.(\d+)", said).groups()
    return int(year), int(month)
