"""Masked Token Optimization: the whole study. `snakemake --cores all` makes every table and figure.

The plan comes from config.yaml by way of `mto.study.study`; the stages are in rules/, in the order they run; README.md says more.
"""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"


study, source = read_study()
needs = Needs(study, slurm_logs)
prepare_shell()
hear_slurm()


include: "rules/paths.smk"


wildcard_constraints:
    dataset="imagenet|ade20k|coco",


include: "rules/data.smk"
include: "rules/pretrain.smk"
include: "rules/encoders.smk"
include: "rules/analysis.smk"
include: "rules/report.smk"
include: "rules/pilot.smk"
include: "rules/plan.smk"


onstart:
    look_before_the_first_job()


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


for _target, _done in targets().items():

    rule:
        name:
            _target
        input:
            needs.measured(_target),
        message:
            _done
