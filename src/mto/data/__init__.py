"""Datasets, transforms, the demo data, and the rule that every random draw is a function of (seed, epoch, sample)."""
