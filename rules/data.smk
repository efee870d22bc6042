"""The datasets.

Needs: at demo scale nothing; at paper scale the folders that `datasets` in config.yaml names.
Makes: <results>/data/<dataset>/manifest.json, last; at demo scale the dataset beside it, at paper scale nothing else:
       every file was looked at (`datasets.<dataset>.verify`), and the dataset is complete and sound.
"""


rule dataset:
    output:
        "<results>/data/{dataset}/manifest.json",
    log:
        "<logs>/data/{dataset}.log",
    conda:
        "../envs/mto.yaml"
    threads: hardware("dataset")["cpus_per_task"]
    resources:
        **hardware("dataset"),
        verify=level_of,
    params:
        job=dataset_job,
        out=subpath(output[0], parent=True),
    message:
        "Dataset {wildcards.dataset}: made at demo scale, looked over at paper scale"
    shell:
        "python -m mto data --job {params.job:q} --out {params.out:q} --workers {resources.workers}"
        " --verify {resources.verify} 2>&1 | keep_log {log:q}"
