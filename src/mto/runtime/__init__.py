"""What a job needs of the machine: locks, processes, devices, Slurm. It needs neither torch nor the data at import."""
