"""Each method by itself: sizes, initialisation, schedules, teachers, token streams, autocast, compilation."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import formula
from mto.losses.mto import MaskedTokenOptimization
from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.base import attention_map, patchify
from mto.methods.encoder import build_encoder, init_beit
from mto.methods.masking import build_mask_sampler

SMALL = {"img_size": 24, "patch_size": 4, "embed_dim": 36, "depth": 3, "num_heads": 3}
DECODER = {"decoder_embed_dim": 20, "decoder_depth": 2}
BUILD = {
    "simmim": lambda **k: SimMIM(**(SMALL | {"drop_path": 0.0} | k)),
    "mae": lambda **k: MAE(**(SMALL | DECODER | {"decoder_num_heads": 2} | k)),
    "bootmae": lambda **k: BootMAE(**(SMALL | DECODER | {"decoder_num_heads": 3} | k)),
    "conmim": lambda **k: ConMIM(**(SMALL | {"projector_dim": 40, "output_dim": 12} | k)),
}
TERMS = {
    "simmim": {"reconstruction"},
    "mae": {"reconstruction"},
    "bootmae": {"pixel", "feature"},
    "conmim": {"contrastive"},
}


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    sampler = build_mask_sampler(24, 4, sampler="random", ratio=0.75)
    generator = torch.Generator().manual_seed(0)
    return formula.images("images", batch, 24), torch.stack([sampler(generator) for _ in range(batch)])


def step(method, images: Tensor, mask: Tensor, **kwargs) -> dict:
    teacher = method.make_teacher()
    targets = method.teacher_targets(teacher, images, images.flip(0))
    return method(images, mask, **targets, **kwargs)


@pytest.mark.parametrize(
    ("cls", "sizes", "total", "trainable"),
    [
        (SimMIM, {}, 86_256_720, 86_256_720),
        (MAE, {}, 111_907_840, 111_655_680),
        (MAE, {"embed_dim": 1024, "depth": 24, "num_heads": 16}, 329_541_888, 329_239_296),
        (BootMAE, {}, 115_625_411, 115_373_251),
        # The official 112,953,680 less its head of 768 · 8192 + 8192 parameters, which gets no gradient.
        (ConMIM, {}, 112_953_680 - 6_299_648, 112_953_680 - 6_299_648),
    ],
)
def test_parameter_totals_are_the_official_ones(cls, sizes, total: int, trainable: int) -> None:
    with torch.device("meta"):
        method = cls(**sizes)
    assert sum(p.numel() for p in method.parameters()) == total
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize("name", BUILD)
def test_terms_sum_to_the_loss_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    method = BUILD[name]()
    images, mask = inputs()
    out = step(method, images, mask)
    assert set(out) == TERMS[name] | {"loss"}
    torch.testing.assert_close(out["loss"], sum(out[term] for term in TERMS[name]))
    out["loss"].backward()
    idle = [key for key, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


@pytest.mark.parametrize("name", ["simmim", "mae", "bootmae"])
def test_no_patch_for_all_is_better_than_a_constants_loss(name: str) -> None:
    """An image's best single patch, by the method's loss: descent reaches the constant's loss and no lower."""
    method = BUILD[name]()
    images, mask = inputs()
    mask[0] = mask[0].roll(1)
    ((term, constant),) = method.constant_loss(images, mask).items()
    patch = torch.zeros(len(images), 1, 3, 16, requires_grad=True)  # an image, a colour, the pixels of a patch
    optimiser = torch.optim.Adam([patch], lr=0.02)
    lowest = math.inf
    for _ in range(1500):
        alike = patch.expand(-1, 36, -1, -1)
        if name == "simmim":
            error = (patchify(images, 4) - alike).abs().mean((2, 3))
            loss = error[mask].mean()
        elif name == "mae":
            error = (method.target(images) - alike.transpose(2, 3).flatten(2)).square().mean(-1)
            loss = error[mask].mean()
        else:
            pixels = alike.transpose(1, 2).permute(0, 1, 3, 2).flatten(1, 2)  # as patchify reads them back
            folded = torch.nn.functional.fold(pixels, 24, kernel_size=4, stride=4)
            loss = method.pixel_loss(images, folded, method.loss_weight(mask))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lowest = min(lowest, float(loss))
    assert TERMS[name] >= {term}
    assert float(constant) <= lowest * (1 + 1e-5)
    assert float(constant) == pytest.approx(lowest, rel=2e-3)


def test_a_constant_of_conmim_ranks_every_patch_alike() -> None:
    """The loss at features that tell no patch from another."""
    method = BUILD["conmim"]()
    images, mask = inputs()
    method.projector = nn.Sequential(nn.Linear(36, 12))  # the same vector for every token
    nn.init.zeros_(method.projector[0].weight)
    out = method(images, mask, teacher_features=torch.ones(3, 36, 12))
    torch.testing.assert_close(
        method.constant_loss(images, mask), {"contrastive": out["contrastive"]}, check_dtype=False
    )


@pytest.mark.parametrize("name", BUILD)
def test_streams_hold_every_layer_and_the_masked_tokens_start_equal(name: str) -> None:
    method = BUILD[name]()
    images, mask = inputs()
    hidden = step(method, images, mask, return_hidden=True)["hidden"]
    assert set(hidden) == {"mae": {"decoder"}, "bootmae": {"pixel", "feature"}}.get(name, {"encoder"})
    layers = 3 if name in ("simmim", "conmim") else 2
    for stream in hidden.values():
        assert len(stream.tokens) == 1 + layers
        assert {tokens.shape[:2] for tokens in stream.tokens} == {(3, 36)}
        masked = stream.tokens[0][mask]
        assert torch.equal(masked, masked[:1].expand_as(masked))  # MTO's Condition 1: identical before position
        assert not torch.equal(stream.tokens[-1][mask], masked)
        attention = stream.first_attention()
        assert attention.shape == (3, 36, 36)
        assert 0.9 < attention.sum(-1).mean().item() < 1.0  # the class token's column is left out
        if name in ("simmim", "conmim"):
            assert stream.position is None
        else:
            assert stream.position.shape in {(1, 36, 20), (3, 36, 20), (3, 36, 36)}


@pytest.mark.parametrize("name", BUILD)
def test_streams_are_what_enters_and_leaves_the_blocks(name: str) -> None:
    """X⁰ + position enters block 1, Xˡ leaves block l before any norm, in the image's order."""
    method = BUILD[name]().eval()
    images, mask = inputs()
    stacks = {
        "simmim": lambda m: {"encoder": m.encoder.blocks},
        "conmim": lambda m: {"encoder": m.encoder.blocks},
        "mae": lambda m: {"decoder": m.decoder_blocks},
        "bootmae": lambda m: {"pixel": m.pixel_decoder.blocks, "feature": m.feature_decoder.blocks},
    }[name](method)
    seen: dict[str, list[Tensor]] = {stream: [] for stream in stacks}
    targets = _targets(method, images)
    for stream, blocks in stacks.items():
        blocks[0].register_forward_pre_hook(lambda module, args, s=stream: seen[s].append(args[0]))
        for block in blocks:
            block.register_forward_hook(lambda module, args, out, s=stream: seen[s].append(out))
    hidden = method(images, mask, **targets, return_hidden=True)["hidden"]
    assert hidden.keys() == stacks.keys()
    for name_, stream in hidden.items():
        position = 0 if stream.position is None else stream.position
        states = [stream.tokens[0] + position, *stream.tokens[1:]]
        assert len(states) == len(seen[name_])
        for ours, state in zip(states, seen[name_], strict=True):
            torch.testing.assert_close(ours, state[:, 1:])


@pytest.mark.parametrize("name", BUILD)
def test_mtos_gradient_is_that_of_the_whole_network(name: str) -> None:
    """Along a random direction in all parameters, against a difference quotient: no state is cut off."""
    torch.manual_seed(0)
    method = BUILD[name]().double().eval()
    images, mask = inputs()
    images, mto = images.double(), MaskedTokenOptimization(r_weight=2.0)
    targets = _targets(method, images)
    parameters = [p for p in method.parameters() if p.requires_grad]

    def loss() -> Tensor:
        return mto.streams(method(images, mask, **targets, return_hidden=True)["hidden"], mask)["loss"]

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None).item()
    values = []
    with torch.no_grad():
        for step_size in (1e-6, -2e-6):
            torch._foreach_add_(parameters, direction, alpha=step_size)
            values.append(loss().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)
    reached = {key for (key, p), g in zip(_trainable(method), gradients, strict=True) if g is not None and g.any()}
    assert any("mask_token" in key for key in reached)
    assert "encoder.patch_embed.proj.weight" in reached


def _trainable(method: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(key, p) for key, p in method.named_parameters() if p.requires_grad]


def _targets(method, images: Tensor) -> dict[str, Tensor]:
    teacher = method.make_teacher()
    return method.teacher_targets(teacher, images, images)


def test_first_attention_is_the_blocks_own() -> None:
    """Against the explicit softmax of timm's unfused path."""
    method = BUILD["simmim"]().eval()
    method.load_state_dict({key: formula.weight(key, value) for key, value in method.state_dict().items()})
    attention = method.encoder.blocks[0].attn
    attention.fused_attn = False
    probabilities = []
    attention.attn_drop.register_forward_hook(lambda module, args, out: probabilities.append(out))
    images, mask = inputs()
    stream = method(images, mask, return_hidden=True)["hidden"]["encoder"]
    torch.testing.assert_close(stream.first_attention(), probabilities[0].mean(1)[:, 1:, 1:])


def test_attention_maps_are_float32_under_autocast() -> None:
    attention = BUILD["simmim"]().encoder.blocks[0].attn
    tokens = torch.randn(2, 17, attention.qkv.in_features, generator=torch.Generator().manual_seed(0))
    attention.qkv.register_forward_hook(lambda module, args, out: 30 * out)  # logits that bfloat16 rounds to other ones
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_map(attention, tokens)
        qkv = attention.qkv(tokens) + torch.cat(
            [attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias]
        )
    q, k, _ = qkv.double().unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    expected = (q @ k.mT * attention.scale).softmax(-1).mean(1)[:, 1:, 1:]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BUILD)
def test_a_given_count_of_masked_patches_changes_nothing(name: str) -> None:
    method = BUILD[name]().eval()
    images, mask = inputs()
    targets = _targets(method, images)
    a = method(images, mask, **targets)["loss"]
    assert torch.equal(a, method(images, mask, num_masked=27, **targets)["loss"])


@pytest.mark.parametrize("name", BUILD)
def test_works_under_bf16_autocast_with_losses_in_fp32(name: str) -> None:
    method = BUILD[name]()
    images, mask = inputs()
    full = step(copy.deepcopy(method), images, mask)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        out = step(method, images, mask, return_hidden=True)
    assert out["loss"].dtype == torch.float32
    assert out["loss"].item() == pytest.approx(full.item(), rel=0.02)
    for stream in out["hidden"].values():
        assert {tokens.dtype for tokens in stream.tokens} <= {torch.float32, torch.bfloat16}
    out["loss"].backward()


@pytest.mark.parametrize("name", BUILD)
def test_compiles_to_one_graph_when_the_count_is_given(name: str) -> None:
    method = BUILD[name]().eval()
    images, mask = inputs()
    targets = _targets(method, images)
    compiled = torch.compile(method, backend="eager", fullgraph=True)
    want = method(images, mask, num_masked=27, **targets)["loss"]
    torch.testing.assert_close(compiled(images, mask, num_masked=27, **targets)["loss"], want)


@pytest.mark.parametrize("name", ["simmim", "conmim"])
def test_unequal_counts_are_fine_where_nothing_is_gathered(name: str) -> None:
    method = BUILD[name]()
    images, mask = inputs()
    mask[0] = torch.arange(36) < 5
    assert step(method, images, mask)["loss"].isfinite()


@pytest.mark.parametrize("name", ["mae", "bootmae"])
def test_unequal_counts_are_an_error_where_visible_patches_are_gathered(name: str) -> None:
    method = BUILD[name]()
    images, mask = inputs()
    mask[0] = torch.arange(36) < 5
    with pytest.raises(ValueError, match="same number of patches here, got 5 to 27"):
        step(method, images, mask)


@pytest.mark.parametrize("name", BUILD)
def test_a_wrong_mask_is_an_error(name: str) -> None:
    method = BUILD[name]()
    images, mask = inputs()
    for wrong in (mask[:, :-1], mask.float(), mask[:1]):
        with pytest.raises(ValueError, match="mask must be bool"):
            step(method, images, wrong)


@pytest.mark.parametrize("name", ["bootmae", "conmim"])
def test_missing_teacher_features_are_an_error(name: str) -> None:
    images, mask = inputs()
    with pytest.raises(ValueError, match="teacher_features"):
        BUILD[name]()(images, mask)


def test_visible_pixels_do_not_enter_the_loss() -> None:
    """MAE and SimMIM: the gradient of the loss by the prediction is zero at visible patches."""
    images, mask = inputs()
    for name, head in (("simmim", "head"), ("mae", "decoder_pred")):
        method, seen = BUILD[name](), []
        getattr(method, head).register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        loss = method(images, mask)["loss"]
        (gradient,) = torch.autograd.grad(loss, seen)
        gradient = gradient.flatten(2).transpose(1, 2) if name == "simmim" else gradient[:, 1:]
        touched = gradient.abs().sum(-1) > 0
        assert torch.equal(touched, mask)


# ------------------------------------------------------------------------------------------------------ initialisation


def test_simmim_and_conmim_start_from_a_normal_cut_at_one_sigma_with_depth_rescaling() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("simmim", depth=12, embed_dim=192, num_heads=3, init_values=0.1)
    init_beit(encoder)
    first, last = encoder.blocks[0], encoder.blocks[11]
    for weight in (first.attn.qkv.weight, last.mlp.fc1.weight, encoder.patch_embed.proj.weight):
        assert weight.abs().max().item() <= 0.02
        assert weight.std().item() == pytest.approx(0.0108, abs=0.0002)
    assert first.attn.proj.weight.std().item() == pytest.approx(0.0076, abs=0.0001)
    assert last.attn.proj.weight.std().item() == pytest.approx(0.0022, abs=0.0001)
    assert last.mlp.fc2.weight.std().item() == pytest.approx(0.0108 / math.sqrt(24), rel=0.02)
    assert (first.gamma_1 == 0.1).all()
    assert (encoder.rel_pos_bias.relative_position_bias_table == 0).all()
    method = BUILD["conmim"](projector_dim=200)
    assert method.mask_token.abs().max().item() <= 0.02
    assert method.projector[3].weight.std().item() == pytest.approx(0.0108, abs=0.0002)
    # SimMIM's head keeps the framework's uniform ±1/√fan_in.
    assert BUILD["simmim"](embed_dim=192).head.weight.std().item() == pytest.approx((3 * 192) ** -0.5, rel=0.05)


def test_mae_starts_from_xavier() -> None:
    torch.manual_seed(0)
    method = BUILD["mae"](embed_dim=192, decoder_embed_dim=128)
    qkv, patch = method.encoder.blocks[1].attn.qkv, method.encoder.patch_embed.proj
    assert qkv.weight.std().item() == pytest.approx(math.sqrt(2 / (4 * 192)), rel=0.02)
    assert patch.weight.std().item() == pytest.approx(math.sqrt(2 / (192 + 48)), rel=0.03)
    assert (qkv.bias == 0).all()
    assert method.mask_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert method.mask_token.abs().max().item() > 0.03  # not cut
    assert method.encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_bootmae_starts_from_xavier_by_query_key_and_value() -> None:
    torch.manual_seed(0)
    method = BUILD["bootmae"](embed_dim=192, decoder_embed_dim=128)
    third = math.sqrt(2 / (192 + 192))
    assert method.encoder.blocks[2].attn.qkv.weight.std().item() == pytest.approx(third, rel=0.02)
    assert method.feature_decoder.blocks[0].attn.qkv.weight.std().item() == pytest.approx(third, rel=0.02)
    cross = method.feature_decoder.blocks[1].c_attn.kv.weight
    assert cross.std().item() == pytest.approx(math.sqrt(2 / (192 + 384)), rel=0.02)
    assert method.encoder.blocks[2].attn.proj.weight.std().item() == pytest.approx(third, rel=0.02)  # not rescaled
    assert method.encoder.cls_token.abs().max().item() < 1e-5
    assert method.pixel_decoder.mask_token.abs().max().item() <= 0.02
    assert (method.encoder.patch_embed.proj.bias == 0).all()


def test_bootmae_pixel_heads_are_narrower_than_the_width_allows() -> None:
    block = BUILD["bootmae"]().pixel_decoder.blocks[0]
    assert block.attn.qkv.weight.shape == (3 * 18, 20)  # 3 heads of 6 in a width of 20, as 12 of 42 in 512
    assert block.c_attn.kv.weight.shape == (2 * 18, 36)


# ----------------------------------------------------------------------------------------------- schedules and teachers


def test_bootmae_decay_and_ramp() -> None:
    method = BUILD["bootmae"]()
    decay = {epoch: method.teacher_momentum(0, 1, epoch, 800) for epoch in (0, 50, 100, 250, 400, 799)}
    assert decay == pytest.approx({0: 0.999, 50: 0.99945, 100: 0.9999, 250: 0.999945, 400: 0.99999, 799: 0.99999})
    ramp = {epoch: method.epoch_inputs(epoch, 801)["feature_weight"] for epoch in (0, 99, 200, 800)}
    assert ramp == pytest.approx({0: 0.00499, 99: 0.4994, 200: 1.0, 800: 1.0}, abs=5e-5)


def test_conmim_momentum() -> None:
    momentum = [BUILD["conmim"]().teacher_momentum(step, 1000, 0, 1) for step in (0, 500, 999)]
    assert momentum == pytest.approx([0.996, 0.998, 1.0], abs=1e-7)
    assert momentum[2] < 1.0


@pytest.mark.parametrize("name", ["simmim", "mae"])
def test_methods_without_a_teacher(name: str) -> None:
    method = BUILD[name]()
    images, _ = inputs()
    assert method.make_teacher() is None
    assert method.teacher_targets(None, images, None) == method.epoch_inputs(3, 8) == {}
    assert method.teacher_momentum(0, 1, 0, 1) is None
    with pytest.raises(TypeError, match="no teacher"):
        method.update_teacher(nn.Identity(), 0.9)


@pytest.mark.parametrize("name", ["bootmae", "conmim"])
def test_a_teacher_starts_as_a_copy_and_follows(name: str) -> None:
    method = BUILD[name]()
    teacher = method.make_teacher()
    student = method if name == "conmim" else method.encoder
    assert not any(p.requires_grad for p in teacher.parameters())
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0) if parameter.requires_grad else None
    method.update_teacher(teacher, 0.9)
    for key, parameter in teacher.named_parameters():
        moved = 0.1 if dict(student.named_parameters())[key].requires_grad else 0.0
        torch.testing.assert_close(parameter, before[key] + moved)


def test_conmim_teacher_normalises_by_batch_and_keeps_its_own_buffers() -> None:
    method = BUILD["conmim"]()
    teacher = method.make_teacher().eval()
    images, _ = inputs()
    targets = method.teacher_targets(teacher, images, images)["teacher_features"]
    assert teacher.training
    assert targets.shape == (3, 36, 12)
    assert not targets.requires_grad
    buffers = {key: value.clone() for key, value in teacher.named_buffers() if "running" in key}
    assert buffers["projector.1.running_mean"].any()  # moved by the pass itself
    method.update_teacher(teacher, 0.5)
    assert all(torch.equal(value, buffers[key]) for key, value in teacher.named_buffers() if "running" in key)
    with pytest.raises(ValueError, match="teacher_images"):
        method.teacher_targets(teacher, images)


def test_bootmae_teacher_sees_the_whole_image_in_eval_mode() -> None:
    method = BUILD["bootmae"](drop_path=0.5)
    teacher = method.make_teacher().train()
    images, _ = inputs()
    a, b = (method.teacher_targets(teacher, images)["teacher_features"] for _ in range(2))
    assert torch.equal(a, b)
    assert not teacher.training
    assert a.shape == (3, 36, 36)


def test_conmim_evaluates_the_teacher_and_the_others_the_student() -> None:
    for name in ("bootmae", "conmim"):
        method = BUILD[name]()
        teacher = method.make_teacher()
        with torch.no_grad():
            method.encoder.cls_token.add_(1.0)
        exported = method.encoder_state(teacher)["cls_token"]
        assert torch.equal(exported, method.encoder.cls_token) == (name == "bootmae")
        assert torch.equal(method.encoder_state()["cls_token"], method.encoder.cls_token)


# ------------------------------------------------------------------------------------------------------ official states


@pytest.mark.parametrize("name", BUILD)
def test_official_state_dicts_are_accounted_for_key_by_key(name: str) -> None:
    method = BUILD[name]()
    with pytest.raises(ValueError, match="nothing for"):
        method.load_official({})
    prefix = "encoder." if name == "simmim" else ""
    with pytest.raises(ValueError, match="unknown key"):
        method.load_official({prefix + "blocks.9.norm1.weight": torch.ones(36)})
    with pytest.raises(ValueError, match=r"'.*cls_token' has shape \(1, 1, 7\), not \(1, 1, 36\)"):
        method.load_official({prefix + "cls_token": torch.ones(1, 1, 7)})


def test_names_without_decay_exist() -> None:
    for name, build in BUILD.items():
        method = build()
        names = method.param_names_without_decay()
        assert names == (set() if name == "mae" else {"encoder.cls_token"})
        assert names <= {key for key, _ in method.named_parameters()}
