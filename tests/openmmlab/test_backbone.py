"""Positions and relative biases on other grids, attention in windows, what is loaded and what is learnt."""

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor

from mto.methods.encoder import build_encoder
from mto.methods.position import sincos_2d
from mto.openmmlab.backbone import PlainViT
from mto.openmmlab.rel_pos import RelativePositionBias

SIZE = {"img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0}


def arguments(baseline: str, **changes) -> dict:
    init_values = 0.1 if baseline in ("simmim", "conmim") else None
    encoder = {"baseline": baseline, **SIZE, "init_values": init_values, "drop_path": 0.1}
    return {
        "encoder": encoder,
        "weights": None,
        "image_size": 48,
        "out_indices": [0, 1, 2, 3],
        "norm": "batch",
    } | changes


def pretrained(baseline: str) -> dict[str, Tensor]:
    """An encoder's state with every entry off its initial value."""
    state = build_encoder(**arguments(baseline)["encoder"]).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {key: value + 0.3 * torch.randn(value.shape, generator=generator) for key, value in state.items()}


# ------------------------------------------------------------------------------------------------------ relative bias
@pytest.mark.parametrize("class_token", [True, False])
def test_bias_is_the_table_entry_of_each_displacement(class_token):
    h, w, heads = 3, 4, 2
    bias = RelativePositionBias((h, w), heads, class_token=class_token)
    table = torch.randn(bias.table.shape, generator=torch.Generator().manual_seed(0))
    bias.table.data.copy_(table)
    for gh, gw in ((h, w), (2, 3)):  # a smaller grid uses the displacements that it has
        got = bias((gh, gw))
        first = int(class_token)
        assert got.shape == (heads, first + gh * gw, first + gh * gw)
        for query in range(gh * gw):
            for key in range(gh * gw):
                dy, dx = query // gw - key // gw, query % gw - key % gw
                row = (dy + h - 1) * (2 * w - 1) + dx + w - 1  # BEiT's layout
                assert torch.equal(got[:, first + query, first + key], table[row])
        if class_token:
            assert (got[:, 0, 1:] == table[-3][:, None]).all()
            assert (got[:, 1:, 0] == table[-2][:, None]).all()
            assert torch.equal(got[:, 0, 0], table[-1])


@pytest.mark.parametrize("grid", [(5, 5), (3, 7), (1, 1)])
def test_bias_and_its_gradient_equal_timms_beit(grid):
    from timm.models.beit import gen_relative_position_index

    bias = RelativePositionBias(grid, 3, class_token=True).double()
    torch.nn.init.normal_(bias.table)
    got, want = bias(grid), bias.table[gen_relative_position_index(grid)].permute(2, 0, 1)
    assert torch.equal(got, want)
    grad = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(*(torch.autograd.grad(each, bias.table, grad)[0] for each in (got, want)))


def test_a_larger_grid_than_the_table_is_refused():
    with pytest.raises(ValueError, match="6x5 tokens does not fit the relative positions of 5x5"):
        RelativePositionBias((5, 5), 1, class_token=False)((6, 5))


@pytest.mark.parametrize("class_token", [True, False])
def test_loading_a_table_samples_a_known_function_at_the_new_displacements(class_token):
    """A table that is linear in BEiT's stretched coordinates is linear in the new displacements."""
    old, new = 6, 12
    half, edge = old - 1, new - 1
    low, high = 1.01, 1.5  # the growth whose geometric sum reaches the new edge
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if sum(ratio**k for k in range(half)) > edge else (ratio, high)
    steps = torch.tensor([sum(ratio**k for k in range(n)) for n in range(half + 1)])
    place = torch.cat([-steps.flip(0)[:-1], steps])  # where the old rows stand among the new displacements
    table = (2 * place[:, None] - 3 * place[None, :]).reshape(-1, 1)
    class_rows = torch.tensor([[7.0], [8.0], [9.0]])
    bias = RelativePositionBias((new, new), 1, class_token=class_token)
    bias.load(torch.cat([table, class_rows]))
    d = torch.arange(-edge, edge + 1)
    want = (2.0 * d[:, None] - 3.0 * d[None, :]).reshape(-1, 1)
    got = bias.table.detach()
    torch.testing.assert_close(got[: len(want)], want, atol=2e-3, rtol=0)
    assert torch.equal(got[len(want) :], class_rows if class_token else class_rows[:0])


def test_stretching_a_table_keeps_a_linear_function_of_place():
    """As an image: the middle stays the middle, and the edges the edges."""
    old = (torch.arange(11) + 0.5) / 11
    table = (2 * old[:, None] - 3 * old[None, :]).reshape(-1, 1)
    bias = RelativePositionBias((12, 12), 1, class_token=False)
    bias.load(torch.cat([table, torch.zeros(3, 1)]), stretch=True)
    new = (torch.arange(23) + 0.5) / 23
    want = 2 * new[:, None] - 3 * new[None, :]
    inner = slice(4, 19)
    torch.testing.assert_close(bias.table.detach().view(23, 23)[inner, inner], want[inner, inner], atol=0.02, rtol=0)


# ------------------------------------------------------------------------------------------------- absolute positions
@pytest.mark.parametrize(("baseline", "position"), [("mae", "row_first"), ("mae", "own"), ("bootmae", "own")])
def test_positions_made_anew_are_those_of_the_grid(baseline, position):
    model = PlainViT(**arguments(baseline, position=position))
    want = sincos_2d(16, (12, 12), row_first=(baseline, position) != ("mae", "own"))
    assert torch.equal(model.pos_embed, want)
    assert model.pos_embed.requires_grad


def test_absolute_positions_keep_a_linear_function_of_place():
    weights = pretrained("mae")
    centre = (torch.arange(6) + 0.5) / 6  # patch centres as fractions of the image
    ramp = torch.stack([centre[:, None].expand(6, 6), centre[None, :].expand(6, 6)], dim=-1).reshape(36, 2)
    weights["pos_embed"][0, 1:, :2] = ramp
    model = PlainViT(**arguments("mae", weights=weights))
    got = model.pos_embed.detach()[0, 1:, :2].view(12, 12, 2)
    fine = (torch.arange(12) + 0.5) / 12
    # Bicubic repeats the edge: only the inside is linear. torch's kernel (a = -0.75) bends a line by 0.047 of a step.
    inner, tolerance = slice(4, 8), {"atol": 0.05 / 6, "rtol": 0.0}
    torch.testing.assert_close(got[inner, inner, 0], fine[inner, None].expand(4, 4), **tolerance)
    torch.testing.assert_close(got[inner, inner, 1], fine[None, inner].expand(4, 4), **tolerance)
    assert torch.equal(model.pos_embed[0, 0], weights["pos_embed"][0, 0])
    assert model.pos_embed.requires_grad


# -------------------------------------------------------------------------------------- the encoder in the backbone
@pytest.mark.parametrize("baseline", ["simmim", "mae", "bootmae", "conmim"])
def test_features_are_the_encoders_block_outputs(baseline):
    """At the pre-training size and with fresh biases at zero, the backbone computes what timm's encoder does."""
    weights = pretrained(baseline)
    encoder = build_encoder(**arguments(baseline)["encoder"]).eval()
    encoder.load_state_dict(weights)
    model = PlainViT(**arguments(baseline, weights=weights, image_size=24, init_values=1.0)).eval()
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = encoder.forward_intermediates(images, norm=False, intermediates_only=True)
        got = model(images)
    torch.testing.assert_close(got[2], want[2])  # the third level is not rescaled
    torch.testing.assert_close(got[3], torch.nn.functional.max_pool2d(want[3], 2))
    assert [tuple(feature.shape[2:]) for feature in got] == [(24, 24), (12, 12), (6, 6), (3, 3)]


def test_layer_scale_is_added_only_where_there_is_none():
    added = PlainViT(**arguments("mae", init_values=1.0)).blocks[0]
    assert (added.gamma_1 == 1).all()
    assert added.gamma_1.requires_grad
    assert PlainViT(**arguments("mae")).blocks[0].gamma_1 is None
    own = PlainViT(**arguments("conmim", weights=pretrained("conmim"), init_values=1.0)).blocks[0]
    assert torch.equal(own.gamma_1.detach(), pretrained("conmim")["blocks.0.gamma_1"])


def test_a_wrong_encoder_is_named():
    weights = pretrained("mae")
    del weights["blocks.2.norm1.weight"]
    with pytest.raises(ValueError, match=r"blocks\.2\.norm1\.weight.*Check baseline"):
        PlainViT(**arguments("mae", weights=weights))


# ---------------------------------------------------------------------------------------------------------- windows
def windowed(**changes) -> PlainViT:
    fixed = {"class_token": False, "relative": "shared", "norm": "group"}
    torch.manual_seed(0)
    model = PlainViT(**arguments("conmim", weights=pretrained("conmim"), **(fixed | changes))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".table"):  # the same bias at the same displacement, whatever the size of the table
            side = (parameter.shape[0] ** 0.5 + 1) / 2
            d = torch.arange(-side + 1, side)
            values = torch.sin(d)[:, None] + torch.cos(2 * d)[None, :]
            parameter.data.copy_(values.reshape(-1, 1).expand_as(parameter))
    return model


@pytest.mark.parametrize("window", [12, 15])
def test_a_window_that_covers_the_grid_is_global_attention(window):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = windowed(window_size=None)(images)
        got = windowed(window_size=window)(images)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_windows_do_not_see_each_other_and_global_blocks_do():
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    changed = images.clone()
    changed[..., :16, :16] += 1  # the first window of 4 x 4 patches
    for blocks, blind in (([], True), ([3], False)):
        model = windowed(window_size=4, global_blocks=blocks)
        with torch.no_grad():
            before, after = model(images)[3], model(changed)[3]
        same = torch.isclose(before, after, atol=1e-6).all(dim=1)[0]
        assert not same[:2, :2].any()
        assert same[2:, 2:].all() == blind


def test_drop_path_drops_windows():
    """MIMDet's blocks see windows as samples: at rate 0.5 some windows of one image pass a block untouched."""
    torch.manual_seed(0)
    model = windowed(window_size=4)
    block = model.blocks[3].train()
    block.drop_path1 = block.drop_path2 = DropPath(0.5)
    x = torch.randn(1, 144, 16)
    with torch.no_grad():
        same = (block(x, (12, 12), None, 4) == x).all(-1).view(3, 4, 3, 4)
    windows = same.transpose(1, 2).flatten(2)
    assert (windows.all(-1) == windows.any(-1)).all()
    assert 0 < windows.all(-1).sum() < 9


def test_padding_of_odd_sizes_is_not_seen():
    """A 30 x 41 image in windows of 5: padded windows give what each window alone gives."""
    model = windowed(window_size=5)
    images = torch.randn(1, 3, 30, 41, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model(images)[2]
        corner = model(images[..., 20:, 40:])[2]  # the last window: rows 5.., columns 10..
    assert features.shape[2:] == (8, 11)
    torch.testing.assert_close(features[..., 5:, 10:], corner)


def test_shared_tables_are_two_and_learn():
    model = windowed(window_size=4, global_blocks=[1, 3]).train()
    assert sorted(model.biases) == ["global", "window"]
    assert all(block.bias is None for block in model.blocks)
    sum(feature.square().mean() for feature in model(torch.randn(2, 3, 48, 48))).backward()
    assert all(bias.table.grad.abs().sum() > 0 for bias in model.biases.values())


@pytest.mark.parametrize("baseline", ["mae", "conmim"])
def test_one_image_at_a_time_is_the_batch(baseline, monkeypatch):
    """A large grid's attention goes image by image: neither maps nor gradients may tell."""
    kinds = {"class_token": False, "relative": "shared", "window_size": 4, "global_blocks": [1, 3], "norm": "group"}
    model = PlainViT(**arguments(baseline, weights=pretrained(baseline), **kinds)).double().eval()
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run() -> list[Tensor]:
        model.zero_grad()
        maps = model(images)
        sum(each.square().mean() for each in maps).backward()
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        return [*(each.detach() for each in maps), *(each.clone() for each in gradients)]

    together = run()
    monkeypatch.setattr("mto.openmmlab.backbone.LARGE", 100)  # tokens; windows have 16, the grid 144
    calls = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    one_by_one = run()
    assert calls == [27, 1, 1, 1, 27, 1, 1, 1]  # 3 images of 9 windows
    assert len(together) == len(one_by_one) > 40
    for got, want in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kinds", [{}, {"class_token": False, "relative": "shared", "window_size": 5, "norm": "group"}])
@pytest.mark.parametrize("baseline", ["mae", "conmim"])
def test_attention_with_a_bias_fits_a_fused_kernel(baseline, kinds):
    """A CPU's, which takes a bias of four dimensions, of the tokens' type, that needs no gradient; else an error."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = PlainViT(**arguments(baseline, weights=pretrained(baseline), **kinds)).eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            fused = model(images)
        with sdpa_kernel(SDPBackend.MATH):
            plain = model(images)
    for got, want in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, want)


def test_windows_refuse_a_class_token():
    with pytest.raises(ValueError, match="class_token must be False"):
        PlainViT(**arguments("mae", window_size=4))
