"""Results leave in forms that others read: encoders for Hugging Face and timm, a scale's results as an RO-Crate."""
