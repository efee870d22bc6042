"""Encoders: sizes, timm's loading, the official fine-tuning models, moving to another grid, decay levels."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import formula
from mto.losses.order import TokenOrder
from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.encoder import build_classifier, build_encoder, layer_id, load_encoder, timm_arguments
from mto.methods.position import resize_absolute, resize_relative, sincos_2d

SMALL = {"img_size": 20, "patch_size": 4, "embed_dim": 36, "depth": 3, "num_heads": 3, "mlp_ratio": 3.0}
METHODS = {"simmim": SimMIM, "mae": MAE, "bootmae": BootMAE, "conmim": ConMIM}
LAYER_SCALE = {"simmim": 0.1, "conmim": 0.1, "mae": None, "bootmae": None}
TRUE_SIZES = [(name, "vitb") for name in METHODS] + [("mae", "vitl")]
CASES = [(name, "small") for name in METHODS] + [pytest.param(*case, marks=pytest.mark.slow) for case in TRUE_SIZES]


def fill(module: nn.Module) -> None:
    module.load_state_dict({key: formula.weight(key, value) for key, value in module.state_dict().items()})


def small_method(baseline: str, **sizes):
    extra = {"mae": {"decoder_embed_dim": 24, "decoder_depth": 1, "decoder_num_heads": 2}}.get(baseline, {})
    extra |= {"bootmae": {"decoder_embed_dim": 24}, "conmim": {"projector_dim": 24, "output_dim": 8}}.get(baseline, {})
    return METHODS[baseline](**(SMALL | extra | sizes))


@pytest.mark.parametrize(
    ("baseline", "total", "trainable"),
    [
        ("simmim", 86_530_984, 86_530_984),
        ("conmim", 86_530_984, 86_530_984),
        ("mae", 86_567_656, 86_567_656),
        ("bootmae", 86_558_440, 86_407_144),
    ],
)
def test_parameters_of_the_official_fine_tuning_models(baseline: str, total: int, trainable: int) -> None:
    with torch.device("meta"):
        model = build_classifier(baseline, init_values=LAYER_SCALE[baseline])
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize(("baseline", "size"), CASES)
def test_logits_of_the_official_fine_tuning_models(baseline: str, size: str) -> None:
    """`official/finetune_<size>.json` holds what the official models gave in float64, rounded to 8 digits.

    Each was built at the commit named as its fine-tuning command does, `formula.weight` for every entry, in eval mode,
    and took two formula images. Kept: the first 16 logits, and the mean and standard deviation of all. Fixed positions
    are the official ones: MAE's from its pre-training code; BootMAE's constant grid was replaced for the small size.
    """
    want = json.loads((Path(__file__).parent / "official" / f"finetune_{size}.json").read_text())[baseline]
    model = build_classifier(baseline, **want["arguments"]).eval()
    fill(model)
    images = formula.images("images", 2, want["arguments"]["img_size"])
    # Between their own float32 and float64 the official logits, of order one, move by up to 1.4e-6. In float64 they
    # equal ours to 14 digits, save BootMAE's, whose code computes the positions in float32: 1.2e-7. Only float64 is
    # fine enough to tell the epsilon of a single norm.
    for dtype, rtol, atol in ((torch.float32, 1e-5, 3e-6), (torch.float64, 1e-7, 2e-7)):
        with torch.no_grad():
            logits = model.to(dtype)(images.to(dtype))
        for got, name in ((logits[:, :16], "logits"), (logits.mean(1), "mean"), (logits.std(1), "std")):
            torch.testing.assert_close(got, torch.tensor(want[name], dtype=dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("baseline", METHODS)
def test_timm_loads_the_encoder_and_gives_the_same_features(baseline: str) -> None:
    method = small_method(baseline).eval()
    fill(method)
    name, arguments = timm_arguments(baseline)
    if LAYER_SCALE[baseline]:
        arguments["init_values"] = LAYER_SCALE[baseline]
    sizes = {key: value for key, value in SMALL.items() if key != "img_size"}
    model = timm.create_model(name, num_classes=0, img_size=20, **sizes, **arguments).eval()
    model.load_state_dict(method.encoder_state())
    images = formula.images("images", 2, 20)

    if baseline in ("simmim", "conmim"):
        own = method.encode(images, torch.zeros(2, 25, dtype=torch.bool))[0]
    else:
        own = method.forward_encoder(images, TokenOrder(torch.ones(2, 25, dtype=torch.bool)), 25)
        own = own if baseline == "mae" else own[0]
    torch.testing.assert_close(own, model.forward_features(images))


@pytest.mark.parametrize("baseline", METHODS)
def test_a_vitb_encoder_has_timms_own_keys(baseline: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(baseline, init_values=LAYER_SCALE[baseline])
        name, arguments = timm_arguments(baseline)
        model = timm.create_model(name, num_classes=0, **arguments)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in encoder.state_dict().items()} == shapes


@pytest.mark.parametrize("baseline", METHODS)
def test_a_classifier_takes_the_encoder(baseline: str) -> None:
    method = small_method(baseline).eval()
    fill(method)
    model = build_classifier(baseline, num_classes=7, drop_path=0.0, init_values=LAYER_SCALE[baseline], **SMALL).eval()
    fresh, unused = load_encoder(model, method.encoder_state())
    assert sorted(fresh) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert sorted(unused) == ["norm.bias", "norm.weight"]
    if baseline in ("simmim", "conmim"):
        for block in model.blocks:
            table = method.encoder.rel_pos_bias.relative_position_bias_table
            assert torch.equal(block.attn.relative_position_bias_table, table)
    # The same tokens before the last norm: what a copied table must not change.
    images = formula.images("images", 2, 20)
    ours = method.encoder.forward_intermediates(images, 1, output_fmt="NLC")[1][0]
    torch.testing.assert_close(model.forward_intermediates(images, 1, output_fmt="NLC")[1][0], ours)


@pytest.mark.parametrize("baseline", METHODS)
def test_a_classifier_of_another_image_size_takes_the_encoder(baseline: str) -> None:
    method = small_method(baseline)
    fill(method)
    sizes = SMALL | {"img_size": 32}
    model = build_classifier(baseline, num_classes=7, init_values=LAYER_SCALE[baseline], **sizes)
    load_encoder(model, method.encoder_state())
    if baseline in ("mae", "bootmae"):
        want = resize_absolute(method.encoder.pos_embed, (8, 8))
        assert torch.equal(model.pos_embed, want)
    else:
        want = resize_relative(method.encoder.rel_pos_bias.relative_position_bias_table, (8, 8))
        assert torch.equal(model.blocks[2].attn.relative_position_bias_table, want)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_backbone_may_add_relative_tables_and_layer_scale() -> None:
    """MAE's and BootMAE's ADE20K backbones do."""
    state = small_method("bootmae").encoder_state()
    backbone = build_encoder("bootmae", **SMALL, use_rel_pos_bias=True, init_values=1.0, use_fc_norm=True)
    fresh, _ = load_encoder(backbone, state)
    assert {name.rsplit(".", 1)[-1] for name in fresh if name.startswith("blocks.")} == {
        "gamma_1",
        "gamma_2",
        "relative_position_bias_table",
    }


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"depth": 4}, "blocks.3"),
        ({"embed_dim": 48}, "blocks.0"),
        ({"patch_size": 5}, "patch_embed"),
        ({"init_values": None}, "gamma_1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(other: dict, named: str) -> None:
    model = build_classifier("simmim", num_classes=7, **({"init_values": 0.1} | SMALL | other))
    with pytest.raises(ValueError, match=named):
        load_encoder(model, small_method("simmim").encoder_state())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_heads": 5}, "num_heads"),
        ({"img_size": 30, "patch_size": 16}, "patch_size"),
        ({"embed_dim": 6}, "embed_dim"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_built_are_errors(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build_encoder("mae", **({"num_heads": 3, "depth": 1, "embed_dim": 24} | arguments))


def test_sincos_orders() -> None:
    column_first = sincos_2d(16, (3, 4), row_first=False)
    row_first = sincos_2d(16, (3, 4), row_first=True)
    assert column_first.shape == (1, 13, 16)
    assert (column_first[:, 0] == 0).all()
    assert torch.equal(row_first, torch.cat([column_first[..., 8:], column_first[..., :8]], dim=-1))
    # Patch (row 2, column 3): sin and cos of the column at frequency 1.
    patch = column_first[0, 1 + 2 * 4 + 3]
    assert patch[0].item() == pytest.approx(torch.tensor(3.0).sin().item(), abs=1e-6)
    assert patch[4].item() == pytest.approx(torch.tensor(3.0).cos().item(), abs=1e-6)
    assert patch[1].item() == pytest.approx(torch.tensor(3.0 * 10000**-0.25).sin().item(), abs=1e-6)


@pytest.mark.parametrize(("source", "target"), [(5, 8), (14, 32), (14, 10)])
def test_relative_resizing_is_the_official_interpolation(source: int, target: int) -> None:
    """BEiT called scipy's interp2d (gone since 1.14), whose fit on a grid is RectBivariateSpline's."""
    import numpy as np
    from scipy.interpolate import RectBivariateSpline

    old, new = 2 * source - 1, 2 * target - 1
    table = formula.uniform("table", old * old + 3, 2)
    resized = resize_relative(table, (target, target))

    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if sum(q**i for i in range(old // 2)) > new // 2:
            high = q
        else:
            low = q
    steps = [sum(q**i for i in range(n + 1)) for n in range(old // 2)]
    knots = np.array([-s for s in reversed(steps)] + [0.0] + steps)
    at = np.arange(-(new // 2), new // 2 + 1)
    for head in range(2):
        image = table[:-3, head].reshape(old, old).double().numpy()
        want = RectBivariateSpline(knots, knots, image, kx=3, ky=3, s=0)(at, at)
        torch.testing.assert_close(resized[:-3, head].reshape(new, new), torch.from_numpy(want).float())
    assert torch.equal(resized[-3:], table[-3:])


def test_resizing_to_the_same_grid_and_to_a_rectangle() -> None:
    table = formula.uniform("table", 9 * 9 + 3, 2)
    assert resize_relative(table, (5, 5)) is table
    assert resize_relative(table, (4, 6)).shape == (7 * 11 + 3, 2)
    position = sincos_2d(8, (5, 5), row_first=True)
    assert resize_absolute(position, (5, 5)) is position
    with pytest.raises(ValueError, match="square"):
        resize_relative(formula.uniform("table", 80, 2), (5, 5))


def test_layer_ids() -> None:
    model = build_classifier("simmim", num_classes=7, init_values=0.1, **SMALL)
    levels = {name: layer_id(name, 3) for name, _ in model.named_parameters()}
    assert levels["cls_token"] == levels["patch_embed.proj.weight"] == layer_id("pos_embed", 3) == 0
    assert levels["blocks.0.attn.relative_position_bias_table"] == 1
    assert levels["blocks.2.mlp.fc2.bias"] == 3
    assert levels["fc_norm.weight"] == levels["head.bias"] == 4
    assert layer_id("rel_pos_bias.relative_position_bias_table", 3) == 4
