"""What workers leave to the device: both halves of decoding, colour jitter, geometric operations and normalisation."""
