"""The plug-in examples run as written, in fewer than 20 lines of code."""

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


def test_huggingface_vitmae_knows_where_a_masked_patch_is():
    """Its masked predictions differ within an image, and it beats the best single patch for all masked ones."""
    torch.manual_seed(0)
    model = runpy.run_path(str(ROOT / "examples/huggingface_vitmae.py"))["model"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for _ in range(40):
        optimizer.zero_grad()
        model(ramps(4)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = model(images := ramps(16))
    masks = out.mask.bool()
    assert (out.logits[0][masks[0]].std(0) > 1e-3).any()
    constant = [
        patches[mask].var(0, correction=0).mean() for patches, mask in zip(model.patchify(images), masks, strict=True)
    ]
    assert out.loss < 0.7 * torch.stack(constant).mean()


def test_timm_vit():
    torch.manual_seed(0)
    variables = runpy.run_path(str(ROOT / "examples/timm_vit.py"))
    assert variables["mask_token"].grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in variables["vit"].blocks.parameters())


@pytest.mark.parametrize("name", ["huggingface_vitmae", "timm_vit"])
def test_fewer_than_twenty_lines(name):
    assert len(lines_of_code((ROOT / f"examples/{name}.py").read_text())) < 20


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
