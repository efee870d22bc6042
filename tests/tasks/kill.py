"""A chain of segments under fire: SIGKILLs at random moments must change nothing of what comes out.

    python tests/tasks/kill.py --kills 100

Half of the moments are moments in time, half the appearance of a file: a state, or an output half published. Before
each attempt the declared outputs are deleted, as Snakemake does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import make_images, pretrain_job

from mto.__main__ import main
from mto.training.checkpoint import load_state
from mto.training.log import read_history

SEGMENTS = (6, 12, 18)
OUTPUTS = ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl")
MOMENTS = (
    "running.json",
    "progress/history.jsonl.tmp",
    "progress/last.pth.tmp",
    "progress/previous.pth.tmp",
    "progress/previous.pth",
    "encoder.safetensors.tmp",
    "encoder.safetensors",
    "state.pth",
    "metrics.json",
    "progress/finished.tmp",
    "progress/finished",
    # of the segment before, whose state is reduced to its weights
    "before/running.json",
    "before/state.pth.tmp",
    "before/progress/finished/state.pth.tmp",
)


def attempt(job: dict[str, Any], out: Path, state: Path | None) -> int:
    """Start the job in a process of its own, which has everything imported; its id."""
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    if state and not (out / "before").is_symlink():
        out.mkdir(parents=True)
        (out / "before").symlink_to(state.parent)
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        code = main(
            [
                "pretrain",
                "--job",
                json.dumps(job),
                "--out",
                str(out),
                "--guard",
                "0",
                "--prune",
                "--inputs",
                f"state={state or ''}",
            ]
        )
    finally:
        os._exit(code)


def kill_at(child: int, out: Path, draw: random.Random) -> bool:
    """Kill the process at a random moment; False if it came to its end before."""
    name = draw.choice(MOMENTS) if draw.random() < 0.5 else None
    until = time.monotonic() + (10 if name else draw.uniform(0.0, 1.0))
    while time.monotonic() < until and not (name and (out / name).exists()):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def chain(folder: Path, images: Path, kills: int = 0, seed: int = 0) -> int:
    """Run the chain to its end, killing it ``kills`` times on the way; how often it was killed."""
    draw, done = random.Random(seed), 0
    state = None
    for number, epoch in enumerate(SEGMENTS, start=1):
        out = folder / str(epoch)
        job = pretrain_job(images, "simmim", epoch=epoch, epochs=SEGMENTS[-1])
        share = kills * number // len(SEGMENTS)
        while done < share and kill_at(attempt(job, out, state), out, draw):
            done += 1
        _, status = os.waitpid(attempt(job, out, state), 0)
        assert status == 0, f"epoch {epoch} ended with {status}"
        while done < share:  # a segment that had finished, reported as failed
            done += kill_at(attempt(job, out, state), out, draw)
            _, status = os.waitpid(attempt(job, out, state), 0)
            assert status == 0, f"epoch {epoch} ended with {status}"
        state = out / "state.pth"
    return done


def results(folder: Path) -> dict[str, Any]:
    """All that a chain leaves, but for what it says of time."""
    found: dict[str, Any] = {}
    for epoch in SEGMENTS:
        out = folder / str(epoch)
        state = load_state(out / "state.pth")
        metrics = json.loads((out / "metrics.json").read_text())
        rows = [
            {k: v for k, v in row.items() if k != "images_per_second"} for row in read_history(out / "history.jsonl")
        ]
        assert ("optimizer" in state) == (epoch == SEGMENTS[-1])  # what nothing continues is pruned
        assert (out / "state.pth").samefile(out / "progress" / "finished" / "state.pth")
        optimizer = state.get("optimizer", {"state": {}})["state"]
        moments = {f"{i}.{name}": v for i, m in optimizer.items() for name, v in m.items()}
        found |= {f"{epoch}.encoder.{name}": value for name, value in load_file(out / "encoder.safetensors").items()}
        found |= {f"{epoch}.state.{name}": value for name, value in (state["state_dict"] | moments).items()}
        found |= {f"{epoch}.metrics": {**metrics, "provenance": None}, f"{epoch}.history": rows}
        found[f"{epoch}.record"] = state["meta"]
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    def equal(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return [
        name for name in sorted(a.keys() | b.keys()) if name not in a or name not in b or not equal(a[name], b[name])
    ]


def under_fire(folder: Path, images: Path, kills: int, seed: int = 0) -> tuple[int, list[str]]:
    """How often a chain was killed, and what it left that differs from an undisturbed one."""
    chain(folder / "undisturbed", images)
    done = chain(folder / "killed", images, kills, seed)
    return done, differences(results(folder / "undisturbed"), results(folder / "killed"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads cannot be forked
    with tempfile.TemporaryDirectory() as temporary:
        pictures = make_images(Path(temporary) / "images")
        killed, differ = under_fire(Path(temporary), pictures, arguments.kills, arguments.seed)
    print(f"{killed} SIGKILLs; {len(differ)} differences to the undisturbed chain {differ[:5]}")
    sys.exit(bool(differ) or killed < arguments.kills)
