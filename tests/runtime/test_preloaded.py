"""Preloaded tasks: what is forked from a process that has imported everything is its caller's in all that one sees."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from mto.runtime.preloaded import VARIABLE, ask

#: A stand-in for the tasks; it writes its process number where it is told.
SERVER = """
    import os, signal, sys, time
    from pathlib import Path
    from mto.runtime.preloaded import Forks

    def main(argv):
        what, *rest = argv
        if what == "tell":
            print(os.getcwd(), os.environ.get("SAID"), sys.argv[1:], sys.stdin.read(), flush=True)
            print("to the other stream", file=sys.stderr)
            return 3
        if what == "stop":
            sys.exit("a mistake")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        def save(number, frame):
            print(f"saved on {number}", flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, save)
        Path(rest[0]).write_text(str(os.getpid()))
        time.sleep(float(rest[1]))

    Forks(Path(sys.argv[1]), main).serve()
"""
CALLER = "import sys; from mto.runtime.preloaded import ask; sys.exit(ask(sys.argv[1:]))"


def until(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "socket"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SERVER), str(path)], stdin=subprocess.PIPE)
    until(path.exists)
    yield path, process
    process.stdin.close()
    process.wait(20)


def call(path, *argv, **options):
    environment = os.environ | {VARIABLE: str(path), "SAID": "something"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CALLER, *argv], env=environment, **pipes, **options)


def test_a_child_has_its_callers_folder_environment_arguments_and_streams(server, tmp_path):
    (tmp_path / "here").mkdir()
    process = call(server[0], "tell", "é", cwd=tmp_path / "here")
    out, err = process.communicate("in")
    assert (out, err) == (f"{tmp_path / 'here'} something ['tell', 'é'] in\n", "to the other stream\n")
    assert process.returncode == 3


@pytest.mark.parametrize(("what", "status"), [("stop", 1), ("die", 128 + signal.SIGKILL)])
def test_an_end_is_the_callers_end(server, what, status):
    process = call(server[0], what)
    _, err = process.communicate()
    assert process.returncode == status
    assert (err == "a mistake\n") == (what == "stop")


def test_a_signal_reaches_the_child_which_saves_and_leaves(server, tmp_path):
    process = call(server[0], "wait", str(tmp_path / "child"), "60")
    until((tmp_path / "child").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (7, f"saved on {signal.SIGTERM.value}\n")


def test_a_killed_callers_child_is_killed_and_others_go_on(server, tmp_path):
    other = call(server[0], "wait", str(tmp_path / "other"), "60")
    process = call(server[0], "wait", str(tmp_path / "child"), "60")
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() and (tmp_path / "other").exists())
    process.kill()
    process.communicate()
    child = int((tmp_path / "child").read_text())
    until(lambda: not os.path.exists(f"/proc/{child}"))
    assert other.poll() is None
    other.send_signal(signal.SIGTERM)
    assert other.wait(20) == 7
    other.communicate()


def test_it_ends_with_whoever_started_it_once_its_children_have_finished(server, tmp_path):
    path, process = server
    caller = call(path, "wait", str(tmp_path / "child"), "0.5")
    until((tmp_path / "child").exists)
    process.stdin.close()
    assert caller.wait(20) == 0
    assert process.wait(20) == 0
    assert not path.parent.exists()
    caller.communicate()


def test_where_nobody_listens_a_task_starts_by_itself(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert ask(["finetune"]) is None
    for place in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        monkeypatch.setenv(VARIABLE, place)
        assert ask(["finetune"]) is None
