"""Pre-training as the loop sees it: a method, its teacher, and MTO on its hidden states."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mto.data.device.pixels import Pixels
from mto.losses.diagnostics import collapse, gradient_norms, stand_ins
from mto.losses.mto import MaskedTokenOptimization, log_scalars
from mto.losses.taps import Taps
from mto.methods import Method
from mto.names import Memory
from mto.training.compiled import Compiled
from mto.training.contract import Moment, Trainable


class MaskedImageModel(Trainable, nn.Module):
    """loss = method's loss + MTO's.

    Without MTO terms the heterogeneity is measured all the same, without gradient, when ``measure`` is on.

    Args:
        method: the student.
        mto: the terms of this run, maybe none.
        num_masked: masked patches an image, if the mask sampler guarantees the count.
        pixels: what normalises the loader's images; by default they are as they are, in units of 255 grey levels.
        compare_every: optimiser steps from one comparison of MTO's gradients with the method's to the next; 0: never.
            One costs a forward pass, a backward pass for each of MTO's terms and two more, on one micro-batch, and
            alters no training.
        starts_at: the epoch at which MTO is switched on. Until then this is the method without it.
    """

    method: Method
    teacher: nn.Module | None

    def __init__(
        self,
        method: Method,
        mto: MaskedTokenOptimization,
        num_masked: int | None = None,
        pixels: Pixels | None = None,
        compare_every: int = 0,
        starts_at: int = 0,
    ) -> None:
        super().__init__()
        self.data_preprocessor = pixels or Pixels()
        self.method = method
        self.teacher = method.make_teacher()
        self.mto = mto
        self.starts_at = starts_at
        self.waiting = MaskedTokenOptimization(terms=[])  # as a run without MTO measures heterogeneity
        self.num_masked = num_masked
        self.compare_every = compare_every
        #: Set before each pass: log this pass; compare gradients too; measure what MTO's weights are to be; epochs
        #: done since MTO acts; what the method wants of the epoch; whether MTO acts.
        self.measure = True
        self.measure_gradients = False
        self.measure_balance = False
        self.progress = 0.0
        self.active = True
        self.epoch_inputs: dict[str, Any] = {}
        self.compiled: Compiled | None = None

    @property
    def acting(self) -> MaskedTokenOptimization:
        """MTO as it acts now: not at all before its first epoch."""
        return self.mto if self.active else self.waiting

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads a state; one from before MTO acts, this run's or the run's without it, has nothing of MTO's."""
        if self.starts_at and not any(map(_is_of_mto, state_dict)):
            own = super().state_dict()
            state_dict = {**{name: own[name] for name in own if _is_of_mto(name)}, **state_dict}
        return super().load_state_dict(state_dict, strict, assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns the state, without what MTO has not measured yet while it does not act."""
        state = super().state_dict(*args, **kwargs)
        return state if self.active else {name: value for name, value in state.items() if not _is_of_mto(name)}

    def compile_step(self, memory: Memory = "fast") -> None:
        """Compiles the training pass (on a GPU: seconds to minutes at the first step, less time in all others)."""
        self.compiled = Compiled(self.losses, memory=memory)

    def train(self, mode: bool = True) -> "MaskedImageModel":
        """Sets the mode of student and head alone: a teacher's mode is its method's business."""
        self.training = mode
        self.method.train(mode)
        return self

    def forward(
        self, image: Tensor, mask: Tensor, teacher_image: Tensor | None = None, mode: str = "loss"
    ) -> dict[str, Any]:
        """Returns the losses and diagnostics of image (B, 3, H, W) and mask (B, N) bool.

        ``mode="tensor"`` adds ``hidden``; ``mode="gradients"`` gives the losses whose gradients are compared, as
        weighted.
        """
        if mode == "gradients":
            return self._weighted(image, mask, teacher_image)
        # First, so that no other graph is in memory; and the weights before what is multiplied by them.
        if self.measure_balance and mode == "loss":
            self._rebalance(image, mask, teacher_image)
        gradients = self._gradients(image, mask, teacher_image) if self.measure_gradients and mode == "loss" else {}
        if mode == "tensor" or self.compiled is None:
            out = self.losses(image, mask, teacher_image, self.progress, self.epoch_inputs, self.measure, mode)
        else:
            out = self._compiled(self.compiled, image, mask, teacher_image)
        return out | gradients

    def _compiled(
        self, compiled: Compiled, image: Tensor, mask: Tensor, teacher_image: Tensor | None
    ) -> dict[str, Any]:
        # As tensors, since each new Python number would compile anew; filled on the device, so that nothing waits.
        progress = torch.full((), self.progress, device=image.device)
        epoch_inputs = {
            name: torch.full((), float(value), device=image.device) for name, value in self.epoch_inputs.items()
        }
        return compiled(image, mask, teacher_image, progress, epoch_inputs, self.measure)

    def losses(
        self,
        image: Tensor,
        mask: Tensor,
        teacher_image: Tensor | None,
        progress: float | Tensor,
        epoch_inputs: dict[str, Any],
        measure: bool,
        mode: str = "loss",
    ) -> dict[str, Any]:
        """Computes the whole of a training pass, teacher included, as a function that can be one graph."""
        watched = measure or bool(self.acting.settings["terms"]) or mode == "tensor"
        record: bool | Taps = watched
        if watched and mode == "loss":
            record = self.acting.taps(mask, num_masked=self.num_masked, measure=measure)
        out = self._student(image, mask, teacher_image, epoch_inputs, record)
        hidden, loss = out.pop("hidden", None), out.pop("loss")
        scalars = {f"loss_{name}": value.detach() for name, value in out.items()}
        if watched:
            terms = self.acting.streams(hidden, mask, num_masked=self.num_masked, progress=progress, measure=measure)
            if self.acting.settings["terms"]:  # the compiler drops a sum with zero, and the loss has no gradient then
                loss = loss + terms["loss"]
            scalars |= log_scalars(terms)
        if measure and mode == "loss":
            scalars |= self._collapse(image, mask, hidden, out)
        return {"loss": loss, **scalars} | ({"hidden": hidden} if mode == "tensor" else {})

    @torch.no_grad()
    def _collapse(
        self, image: Tensor, mask: Tensor, hidden: dict[str, Any], out: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns `collapse` of each stream, named as MTO's diagnostics are, and the loss against a constant's."""
        scalars = {
            f"{stream}/{name}" if len(hidden) > 1 else name: value
            for stream, states in hidden.items()
            for name, value in collapse(states.tokens, mask).items()
        }
        ((name, constant),) = self.method.constant_loss(image, mask).items()
        return scalars | {"constant_ratio": out[name] / constant}

    def _gradients(self, image: Tensor, mask: Tensor, teacher_image: Tensor | None) -> dict[str, Tensor]:
        """Returns the norms of the gradients of the method's loss, of MTO's, and of each of its terms as weighted.

        They come from a pass of their own, never compiled, which leaves no trace (`_apart`).
        """
        leaves = stand_ins({name: value for name, value in self.named_parameters() if value.requires_grad})
        with self._apart(image):
            losses = torch.func.functional_call(self, leaves, (image, mask, teacher_image, "gradients"))
            norms = gradient_norms(losses, list(leaves.values()))
        return {f"gradient_{name}": norm for name, norm in norms.items()}

    def _weighted(self, image: Tensor, mask: Tensor, teacher_image: Tensor | None) -> dict[str, Tensor]:
        """Returns the method's loss, MTO's, and each of its terms as weighted."""
        taps = self.acting.taps(mask, num_masked=self.num_masked, measure=False)
        out = self._student(image, mask, teacher_image, self.epoch_inputs, taps)
        terms = self.acting.streams(
            out["hidden"], mask, num_masked=self.num_masked, progress=self.progress, measure=False
        )
        losses = {"method": out["loss"], "mto": terms["loss"]}
        for term in self.acting.settings["terms"]:
            losses[term] = self.acting.weight(term, self.progress) * terms[f"loss_{term}"]
        return losses

    def _rebalance(self, image: Tensor, mask: Tensor, teacher_image: Tensor | None) -> None:
        """Measures the gradients that turn MTO's shares into weights, on a few images, in a pass without a trace.

        It runs in full precision: ratios of small gradients are wanted, and float16 has none.
        """
        balance = self.acting.balance
        assert balance is not None
        image, mask = image[: balance.images], mask[: balance.images]
        teacher_image = None if teacher_image is None else teacher_image[: balance.images]
        with self._apart(image), torch.autocast(image.device.type, enabled=False):
            out = self._student(image, mask, teacher_image, self.epoch_inputs, True)
            terms = self.acting.streams(
                out["hidden"], mask, num_masked=self.num_masked, progress=self.progress, measure=False
            )
            embeddings = [stream.tokens[0] for stream in out["hidden"].values()]
            balance.measure(out["loss"], {term: terms[f"loss_{term}"] for term in balance.terms}, embeddings)

    @contextmanager
    def _apart(self, image: Tensor) -> Iterator[None]:
        """Lets a pass leave no trace: random numbers are put back, and what batch norms have seen."""
        seen = [*self.method.buffers(), *([] if self.teacher is None else self.teacher.buffers())]
        kept = [buffer.clone() for buffer in seen]
        with torch.random.fork_rng([image.device] if image.is_cuda else []):
            yield
        for buffer, value in zip(seen, kept, strict=True):
            buffer.copy_(value)

    def _student(
        self,
        image: Tensor,
        mask: Tensor,
        teacher_image: Tensor | None,
        epoch_inputs: dict[str, Any],
        return_hidden: bool | Taps,
    ) -> dict[str, Any]:
        """Returns what the method gives, on its teacher's targets."""
        targets = self.method.teacher_targets(self.teacher, image, teacher_image)
        inputs = {**targets, **epoch_inputs, "num_masked": self.num_masked, "return_hidden": return_hidden}
        return self.method(image, mask, **inputs)

    def before_pass(self, now: Moment) -> None:
        """Sets what a pass depends on beside its images."""
        length = now.length
        since = now.step - self.starts_at * length.unit
        self.active = since >= 0
        self.progress = max(since, 0) / length.unit
        self.epoch_inputs = self.method.epoch_inputs(now.epoch, length.total // length.unit)
        self.measure = now.logged
        balance = self.acting.balance
        self.measure_balance = balance is not None and now.first_pass and balance.is_due(since)
        compared = bool(self.compare_every and self.acting.settings["terms"] and now.first_pass)
        self.measure_gradients = compared and (now.step + 1) % self.compare_every == 0

    def after_step(self, now: Moment) -> None:
        """Moves the teacher."""
        if self.teacher is not None:
            total, epochs = now.length.total, now.length.total // now.length.unit
            momentum = self.method.teacher_momentum(now.step, total, now.epoch, epochs)
            assert momentum is not None, "a method with a teacher moves it"
            self.method.update_teacher(self.teacher, momentum)


def _is_of_mto(name: str) -> bool:
    return name.startswith("mto.")
