"""The one training loop that every GPU stage shares, and what it is made of."""
