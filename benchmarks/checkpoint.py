"""What a state costs the training thread: written by itself, or copied for a thread that writes it.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py --folder /scratch

The state is as large as that of a ViT-B under AdamW, 1.04 GB: 86 million parameters, two moments each. Numbers are in
docs/speed.md.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from turns import turns

from mto.methods.encoder import build_encoder
from mto.training.checkpoint import save_state
from mto.training.writer import on_host


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the state is written for a moment")
    parser.add_argument("--depth", type=int, default=12, help="of the encoder, for a smaller state")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    weights = build_encoder("simmim", depth=arguments.depth, init_values=0.1).state_dict()
    moments = {
        n: {k: torch.zeros_like(value) for k in ("exp_avg", "exp_avg_sq")} for n, value in enumerate(weights.values())
    }
    state = {"state_dict": weights, "optimizer": {"state": moments}}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "last.pth"

        ways = {
            "written by the training thread": lambda: save_state(path, state, {}),
            "copied, for a thread to write": lambda: on_host(state),
        }
        turns(ways, arguments.rounds)


if __name__ == "__main__":
    main()
