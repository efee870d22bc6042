"""The datasets.

Needs: at demo scale nothing; at paper scale the folders that `datasets` in config.yaml names.
Makes: <results>/data/<dataset>/manifest.json, last; at demo scale the dataset beside it, at paper scale nothing else:
       the dataset was found complete.
"""


rule dataset:
    output:
        "<results>/data/{dataset}/manifest.json",
    log:
        "<logs>/data/{dataset}.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=dataset_job,
        out=subpath(output[0], parent=True),
    message:
        "Dataset {wildcards.dataset}: made at demo scale, looked over at paper scale"
    shell:
        "python -m mto data --job {params.job:q} --out {params.out:q} 2>&1 | keep_log {log:q}"
