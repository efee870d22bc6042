"""What each process of a loader does when it starts."""

import os
import signal
import threading

SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}


def obey_parent_alone(worker: int) -> None:
    """Leaves it to the parent to act on signals that all processes of a job get, as at a time limit or on Ctrl-C.

    The parent finishes its step with what its workers load, saves, and then ends them, by the same SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait, args=(os.getppid(),), daemon=True).start()


def _wait(parent: int) -> None:
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == parent:
            os._exit(0)
