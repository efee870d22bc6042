"""What training costs on this machine: ``python -m mto bench``."""
