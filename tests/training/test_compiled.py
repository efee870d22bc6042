"""The compiled training step: one graph for each method, the numbers of the eager one, and eager when it fails."""

import itertools
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import formula
from mto import MaskedTokenOptimization
from mto.config.parts import FinetuneAugment
from mto.config.typed import parse
from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.encoder import build_classifier, build_encoder
from mto.methods.memory import spare
from mto.names import Memory
from mto.training.classifier import FineTuned, LinearProbe
from mto.training.compiled import Compiled, forget
from mto.training.mim import MaskedImageModel
from typed_jobs import AUGMENT, MIXING

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}
BUILD = {
    "simmim": lambda: SimMIM(**SIZE, drop_path=0.0),
    "mae": lambda: MAE(**SIZE, **DECODER),
    "bootmae": lambda: BootMAE(**SIZE, **DECODER),
    "conmim": lambda: ConMIM(**SIZE, projector_dim=16, output_dim=8),
}
TERMS = {"without": [], "with": ["spa", "e", "r"]}


def model_of(method: str, terms: list[str], backend: str | None, memory: Memory = "fast") -> MaskedImageModel:
    torch.manual_seed(0)
    mto = MaskedTokenOptimization(terms=terms, warmup_epochs=2.0)
    model = MaskedImageModel(BUILD[method](), mto, num_masked=12)
    spare(model, memory)
    if backend:
        model.compile_step(memory)
        model.compiled = Compiled(model.losses, backend=backend, memory=memory)
    return model.train()


def batch(count: int = 4) -> dict[str, Tensor]:
    images = formula.images("images", count, 16)
    mask = formula.mask_of(formula.mask_noise("mask", count, 16), 12)
    return {"image": images, "mask": mask}


def steps(model: MaskedImageModel, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Three training passes, as the hooks drive them: watched and not, at growing progress and epoch inputs."""
    data, results = batch(), []
    model, data["image"] = model.to(dtype), data["image"].to(dtype)
    teacher = {"teacher_image": data["image"].flip(0)} if isinstance(model.method, ConMIM) else {}
    for step, measure in enumerate([True, False, True]):
        model.progress, model.measure = step / 2, measure
        model.epoch_inputs = model.method.epoch_inputs(step, 8)
        model.zero_grad()
        out = model(**data, **teacher)
        out["loss"].backward()
        gradients = {name: p.grad for name, p in model.method.named_parameters() if p.grad is not None}
        results.append({**{name: value.detach() for name, value in out.items()}, **gradients})
    return results


def agree(
    method: str, terms: str, backend: str, memory: Memory = "fast"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One graph for watched steps, one for others; what the compiled and the eager model gave."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = model_of(method, TERMS[terms], backend, memory)
    ours, theirs = steps(compiled), steps(model_of(method, TERMS[terms], None))
    assert compiled.compiled is not None
    assert compiled.compiled._compiled is not None, "it fell back to eager"
    assert not torch._dynamo.utils.counters["graph_break"]
    # Watched and unwatched steps are two graphs; progress and the epoch's inputs are tensors and make no more.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    return ours, theirs


@pytest.mark.parametrize(("method", "terms"), itertools.product(BUILD, TERMS))
def test_every_method_is_one_graph_and_agrees_with_eager(method: str, terms: str) -> None:
    for a, b in zip(*agree(method, terms, "aot_eager"), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("method", "memory"), [("conmim", "lean"), ("simmim", "least")])
def test_a_step_that_keeps_less_is_one_graph_too(method: str, memory: Memory) -> None:
    for a, b in zip(*agree(method, "with", "aot_eager", memory), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "terms"), itertools.product(BUILD, TERMS))
def test_the_real_compiler_agrees_with_eager(method: str, terms: str) -> None:
    """It rounds otherwise, and ConMIM's batch norms magnify that: the measure is its eager distance to float64."""
    exact = steps(model_of(method, TERMS[terms], None), torch.float64)
    for step, compiled, eager in zip(exact, *agree(method, terms, "inductor"), strict=True):
        for name, value in step.items():
            ours, theirs = (float((one[name] - value).abs().max()) for one in (compiled, eager))
            assert ours <= 4 * theirs + 1e-6 * float(value.abs().max()), name


def classifier(kind: str) -> FineTuned | LinearProbe:
    torch.manual_seed(0)
    if kind == "finetune":
        augment = parse(FinetuneAugment, AUGMENT | MIXING | {"smoothing": 0.1, "rand_augment": None})
        net = build_classifier("simmim", num_classes=5, **SIZE, drop_path=0.0, init_values=0.1)
        return FineTuned(net, num_classes=5, augment=augment)
    encoder = build_encoder("mae", **SIZE)
    return LinearProbe(encoder, num_classes=5, feature="cls", layers=[1, 2], norm=False, batch_norm=True, std=0.01)


@pytest.mark.parametrize("kind", ["finetune", "linear"])
def test_classifiers_are_one_graph_and_agree_with_eager(kind: str) -> None:
    torch._dynamo.reset()
    image, label = batch()["image"], torch.tensor([0, 4, 2, 2])
    results = []
    for compiles in (False, True):
        model = classifier(kind).train()
        if compiles:
            model.compile_step()
            model.loss = Compiled(model.cross_entropy, backend="aot_eager")
        loss = model(image, label)["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert not compiles or model.loss._compiled is not None
    torch.testing.assert_close(results[1], results[0])


def test_a_compiler_that_fails_is_said_in_one_line_and_the_step_is_eager(capsys) -> None:
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand a long story")

    step = Compiled(lambda x: x * 2, backend=broken)
    x = torch.ones(3)
    assert torch.equal(step(x), 2 * x)
    assert torch.equal(step(x), 2 * x)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("mto: torch.compile failed, so this job trains eagerly and slower: ")
    assert "no compiler here" in line


@torch._dynamo.config.patch(recompile_limit=8)  # torch's own; timm's optimisers raise it when they are imported
def test_more_variants_than_torch_compiles_are_eager_until_it_forgets(capsys) -> None:
    """All models of a class share one function, of which a process compiles eight."""
    torch._dynamo.reset()
    step = Compiled(lambda x: x * 2, backend="eager")
    for size in range(1, 10):
        assert not step.fell_back
        assert torch.equal(step(torch.ones(size)), 2 * torch.ones(size))
    assert step.fell_back
    (line,) = capsys.readouterr().out.splitlines()
    assert "trains eagerly and slower: Dynamo recompile limit exceeded" in line
    forget()
    step = Compiled(step.eager, backend="eager")
    assert torch.equal(step(torch.ones(11)), 2 * torch.ones(11))
    assert not step.fell_back


def test_a_graph_break_is_a_failure_not_a_slow_run(capsys) -> None:
    def breaks(x):
        return x * (2 if x.sum().item() > 0 else 3)

    assert torch.equal(Compiled(breaks, backend="eager")(torch.ones(3)), 2 * torch.ones(3))
    assert "trains eagerly" in capsys.readouterr().out


def test_a_mistake_in_the_step_itself_is_still_raised() -> None:
    with pytest.raises(ValueError, match="wrong mask"):
        Compiled(_wrong, backend="eager")(torch.ones(3))


def _wrong(x: Tensor) -> Tensor:
    raise ValueError("wrong mask")


DISTRIBUTED = """
import os, sys
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from mto import MaskedTokenOptimization
from mto.methods import MAE, ConMIM
from mto.training.compiled import Compiled
from mto.training.distributed import settle_buckets
from mto.training.mim import MaskedImageModel

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 128, "depth": 3, "num_heads": 2}

def gradients(method, backend, rank):
    torch.manual_seed(0)
    inner = MaskedImageModel(method(**SIZE), MaskedTokenOptimization(), num_masked=12)
    inner.measure = False
    if backend:
        inner.compiled = Compiled(inner.losses, backend=backend)
    model = DistributedDataParallel(inner, forward_sync_buffers=False, bucket_cap_mb=1)
    settle_buckets(model)
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    mask = torch.arange(16).expand(4, 16) < 12
    model(image, mask, image.flip(0))["loss"].backward()
    assert not backend or inner.compiled._compiled is not None, "it fell back to eager"
    return {name: p.grad for name, p in inner.method.named_parameters() if p.requires_grad}

def work(rank, port):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for method in (MAE, ConMIM):
        compiled, eager = gradients(method, "aot_eager", rank), gradients(method, None, rank)
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)
        if not rank:
            print(method.__name__, torch._dynamo.utils.counters["stats"]["unique_graphs"])
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    distributed.destroy_process_group()

if __name__ == "__main__":
    multiprocessing.start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
"""


def test_two_processes_share_a_compiled_step() -> None:
    """torch cuts the graph at the buckets of gradients, exchanged meanwhile; the sums are those of eager steps."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = [sys.executable, "-c", DISTRIBUTED, str(port)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == ["MAE 1", "ConMIM 1"]
