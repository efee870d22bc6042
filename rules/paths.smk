"""Where everything lies: the words in angle brackets in the rules' paths. Snakemake 8 cannot read this file."""


pathvars:
    results=study.results,
    logs=f"logs/{study.config.scale}",
    step="{run}/seed{seed}/epoch{epoch}",
