"""The plug-in examples run as written, are short, and teach a model where a masked patch is."""

import ast
import re
import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def lines_of_code(source):
    """Lines that hold code: no blank lines, comments or docstrings."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return [
        text
        for number, text in enumerate(source.splitlines(), 1)
        if number not in docstrings and text.strip() and not text.strip().startswith("#")
    ]


def shown(page):
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)


def test_huggingface_vitmae():
    torch.manual_seed(0)
    variables = runpy.run_path(str(ROOT / "examples/huggingface_vitmae.py"))
    assert len(variables["states"]) == 1 + variables["model"].config.decoder_num_hidden_layers
    # Layer 0 without position: a fresh mask token is zero, H^0 = ln V with V = 16, and one step moves it off.
    diagnostics = variables["terms"]["diagnostics"]["tokens"]
    assert 0.9 < diagnostics["heterogeneity_ratio"] < 1 + 1e-6
    assert diagnostics["heterogeneity"].shape == (3,)
    assert all(parameter.isfinite().all() for parameter in variables["model"].parameters())


def ramps(number):
    """Images (B, 3, 64, 64) that brighten from left to right, each with a brightness of its own."""
    return torch.linspace(-1, 1, 64).expand(number, 3, 64, 64) + 0.3 * torch.randn(number, 1, 1, 1)


def patches(images, size):
    """(B, 3, H, W) as (B, N, 3 · size²); the order within a patch is any."""
    return torch.nn.functional.pixel_unshuffle(images, size).flatten(2).mT


#: What the examples take from a library's defaults, in smaller.
SMALLER = {
    "ViTMAEConfig(": "ViTMAEConfig(hidden_size=96, num_attention_heads=3, intermediate_size=192, "
    "decoder_hidden_size=96, decoder_num_attention_heads=3, decoder_intermediate_size=192, ",
    "img_size=64, num_classes=0)": "img_size=64, num_classes=0, depth=3)",
}


def trained(name, steps=40, lr=5e-4):
    """An example's variables after so many steps on ramps, taken by its own lines with MTO."""
    torch.manual_seed(0)
    source, variables = (ROOT / f"examples/{name}.py").read_text(), {"__name__": name}
    for written, small in SMALLER.items():
        source = source.replace(written, small)
    optimizer = None

    def loader():
        nonlocal optimizer
        for _ in range(steps):
            yield ramps(4)
            modules = [v for v in variables.values() if isinstance(v, torch.nn.Module)]
            found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
            found |= {id(v): v for v in variables.values() if isinstance(v, torch.nn.Parameter)}
            optimizer = optimizer or torch.optim.AdamW(found.values(), lr=lr)
            optimizer.step()
            optimizer.zero_grad()

    variables["loader"] = loader
    if (own := "torch.randn(2, 4, 3, 64, 64)") in source:
        exec(source.replace(own, "loader()"), variables)
    else:
        exec(source, variables)
        for images in loader():
            loss(name, variables, images).backward()
    return variables


def loss(name, variables, images):
    if name == "timm_vit":
        return variables["loss"](images, torch.rand(len(images), 16).argsort(1) < 10)
    return variables["loss"](images)


def seen(name, variables, images):
    """The reconstruction loss, the masked predictions of the first image, and the mask."""
    given = []
    if "loss" in variables:
        variables["head"].register_forward_hook(lambda layer, args, output: given.append(output))
        variables["mto"].register_forward_hook(lambda layer, args, output: given.append((args[1], output["loss"])))
        whole = loss(name, variables, images)
        predicted, (mask, of_mto) = given
        first = predicted[0] if predicted.shape[1] < mask.shape[1] else predicted[0][mask[0]]
        return whole - of_mto, first, mask
    out = variables["model"](images)
    mask, predicted = out.mask.bool(), getattr(out, "logits", None)
    return out.loss, (out.predictions if predicted is None else predicted)[0][mask[0]], mask


#: Of each example: what it needs, the side of its patches, and the best constant of a set of patches by its own loss.
EXAMPLES = {
    "huggingface_vitmae": ("transformers", 8, lambda x: x.var(0, correction=0).mean()),
    "timm_vit": ("timm", 16, lambda x: (x - x.median(0).values).abs().mean()),
    "lightly_mae": ("lightly", 8, lambda x: x.var(0, correction=0).mean()),
    "stable_pretraining_mae": ("stable_pretraining", 8, lambda x: x.var(0, correction=0).mean()),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_knows_where_a_masked_patch_is(name):
    """Its masked predictions differ within an image, and it beats the best single patch for all masked ones."""
    library, side, best = EXAMPLES[name]
    pytest.importorskip(library, reason=f"{library} is not installed")
    variables = trained(name)
    with torch.no_grad():
        error, first, mask = seen(name, variables, images := ramps(16))
        whole = patches(images, side)
        constant = torch.stack([best(own[masked]) for own, masked in zip(whole, mask, strict=True)]).mean()
    print(f"{name}: loss {error:.4f}, a constant's {constant:.4f}, spread of its predictions {first.std(0).mean():.4f}")
    assert (first.std(0) > 1e-3).any()
    assert error < 0.7 * constant


def test_timm_vit():
    torch.manual_seed(0)
    variables = runpy.run_path(str(ROOT / "examples/timm_vit.py"))
    assert variables["mask_token"].grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in variables["vit"].blocks.parameters())


@pytest.mark.parametrize("name", EXAMPLES)
def test_fewer_than_twenty_lines(name):
    """Of lightly's they are a few more: it has the parts of an MAE, and no whole one."""
    assert len(lines_of_code((ROOT / f"examples/{name}.py").read_text())) < (25 if name == "lightly_mae" else 20)


@pytest.mark.parametrize(("page", "name"), [("README.md", "timm_vit"), ("docs/own-model.md", "huggingface_vitmae")])
def test_a_page_shows_the_example_as_written(page, name):
    example = (ROOT / f"examples/{name}.py").read_text().split('"""\n\n', 1)[1]
    assert shown(page)[0].strip() == example.strip()


def test_the_page_s_tap_runs_as_written():
    """The lean road: a residual stream that is tapped as it passes by."""
    torch.manual_seed(0)
    _, tapped = shown("docs/own-model.md")
    variables = {}
    exec(tapped, variables)
    assert variables["terms"]["loss"].isfinite()
    assert all(p.grad.isfinite().all() for block in variables["blocks"] for p in block.parameters())
