"""Encoders: sizes, timm's loading, the official fine-tuning models, moving to another grid, decay levels."""

import formula
import pytest
import timm
import torch
from torch import nn

from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.encoder import build_classifier, build_encoder, layer_id, load_encoder, timm_arguments
from mto.methods.position import resize_absolute, resize_relative, sincos_2d

SMALL = {"img_size": 20, "patch_size": 4, "embed_dim": 36, "depth": 3, "num_heads": 3, "mlp_ratio": 3.0}
METHODS = {"simmim": SimMIM, "mae": MAE, "bootmae": BootMAE, "conmim": ConMIM}
LAYER_SCALE = {"simmim": 0.1, "conmim": 0.1, "mae": None, "bootmae": None}


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


# The official fine-tuning models (SimMIM@d3e29bc, MAE@efb2a80, BootMAE@d604b18, ConMIM@4263955) at this size with
# `formula.weight` for every entry, in eval mode, on two formula images.
SIMMIM_LOGITS = [
    [-0.2154007, -0.5534763, -0.7433995, -0.7887214, 0.3242114, -0.4435218, -0.76294],
    [0.1536693, -0.7041757, -0.5132414, -0.0769443, 1.6966043, -0.5275687, -1.5061015],
]
OFFICIAL_LOGITS = {
    "simmim": SIMMIM_LOGITS,
    "conmim": SIMMIM_LOGITS,  # the same architecture, and the same numbers from its own code
    "mae": [
        [0.9578958, -0.8082662, 0.244289, -0.5402037, 0.6438179, -2.1491704, -0.3571447],
        [1.0668261, -0.5877105, 0.341619, -0.506362, 0.9696335, -2.1734805, -0.9101777],
    ],
    "bootmae": [
        [0.9261919, -0.7848744, 1.2028431, -0.8616262, 1.1930739, -1.7327936, -0.9389806],
        [0.886317, -0.5735745, 1.4559373, -0.5853874, 1.775934, -1.696543, -1.3578261],
    ],
}


@pytest.mark.parametrize("baseline", METHODS)
def test_logits_of_the_official_fine_tuning_models(baseline: str) -> None:
    model = build_classifier(baseline, num_classes=7, init_values=LAYER_SCALE[baseline], **SMALL).eval()
    fill(model)
    logits = model(formula.images("images", 2, 20))
    torch.testing.assert_close(logits, torch.tensor(OFFICIAL_LOGITS[baseline]), rtol=1e-5, atol=2e-6)


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
        own = method.forward_encoder(images, torch.arange(25).expand(2, -1))
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
