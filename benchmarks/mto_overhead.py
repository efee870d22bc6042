"""What MTO costs: a training step of each method with it over one without it, and with a naive implementation of it.

    python benchmarks/mto_overhead.py                      # CPU: ViT-B's width, 4 blocks
    python benchmarks/mto_overhead.py --compile            # on a GPU: ViT-B, batch 128, bf16 autocast, TF32 for MTO

A step is forward (teacher included), backward and the optimiser's update. The variants take turns in every round; a
time is the best of all rounds, the one least disturbed by whatever else the machine does. On a CPU it is the process's
CPU time on one thread. Prints a Markdown table.
"""

import argparse
import gc
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mto import MaskedTokenOptimization
from mto.methods import MAE, BootMAE, ConMIM, Method, SimMIM
from mto.methods.masking import build_mask_sampler

MIB = 2**20


def naive_mto(layers: list[Tensor], mask: Tensor) -> Tensor:
    """MTO as one would first write it: a loop over images, boolean indexing, full softmaxes, plain autograd."""
    total = layers[0].new_zeros(())
    for image in range(len(mask)):
        masked = mask[image]
        h = []
        for x in layers:
            tokens = x[image].float()
            a = (tokens[masked] @ tokens[~masked].T).softmax(-1)
            h.append(-(a * a.clamp_min(1e-38).log()).sum(-1).mean())
        tokens = layers[0][image].float()
        p = (tokens @ tokens.T).softmax(-1)
        spa = -(p * p.clamp_min(1e-38).log()).sum(-1)[~masked].mean()
        rank = sum(F.softplus(h[depth + 1] - h[depth]) for depth in range(len(h) - 1))
        total = total + (spa + 1 / (h[0] + 1e-6) + rank) / len(mask)
    return total


def build(name: str, args: argparse.Namespace) -> tuple[Method, int, Tensor]:
    """A method, its number of masked patches, and a batch of masks from its own sampler (sheet, section 1)."""
    size = {"img_size": 224, "patch_size": 16, "embed_dim": args.embed_dim, "depth": args.depth}
    size["num_heads"] = args.embed_dim // 64
    # The decoders keep ViT-B's proportions: 8 and 2 blocks to the encoder's 12.
    method = {
        "simmim": lambda: SimMIM(**size),
        "mae": lambda: MAE(**size, decoder_depth=max(1, args.depth * 8 // 12)),
        "bootmae": lambda: BootMAE(**size, decoder_depth=max(1, args.depth * 2 // 12)),
        "conmim": lambda: ConMIM(**size),
    }[name]()
    sampler = {
        "simmim": {"sampler": "cells", "ratio": 0.6, "cell_size": 32},
        "mae": {"sampler": "random", "ratio": 0.75},
        "bootmae": {"sampler": "block_random", "ratio": 0.75},
        "conmim": {"sampler": "cells", "ratio": 0.75, "cell_size": 32},
    }[name]
    generator = torch.Generator().manual_seed(0)
    sample = build_mask_sampler(224, 16, **sampler)
    mask = torch.stack([sample(generator) for _ in range(args.batch)])
    return method, int(mask[0].sum()), mask


def steps(name: str, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """The training steps to time; they share one model."""
    torch.manual_seed(0)
    method, num_masked, mask = build(name, args)
    method, mask = method.to(args.device).train(), mask.to(args.device)
    teacher = method.make_teacher()
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5, fused=True)
    mto = MaskedTokenOptimization()

    def forward(variant: str) -> Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            targets = method.teacher_targets(teacher, images, images) if teacher is not None else {}
            out = method(images, mask, num_masked=num_masked, return_hidden=variant != "without", **targets)
            if variant == "with":
                return out["loss"] + mto.streams(out["hidden"], mask, num_masked=num_masked)["loss"]
            if variant == "naive":
                return out["loss"] + sum(naive_mto(stream.tokens, mask) for stream in out["hidden"].values())
        return out["loss"]

    torch.testing.assert_close(forward_value(forward, "with"), forward_value(forward, "naive"), rtol=1e-2, atol=1e-2)
    compiled = torch.compile(forward) if args.compile else forward

    def step(variant: str) -> None:
        # A loop over images is what a compiler unrolls for hours: the naive variant stays eager.
        (forward if variant == "naive" else compiled)(variant).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {variant: (lambda variant=variant: step(variant)) for variant in ("without", "with", "naive")}


def forward_value(forward: Callable[[str], Tensor], variant: str) -> Tensor:
    torch.manual_seed(0)  # the same drop path in each variant
    with torch.no_grad():
        return forward(variant)


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of one step."""
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(step: Callable[[], None], device: str) -> float:
    """MiB: the allocator's peak on a GPU; on a CPU the distinct storages saved for the backward pass."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / MIB
    saved: dict[int, int] = {}
    alive = []  # no storage may be freed, or its address would be counted once for two tensors

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(saved.values()) / MIB


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["simmim", "mae", "bootmae", "conmim"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu")
    parser.add_argument("--embed-dim", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12 if gpu else 4, help="encoder blocks")
    parser.add_argument("--batch", type=int, default=128 if gpu else 4)
    parser.add_argument("--rounds", type=int, default=20 if gpu else 5)
    parser.add_argument("--warmup", type=int, default=3 if gpu else 1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if gpu else "fp32")
    parser.add_argument("--matmul", choices=["highest", "high"], default="high", help="float32 products (GPU: TF32)")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_float32_matmul_precision(args.matmul)
    if args.device == "cpu":
        torch.set_num_threads(1)

    print(
        f"{torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU, 1 thread'}, torch {torch.__version__}, "
        f"dim {args.embed_dim}, {args.depth} blocks, batch {args.batch}, {args.precision}, "
        f"{'compiled' if args.compile else 'eager'}, best of {args.rounds} interleaved rounds\n"
    )
    kind = "peak memory" if args.device == "cuda" else "memory saved for backward"
    print(f"| method | step (s) | with MTO | naive MTO | {kind} (MiB) | with MTO | naive MTO |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in args.methods:
        variants = steps(name, args)
        for _ in range(args.warmup):
            for step in variants.values():
                step()
        rounds = [{key: timed(step, args.device) for key, step in variants.items()} for _ in range(args.rounds)]
        best = {key: min(r[key] for r in rounds) for key in variants}
        used = {key: memory(step, args.device) for key, step in variants.items()}
        print(
            f"| {name} | {best['without']:.3f} | ×{best['with'] / best['without']:.3f} "
            f"| ×{best['naive'] / best['without']:.3f} | {used['without']:.0f} "
            f"| +{used['with'] - used['without']:.1f} | +{used['naive'] - used['without']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
