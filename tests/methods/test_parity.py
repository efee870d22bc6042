"""Our methods against the official repositories: losses, every parameter's gradient, the teacher's update.

Each `official/<method>_<size>.json` holds what the official code computed on CPU (torch 2.15) at the commit it names.
Its model was built with the arguments given, its state set to `formula.weight` of each key (the teacher's after
"teacher/"), images and masks came from `formula.images` and `formula.mask_noise`, drop path was off; then one forward
and backward pass of its own training step was taken. The step's random choice of a mask was replaced by the formula's;
what old versions of timm, NumPy and a GPU would provide was supplied by stand-ins; ConMIM's constant 196 was replaced
by the number of patches.

The precision is float32, except for ConMIM at ViT-B's size: among the 3 million ReLU units of its projectors a few
change side with the rounding, which moves gradients by up to 4e-4, between the official code's own float32 and float64
too.
"""

import json
from pathlib import Path

import pytest
import torch

import formula
from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.base import Method

METHODS = {"simmim": SimMIM, "mae": MAE, "bootmae": BootMAE, "conmim": ConMIM}
UNUSED = {"simmim": ("relative_position_index",), "conmim": ("relative_position_index", "lm_head")}
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

CASES = [(name, "tiny") for name in METHODS] + [pytest.param(name, "vitb", marks=pytest.mark.slow) for name in METHODS]


def expected(name: str, size: str) -> dict:
    return json.loads((Path(__file__).parent / "official" / f"{name}_{size}.json").read_text())


def official_state(method: Method, want: dict, salt: str = "") -> dict[str, torch.Tensor]:
    """The official state dict by formula; entries that do not depend on the formula are taken from `method`."""
    own = method.state_dict()
    state = {}
    for key, (shape, _) in want["entries"].items():
        ours = method.official_key(key)
        dtype = torch.long if key.endswith(("index", "num_batches_tracked")) else torch.float32
        like = own[ours] if ours is not None else torch.zeros(shape, dtype=dtype)
        assert list(like.shape) == shape, key
        state[key] = formula.weight(key, like, salt)
    return state


def run(name: str, size: str):
    """One forward and backward pass on the formula's inputs."""
    want = expected(name, size)
    arguments = dict(want["arguments"])
    if name == "simmim":
        arguments["drop_path"] = 0.0
    torch.manual_seed(0)
    method = METHODS[name](**arguments)
    unused = method.load_official(official_state(method, want))
    batch, side = want["batch"], arguments["img_size"]
    dtype = getattr(torch, want["precision"])
    method.to(dtype)
    images = formula.images("images", batch, side).to(dtype)
    teacher_images = formula.images("teacher_images", batch, side).to(dtype)
    noise = formula.mask_noise("mask", batch, method.grid_size[0] * method.grid_size[1])
    if name == "simmim":
        mask = formula.mask_of(noise, 15 if size == "tiny" else 120)
    elif name == "conmim":  # unequal counts, as its block sampler gives
        most = 18 if size == "tiny" else 148
        mask = torch.stack([formula.mask_of(noise, most - i)[i] for i in range(batch)])
    else:
        mask = formula.mask_of(noise, want["num_masked"])

    teacher = method.make_teacher()
    if teacher is not None:
        loaded = METHODS[name](**arguments)
        loaded.load_official(official_state(loaded, want, "teacher/"))
        source = loaded if name == "conmim" else loaded.encoder
        teacher.load_state_dict(source.state_dict())
    targets = method.teacher_targets(teacher, images, teacher_images)
    epoch = method.epoch_inputs(want.get("epoch", 0), want.get("epochs", 1))
    out = method(images, mask, **targets, **epoch)
    out["loss"].backward()
    return method, teacher, out, want, unused


@pytest.mark.parametrize(("name", "size"), CASES)
def test_losses_gradients_and_teacher_equal_the_official_ones(name: str, size: str) -> None:
    method, teacher, out, want, unused = run(name, size)

    assert all(key.endswith(UNUSED[name][0]) or key.startswith(UNUSED[name][1:]) for key in unused)
    for term, value in want["losses"].items():
        assert out[term].item() == pytest.approx(value, rel=LOSS_TOLERANCE), term

    parameters = dict(method.named_parameters())
    floor = 1e-6 * want["grad_norm"]  # of gradients that vanish in theory, such as a shift's before a batch norm
    compared = set()
    for key, (_, norm) in want["entries"].items():
        ours = method.official_key(key)
        if ours not in parameters or norm is None:
            assert ours not in parameters or parameters[ours].grad is None, key
            continue
        compared.add(ours)
        ours_norm = parameters[ours].grad.double().norm().item()
        assert ours_norm == pytest.approx(norm, rel=GRADIENT_TOLERANCE, abs=floor), key
    assert compared == {key for key, parameter in parameters.items() if parameter.requires_grad}

    if teacher is not None:
        method.update_teacher(teacher, want["teacher_momentum"])
        state = teacher.state_dict()
        prefix = "" if name == "conmim" else "encoder."
        seen = 0
        for key, norm in want["teacher_norms"].items():
            ours = (method.official_key(key) or "").removeprefix(prefix)
            if ours in state:
                seen += 1
                assert state[ours].double().norm().item() == pytest.approx(norm, rel=1e-5), key
        assert seen == len(state)
