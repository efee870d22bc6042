"""What the study costs (``snakemake plan``), and what this machine can do (``snakemake preflight``)."""
