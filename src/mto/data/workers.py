"""What each process of a loader does when it starts."""

import signal


def ignore_signals(worker: int) -> None:
    """Leave it to the parent to act on signals that all processes of a job get, as at a time limit or on Ctrl-C.

    The parent finishes its step with what its workers load, saves, and then ends them; if it dies, they see that.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
