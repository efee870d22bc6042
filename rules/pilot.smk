"""The pilot: a small share of the schedule for each method, without and with each asked preset of MTO, and a verdict on it.

Needs: ImageNet-1K.
Makes: <results>/pilot/<step>/ (what a segment of pre-training makes, in a folder of its own: the study never continues it),
       <results>/pilot/pilot.{csv,md}, which `snakemake pilot` prints. Remove <results>/pilot when it has been read.
"""


rule pretrain_pilot:
    input:
        data="<results>/data/imagenet/manifest.json",
    output:
        metrics="<results>/pilot/<step>/metrics.json",
        history="<results>/pilot/<step>/history.jsonl",
    log:
        "<logs>/pilot/<step>.log",
    conda:
        "../envs/mto.yaml"
    threads: needs.hardware("pretrain")["cpus_per_task"]
    resources:
        **needs.hardware("pretrain"),
        **needs.watch(),
    params:
        job=needs.pilot_job,
        out=subpath(output.metrics, parent=True),
    message:
        "Pilot of {wildcards.run}: up to epoch {wildcards.epoch}, seed {wildcards.seed}"
    shell:
        # No guard: what collapses is to be in the table.
        "python -m mto pretrain --job {params.job:q} --inputs data={input.data}"
        " --out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
        " --memory {resources.memory}"
        " --deterministic {resources.deterministic} --guard 0 --gradients {resources.gradients} 2>&1 | keep_log {log:q}"


rule pilot:
    input:
        [f"{folder}/metrics.json" for folder in study.pilot_folders()],
    output:
        multiext("<results>/pilot/pilot", ".csv", ".md"),
    log:
        "<logs>/pilot/pilot.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=canonical(study.pilot_report_job()),
        results=subpath(output[0], ancestor=2),
    message:
        "The pilot's table"
    shell:
        "python -m mto report pilot --job {params.job:q} --results {params.results:q} 2>&1 | tee {log:q}"
