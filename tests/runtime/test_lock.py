"""One writer per folder: a second copy waits, refuses, or takes over from a dead one; it never writes beside it."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from mto.errors import UserError
from mto.runtime import lock
from mto.runtime.lock import Lock, Superseded

HOLD = """
import sys, time
from pathlib import Path
from mto.runtime.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder, seconds) -> subprocess.Popen:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_it_names_its_owner_and_goes(tmp_path):
    with Lock(tmp_path / "run") as held:
        held.check()
        owner = json.loads((tmp_path / "run" / "running.json").read_text())
        assert owner["pid"] == os.getpid()
        assert owner["host"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_copy_waits_for_the_first(tmp_path, capsys):
    first = hold(tmp_path, 1.5)
    with Lock(tmp_path):
        assert first.poll() is not None or not first.wait(5)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"(pid {first.pid}) is at work here; waiting for its end" in said


def test_or_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("MTO_LOCK", "refuse")
    first = hold(tmp_path, 60)
    with pytest.raises(UserError, match=rf"\(pid {first.pid}\) is at work here"), Lock(tmp_path):
        pass
    first.kill()
    first.wait()


def test_a_killed_owner_of_this_machine_is_followed_at_once(tmp_path, capsys):
    first = hold(tmp_path, 60)
    first.kill()
    first.wait()
    began = time.monotonic()
    with Lock(tmp_path) as second:
        second.check()
    assert time.monotonic() - began < 5
    assert "is dead; this copy takes over" in capsys.readouterr().out


def test_a_process_that_got_a_dead_ones_number_is_not_it(tmp_path):
    owner = lock._whoami() | {"began": "1", "token": "another"}
    (tmp_path / "running.json").write_text(json.dumps(owner))
    with Lock(tmp_path) as held:
        held.check()


@pytest.mark.parametrize("content", ['{"token": "t", "machine": "elsewhere", "host": "node7", "pid": 1}', "", "[1]"])
def test_an_owner_elsewhere_is_dead_when_it_is_silent(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.4)
    (tmp_path / "running.json").write_text(content)
    began = time.monotonic()
    with Lock(tmp_path):
        assert time.monotonic() - began > 0.4


def test_an_owner_elsewhere_lives_while_it_beats(tmp_path, monkeypatch):
    """Its clock is not compared: the time of change only has to change."""
    monkeypatch.setattr(lock, "DEAD_AFTER", 3.0)  # a busy machine may hold the beats back for a while
    path = tmp_path / "running.json"
    path.write_text('{"token": "t", "machine": "elsewhere"}')
    end = time.monotonic() + 4.5
    beats = iter(range(1, 10**6))

    def beat():
        while time.monotonic() < end:
            os.utime(path, (0, next(beats)))  # a clock of the year 1970
            time.sleep(0.05)

    thread = threading.Thread(target=beat)
    thread.start()
    with Lock(tmp_path):
        assert time.monotonic() > end
    thread.join()


def test_an_owner_that_was_thought_dead_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 3600.0)  # it stands still
    with Lock(tmp_path) as first:
        (tmp_path / "running.json").unlink()
        with Lock(tmp_path) as second:
            second.check()
            with pytest.raises(Superseded, match="it writes no more"):
                first.check()
            first.__exit__()  # and does not take the other's lock away
            second.check()


def test_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    beats = []
    with Lock(tmp_path, on_beat=lambda: beats.append(os.stat(tmp_path / "running.json").st_mtime_ns)):
        time.sleep(0.5)
    assert len(set(beats)) > 2


def test_of_many_that_start_together_one_works_at_a_time(tmp_path):
    script = """
import sys, time
from pathlib import Path
from mto.runtime.lock import Lock
folder = Path(sys.argv[1])
with Lock(folder):
    (folder / "alone").touch(exist_ok=False)
    time.sleep(0.05)
    (folder / "alone").unlink()
"""
    dead = lock._whoami() | {"began": "1", "token": "dead"}
    (tmp_path / "running.json").write_text(json.dumps(dead))
    copies = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(6)]
    assert [copy.wait(60) for copy in copies] == [0] * 6
