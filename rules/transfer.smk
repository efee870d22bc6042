"""Transfer of a pre-trained encoder: UPerNet on ADE20K, Mask R-CNN on COCO.

Needs: the dataset, and the encoder of the same run, seed and epoch.
Makes: <results>/ade20k/<step>/ and <results>/coco/<step>/: metrics.json (mIoU; box_ap, mask_ap; in percent), history.jsonl.
"""


rule ade20k_upernet:
    input:
        data="<results>/data/ade20k/manifest.json",
        encoder=encoder_of,
    output:
        metrics="<results>/ade20k/<step>/metrics.json",
        history="<results>/ade20k/<step>/history.jsonl",
    log:
        "<logs>/ade20k/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: hardware("ade20k")["cpus_per_task"]
    resources:
        **hardware("ade20k"),
    params:
        job=job("ade20k"),
        out=subpath(output.metrics, parent=True),
    message:
        "UPerNet on ADE20K with {wildcards.run} at epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto ade20k --job {params.job:q} --inputs data={input.data} encoder={input.encoder}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"


rule coco_maskrcnn:
    input:
        data="<results>/data/coco/manifest.json",
        encoder=encoder_of,
    output:
        metrics="<results>/coco/<step>/metrics.json",
        history="<results>/coco/<step>/history.jsonl",
    log:
        "<logs>/coco/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: hardware("coco")["cpus_per_task"]
    resources:
        **hardware("coco"),
    params:
        job=job("coco"),
        out=subpath(output.metrics, parent=True),
    message:
        "Mask R-CNN on COCO with {wildcards.run} at epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto coco --job {params.job:q} --inputs data={input.data} encoder={input.encoder}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"
