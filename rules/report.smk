"""results.csv, the tables, the figures, and the report that shows them all. Cheap: run where Snakemake runs, without torch.

Needs: each table and figure the metrics of its own cells and of no other; results.csv all of them; the report all of
       these, and the histories beside the metrics.
Makes: <results>/results.csv, <results>/tables/<name>.{csv,md,tex,json}, <results>/figures/<name>.{png,pdf},
       <results>/report.html.
"""


rule results:
    input:
        needs.metrics_of(study.segments() + study.steps()),
    output:
        "<results>/results.csv",
    log:
        "<logs>/report/results.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=canonical(report_jobs.results_job(study)),
        results=subpath(output[0], parent=True),
    message:
        "Every measured value, as {output}"
    shell:
        "python -m mto report results --job {params.job:q} --from-dir {params.results:q} --out {output:q} 2>&1 | keep_log {log:q}"


rule table:
    input:
        needs.cells_of,
    output:
        multiext("<results>/tables/{name}", ".csv", ".md", ".tex", ".json"),
    log:
        "<logs>/report/{name}.log",
    wildcard_constraints:
        name="|".join(study.tables),
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=report_job,
        results=subpath(output[0], ancestor=2),
        out=subpath(output[0], parent=True),
    message:
        "Table {wildcards.name}"
    shell:
        "python -m mto report table --job {params.job:q} --results {params.results:q} --out {params.out:q} 2>&1 | keep_log {log:q}"


rule figure:
    input:
        needs.cells_of,
    output:
        multiext("<results>/figures/{name}", ".png", ".pdf"),
    log:
        "<logs>/report/{name}.log",
    wildcard_constraints:
        name="|".join(study.figures),
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=report_job,
        results=subpath(output[0], ancestor=2),
        out=subpath(output[0], parent=True),
    message:
        "Figure {wildcards.name}"
    shell:
        "python -m mto report figure --job {params.job:q} --results {params.results:q} --out {params.out:q} 2>&1 | keep_log {log:q}"


rule report:
    input:
        rules.results.output,
        collect("<results>/tables/{name}.{form}", name=study.tables, form=["csv", "md", "tex", "json"]),
        collect("<results>/figures/{name}.{form}", name=study.figures, form=["png", "pdf"]),
    output:
        "<results>/report.html",
    log:
        "<logs>/report/report.log",
    localrule: True
    conda:
        "../envs/mto.yaml"
    params:
        job=canonical(page.job(study)),
        results=subpath(output[0], parent=True),
    message:
        "The report, as {output}"
    shell:
        "python -m mto report page --job {params.job:q} --results {params.results:q} --out {output:q} 2>&1 | keep_log {log:q}"
