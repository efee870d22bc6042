"""Masked Token Optimization: the whole study. `snakemake --cores all` makes every table and figure.

The plan comes from config.yaml by way of `mto.study.study`; the stages are in rules/, in the order they run; README.md says more.
"""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"


study, source = read_study()
prepare_shell()
hear_slurm()


include: "rules/paths.smk"


wildcard_constraints:
    dataset="imagenet|ade20k|coco",


include: "rules/data.smk"
include: "rules/pretrain.smk"
include: "rules/classify.smk"
include: "rules/transfer.smk"
include: "rules/analysis.smk"
include: "rules/report.smk"
include: "rules/pilot.smk"
include: "rules/plan.smk"


onstart:
    require_datasets()
    require_gpus()
    start_forced_jobs_over()
    require_cluster()


# ------------------------------------------------------------------------------------------------------------ targets
rule all:
    default_target: True
    input:
        rules.results.output,
        collect("<results>/tables/{name}.{form}", name=study.tables, form=["csv", "md", "tex"]),
        collect("<results>/figures/{name}.{form}", name=study.figures, form=["png", "pdf"]),
        rules.report.output,
    message:
        "The whole study is done"


rule tables:
    input:
        collect("<results>/tables/{name}.{form}", name=study.tables, form=["csv", "md", "tex"]),
    message:
        "The tables are made"


rule figures:
    input:
        collect("<results>/figures/{name}.{form}", name=study.figures, form=["png", "pdf"]),
    message:
        "The figures are made"


rule simmim:
    input:
        measured("simmim"),
    message:
        "All of SimMIM is done"


rule mae:
    input:
        measured("mae"),
    message:
        "All of MAE is done"


rule bootmae:
    input:
        measured("bootmae"),
    message:
        "All of BootMAE is done"


rule conmim:
    input:
        measured("conmim"),
    message:
        "All of ConMIM is done"


rule pretrain:
    input:
        measured("pretrain"),
    message:
        "Every run is pre-trained"


rule finetune:
    input:
        measured("finetune"),
    message:
        "Every fine-tuning is done"


rule linear:
    input:
        measured("linear"),
    message:
        "Every linear probe is done"


rule ade20k:
    input:
        measured("ade20k"),
    message:
        "Every transfer to ADE20K is done"


rule coco:
    input:
        measured("coco"),
    message:
        "Every transfer to COCO is done"


rule analysis:
    input:
        measured("analysis"),
    message:
        "Every heterogeneity analysis is done"
