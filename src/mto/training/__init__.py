"""The one engine that every GPU stage shares: an mmengine Runner built from Python objects, plus our hooks."""
