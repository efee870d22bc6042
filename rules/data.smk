"""The datasets.

Needs: the folders that `datasets` in config.yaml names; for a dataset that is made (`make`) nothing, or its maker's files.
Makes: <results>/data/<dataset>/manifest.json, last. Beside it lies a dataset that is made. Of one that was there, every
       file was looked at (`datasets.<dataset>.verify`): it is complete and sound, and of ImageNet listing.npz is written,
       which spares other jobs a walk through its folders. Of ImageNet also a cache, where `datasets.imagenet.cache` says.
"""


rule dataset:
    output:
        "<results>/data/{dataset}/manifest.json",
    log:
        "<logs>/data/{dataset}.log",
    conda:
        "../envs/mto.yaml"
    threads: needs.hardware("dataset")["cpus_per_task"]
    resources:
        **needs.hardware("dataset"),
        verify=needs.level_of,
    params:
        job=needs.dataset_job,
        out=subpath(output[0], parent=True),
    message:
        "Dataset {wildcards.dataset}: made, or looked over"
    shell:
        "python -m mto data --job {params.job:q} --out {params.out:q} --workers {resources.workers}"
        " --verify {resources.verify} 2>&1 | keep_log {log:q}"
