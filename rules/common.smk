"""What only Snakemake knows: its settings, its planned jobs, the shell that it starts. No rule is here.

What the rules ask of the study is in `mto.study.needs`, and what a start looks at in `mto.study.start`.
"""

import hashlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

import snakemake.jobs
import snakemake.scheduling.job_scheduler

#: Where this file's clone is. As a `module:` of another workflow, `workflow.basedir` would be that workflow's.
CLONE = Path(workflow.current_basedir).parent
SOURCE = f"{CLONE}/src"
sys.path.insert(0, SOURCE)  # this clone's package, installed or not

from mto.config.reading import Source, kept, load, load_kept, read, resolve
from mto.cost import preflight
from mto.errors import UserError
from mto.files import replacing
from mto.names import STAGES, TRAINED
from mto.report import page
from mto.runtime import attempts, devices, job_states, pass_on
from mto.runtime import slurm as cluster
from mto.study import report_jobs, shell as task_shell, start
from mto.study.needs import Needs, canonical, made_by, measuring_encoders, targets
from mto.study.study import Study
from mto.study.unused import unused

#: Names the kept copy of the settings to the jobs of a start.
SETTINGS = "MTO_SETTINGS"


def read_study():
    """The plan that the settings spell out, and what was read; a mistake in them is one line, and nothing starts.

    There is no `configfile:`, whose reader takes the last of two equal keys and knows no lines: Snakemake's `config` is
    what the command line says (`--config`, `--configfile`). A job on a cluster's node reads the rules and the settings
    anew, maybe days later, while Snakemake files it under the settings of its start: an edit in between would give
    results under settings that they were not made with. So a start keeps a copy of all that it read, for its jobs.
    """
    if {"{", "}"} & set(workflow.basedir):
        sys.exit(f"{workflow.basedir}: Snakemake takes braces in a path for wildcards; move the clone to one without")
    try:
        if workflow.remote_exec and SETTINGS in os.environ:
            settings, source = load_kept(os.environ[SETTINGS])
        else:
            source = read_as_a_module() or read("config.yaml", config)
            settings = load(source)
        study = Study(settings)
    except UserError as error:
        sys.exit(f"{error}")
    if workflow.is_main_process:
        for line in unused(study, resolve(source)):
            print(line, file=sys.stderr)
    if workflow.is_main_process and not workflow.dryrun:
        os.environ[SETTINGS] = str(keep(kept(source, settings)))
    return study, source


def read_as_a_module():
    """The settings of a workflow that has this one as a `module:`, whose `config:` gives them; None for the clone's own."""
    if Path(workflow.main_snakefile).resolve().parent == CLONE.resolve() or Path("config.yaml").exists():
        return None
    return Source({}, None, dict(config))


def keep(content):
    """The file that has the content, below .snakemake, named by it."""
    file = Path(".snakemake/mto", f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json").resolve()
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return file


def slurm_logs():
    """The folder of Slurm's own logs; None where Slurm runs no job."""
    return getattr(workflow.executor_settings, "logdir", None)


def hear_slurm():
    """In a Slurm job, let what tells Snakemake to stop reach the task too, which then saves and leaves."""
    if workflow.remote_exec:
        pass_on.pass_signals_on(snakemake.scheduling.job_scheduler.JobScheduler)


#: The socket of a process that has imported everything, in a folder that nobody else can read; "" where Snakemake runs no job itself.
PRELOADED = ""
if workflow.local_exec and not workflow.remote_exec and not workflow.deployment_settings.deployment_method:
    PRELOADED = f"{tempfile.gettempdir()}/mto-{secrets.token_hex(8)}/socket"
#: Keeps that process, and so its standard input, for as long as this one lives.
HELD = []


def prepare_shell():
    """What every task's shell begins with; an environment that Snakemake itself deploys brings its own Python."""
    settings = workflow.output_settings
    shell.prefix(
        task_shell.prefix(
            study,
            SOURCE,
            deployed=bool(workflow.deployment_settings.deployment_method),
            in_a_job=workflow.remote_exec,
            # Into the bar of `--logger mto` the lines of this process's own jobs would break.
            quiet=workflow.local_exec and "mto" in settings.log_handler_settings and not settings.verbose,
            socket=PRELOADED,
        )
    )


# ----------------------------------------------------------------------------------------------------- before the first job
def look_before_the_first_job():
    """Stop before the first job where one could not run; every problem is one line. Then get ready for the jobs."""
    if workflow.cores == 0:
        sys.exit("--cores 0: no job can run; use --cores all, or a number from 1")
    jobs = list(workflow.dag.needrun_jobs())
    stop_at(start.missing_datasets(study, jobs))
    if not workflow.deployment_settings.deployment_method:  # else the jobs have an environment of their own
        stop_at(start.missing_trackers(study))
    stop_at(start.missing_gpus(study, jobs, devices.count() if workflow.local_exec else None))
    start.start_forced_jobs_over([job for job in jobs if workflow.dag.reason(job).forced])
    require_cluster(jobs)
    on_cpus = not any(study.resources(stage).gpu for stage in STAGES)
    if PRELOADED and on_cpus and len(jobs) >= task_shell.WORTH_IT:
        HELD.append(task_shell.start_preloaded(PRELOADED, SOURCE))


def stop_at(problems):
    if problems:
        sys.exit("\n".join(problems))


def require_cluster(jobs):
    """Under Slurm, stop if the cluster cannot run or watch a job."""
    attempts.do_not_retry_refusals(snakemake.jobs.Job)
    settings = workflow.executor_settings
    plugin = sys.modules[type(settings).__module__]
    if plugin.__name__ != "snakemake_executor_plugin_slurm":
        return
    submitted = [job for job in jobs if not job.is_local]
    account = next((job.resources.get("slurm_account") for job in submitted), None)
    first_look = settings.init_seconds_before_status_checks
    watched = (settings.status_command, first_look, account, settings.array_jobs)
    stop_at(cluster.problems(map(start.request, submitted), *watched))
    cluster.remember_min_job_age(plugin)
    cluster.submit_patiently(plugin)
    job_states.watch(plugin)


# ------------------------------------------------------------------------------------- jobs that rooms above the study make
def preflight_job(wildcards):
    return canonical(preflight.job(study, wildcards.stage).plain())


def report_job(wildcards):
    return canonical(report_jobs.report_job(study, wildcards.name))


def given():
    """What the command line lays over config.yaml."""
    return canonical(source.given)


#: What the command line of every task says of its place and its hardware, and where its words go.
ON_HARDWARE = (
    "--out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
    " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
    " --memory {resources.memory}"
    " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"
)
