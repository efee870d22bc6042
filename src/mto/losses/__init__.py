"""Masked Token Optimization itself: the losses, and what measures their effect. It needs torch alone."""
