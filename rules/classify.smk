"""ImageNet-1K with labels: fine-tuning and linear probing of a pre-trained encoder.

Needs: ImageNet-1K, and the encoder of the same run, seed and epoch.
Makes: <results>/finetune/<step>/ and <results>/linear/<step>/: metrics.json (top1, top5 in percent), history.jsonl.
"""


rule finetune_encoder:
    input:
        data="<results>/data/imagenet/manifest.json",
        encoder=encoder_of,
    output:
        metrics="<results>/finetune/<step>/metrics.json",
        history="<results>/finetune/<step>/history.jsonl",
    log:
        "<logs>/finetune/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: hardware("finetune")["cpus_per_task"]
    resources:
        **hardware("finetune"),
    params:
        job=job("finetune"),
        out=subpath(output.metrics, parent=True),
    message:
        "Fine-tuning {wildcards.run} from epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto finetune --job {params.job:q} --inputs data={input.data} encoder={input.encoder}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"


rule linear_probe:
    input:
        data="<results>/data/imagenet/manifest.json",
        encoder=encoder_of,
    output:
        metrics="<results>/linear/<step>/metrics.json",
        history="<results>/linear/<step>/history.jsonl",
    log:
        "<logs>/linear/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: hardware("linear")["cpus_per_task"]
    resources:
        **hardware("linear"),
    params:
        job=job("linear"),
        out=subpath(output.metrics, parent=True),
    message:
        "Linear probe of {wildcards.run} at epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto linear --job {params.job:q} --inputs data={input.data} encoder={input.encoder}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"
