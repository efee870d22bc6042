"""How runs are called in tables and figures."""

from __future__ import annotations

from mto.names import BACKBONES, BASELINES, TERMS, Run

STREAMS = {"pixel": "pixel decoder", "feature": "feature decoder"}
AFFINITIES = {
    **{"pre": "before position", "post": "after position"},
    **{"dot": "dot product", "scaled": "dot product / √D", "cosine": "cosine"},
    **{"raw": "raw tokens", "layernorm": "layer-normed tokens", "l2": "unit tokens"},
}


def baseline_name(run: str) -> str:
    """Returns `MAE ViT-B`, whatever MTO does."""
    parsed = Run.parse(run)
    return f"{BASELINES[parsed.baseline].title} {BACKBONES[parsed.backbone]}"


def run_name(run: str) -> str:
    """Returns `MAE ViT-B`, `MAE ViT-B + MTO`, `MAE ViT-B + MTO@text` or `SimMIM ViT-B + MTO (spa, e)`."""
    parsed = Run.parse(run)
    if not parsed.terms:
        return baseline_name(run)
    preset = f"@{parsed.preset}" if parsed.preset else ""
    terms = "" if parsed.terms == TERMS else f" ({', '.join(parsed.terms)})"
    return f"{baseline_name(run)} + MTO{preset}{terms}"


def full_name(run: str) -> str:
    """Returns `run_name` and the decoder's depth where it is varied: `MAE ViT-B + MTO, decoder depth 2`."""
    depth = Run.parse(run).decoder_depth
    return run_name(run) + ("" if depth is None else f", decoder depth {depth}")


def stream_name(stream: str) -> str:
    """Returns `encoder`, `decoder`, `pixel decoder` or `feature decoder`."""
    return STREAMS.get(stream, stream)


def affinity_name(variant: str) -> str:
    """Says a variant of heterogeneity.csv, `pre-cosine-raw-0.1`, in words on two lines; numbers are temperatures."""
    position, *rest = (AFFINITIES.get(part) or f"τ = {part}" for part in variant.split("-"))
    return f"{', '.join(rest)}\n{position}" if rest else position


def with_mto(name: str) -> str:
    """Returns `mae-vitb-mto` of `mae-vitb`."""
    return Run.parse(name).with_mto.name


def signed(value: float, digits: int = 1) -> str:
    """Returns `+0.3`, `−0.3`."""
    return f"{value:+.{digits}f}".replace("-", "−")
