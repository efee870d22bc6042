"""What the study costs, and what this machine can do: to be asked before GPU hours are paid for. Nothing is trained.

Needs: nothing. What was measured already, the plan takes into account: <results>/preflight/ and finished jobs.
Makes: <results>/preflight/<stage>.json; and, each time anew, <results>/preflight.md and <results>/plan.{csv,md}.
"""


rule preflight_stage:
    output:
        "<results>/preflight/{stage}.json",
    log:
        "<logs>/preflight/{stage}.log",
    wildcard_constraints:
        stage="|".join(TRAINED),
    conda:
        "../envs/mto.yaml"
    threads: needs.hardware_of_stage()["cpus_per_task"]
    resources:
        **needs.hardware_of_stage(),
    params:
        job=preflight_job,
    message:
        "Measuring {wildcards.stage} on this machine: some steps of each method"
    shell:
        "python -m mto preflight --job {params.job:q} --out {output:q} --gpus {resources.gpus_in_all}"
        " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
        " --memory {resources.memory}"
        " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"


rule preflight:
    input:
        needs.preflights,
    log:
        "<logs>/preflight/preflight.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        given=given(),
    message:
        "Preflight: what this machine has, and how fast it is"
    shell:
        "python -m mto preflight --show --config {params.given:q} 2>&1 | tee {log:q}"


rule plan:
    log:
        "<logs>/report/plan.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        given=given(),
    message:
        "The plan: what the study costs, and what is left of it"
    shell:
        "python -m mto plan --config {params.given:q} 2>&1 | tee {log:q}"
