"""Masked Token Optimization (ECCV 2024): the losses as a library, and the study that reproduces the paper.

``from mto import MaskedTokenOptimization, heterogeneity`` works on the hidden states of any model. Both are imported on
first use: the Snakefile imports this package too and must stay free of torch.
"""

__all__ = ["MaskedTokenOptimization", "heterogeneity"]


def __getattr__(name: str):
    if name in __all__:
        from mto.losses import mto as objectives

        return getattr(objectives, name)
    raise AttributeError(f"module 'mto' has no attribute '{name}'")
