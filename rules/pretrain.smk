"""Pre-training, as a chain of segments of one schedule: each ends at a measured epoch and continues the one before.

Needs: ImageNet-1K, and the training state of the segment before, if there is one.
Makes: <results>/pretrain/<step>/ encoder.safetensors (timm's key names), state.pth (all it takes to continue),
       metrics.json, history.jsonl. Progress inside a segment is in progress/, undeclared: it survives Snakemake's retries.
       A segment that is done reduces the state it continued to its weights, which keeps that file's time (--prune); not
       where a run with MTO and the run without it both continue it (mto.starts_at).
"""


rule pretrain_segment:
    input:
        data=needs.pretraining_data,
        state=needs.previous_state,
    output:
        encoder="<results>/pretrain/<step>/encoder.safetensors",
        state="<results>/pretrain/<step>/state.pth",
        metrics="<results>/pretrain/<step>/metrics.json",
        history="<results>/pretrain/<step>/history.jsonl",
    log:
        "<logs>/pretrain/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: needs.hardware("pretrain")["cpus_per_task"]
    resources:
        **needs.hardware("pretrain"),
        **needs.watch(),
        state=needs.pruning,
    params:
        job=needs.job("pretrain"),
        out=subpath(output.metrics, parent=True),
    message:
        "Pre-training {wildcards.run} up to epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        "python -m mto pretrain --job {params.job:q} --inputs data={input.data} state={input.state}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
        " --memory {resources.memory}"
        " --deterministic {resources.deterministic} --guard {resources.guard} --gradients {resources.gradients}"
        " --{resources.state} 2>&1 | keep_log {log:q}"
