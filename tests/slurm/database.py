"""An accounting database for a cluster of the tests: MariaDB and slurmdbd, in the cluster's own folder."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from lab import Cluster
from machine import free_ports, wait, which

NEEDED = ("mariadbd", "mariadb-install-db", "slurmdbd", "sacctmgr", "sacct")

SLURMDBD = """
AuthInfo=socket={root}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={root}/slurmdbd.pid
LogFile={root}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
SLURM = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge/socket
"""


def why_no_database() -> str | None:
    if missing := [name for name in NEEDED if which(name) is None]:
        packages = "slurmdbd mariadb-server-core mariadb-client-core"
        return f"needs {', '.join(missing)} (Debian: apt-get install {packages})"
    return None


@contextmanager
def accounting(cluster: Cluster) -> Iterator[None]:
    """The cluster's jobs are accounted for, as `sacct` shows; ``slurmdbd`` is one more of its daemons."""
    root, file = cluster.root, cluster.root / "slurm.conf"
    names = {"root": root, "port": free_ports(1)[0], "host": socket.gethostname().split(".")[0]}
    (root / "slurmdbd.conf").write_text(SLURMDBD.format(**names))
    (root / "slurmdbd.conf").chmod(0o600)
    without = file.read_text()
    cluster.environment["MYSQL_UNIX_PORT"] = str(root / "mariadb.socket")  # where slurmdbd looks for MariaDB
    options = ("--no-defaults", "--user=root", f"--datadir={root / 'mariadb'}")
    cluster.run(NEEDED[1], *options, "--auth-root-authentication-method=normal", "--skip-test-db", "--force")
    options += ("--skip-networking", f"--socket={root / 'mariadb.socket'}", f"--log-error={root / 'mariadb.log'}")
    server = subprocess.Popen([which("mariadbd"), *options], stderr=subprocess.DEVNULL)
    try:
        wait((root / "mariadb.socket").exists, "MariaDB listens")
        cluster.start_daemon("slurmdbd")
        file.write_text(without + SLURM.format(**names))
        add = ("sacctmgr", "--immediate", "add", "cluster", "tests")
        # An earlier test of this cluster may have added it: its database is still there.
        wait(lambda: re.search("Adding|already exists", cluster.run(*add, check=False)), "slurmdbd answers")
        cluster.restart_controller()
        yield
    finally:
        file.write_text(without)
        cluster.restart_controller()
        cluster.kill("slurmdbd")
        server.terminate()
        server.wait(60)
