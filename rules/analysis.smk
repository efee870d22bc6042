"""Heterogeneity (Eq. 2) of a pre-trained model, layer by layer, and the affinity between its tokens.

Needs: ImageNet-1K's validation images, and the whole model of the same run, seed and epoch.
Makes: <results>/heterogeneity/<step>/ heterogeneity.csv (a row per stream, layer, variant and image), affinity.npz,
       metrics.json.
"""


rule heterogeneity:
    input:
        data="<results>/data/imagenet/manifest.json",
        method="<results>/pretrain/<step>/state.pth",
    output:
        table="<results>/heterogeneity/<step>/heterogeneity.csv",
        affinity="<results>/heterogeneity/<step>/affinity.npz",
        metrics="<results>/heterogeneity/<step>/metrics.json",
    log:
        "<logs>/heterogeneity/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: needs.hardware("heterogeneity")["cpus_per_task"]
    resources:
        **needs.hardware("heterogeneity"),
    params:
        job=needs.job("heterogeneity"),
        out=subpath(output.metrics, parent=True),
    message:
        "Heterogeneity of {wildcards.run} at epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto heterogeneity --job {params.job:q} --inputs data={input.data} method={input.method}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"
