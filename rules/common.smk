"""Functions that the rules use: what a step reads, what it is told, the hardware it gets. No rule is here."""

import hashlib
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import snakemake.jobs
import snakemake.scheduling.job_scheduler

#: Where this file's clone is. As a `module:` of another workflow, `workflow.basedir` would be that workflow's.
CLONE = Path(workflow.current_basedir).parent
SOURCE = f"{CLONE}/src"
sys.path.insert(0, SOURCE)  # this clone's package, installed or not

from mto.names import BASELINES, IMPORTED, RESTART, STAGES, TRAINED, Run, Step
from mto.runtime import attempts, devices, fewer_gpus, job_states, pass_on
from mto.runtime import slurm as cluster
from mto.runtime.preloaded import VARIABLE as SOCKET
from mto.config.reading import Source, kept, load, load_kept, read, resolve
from mto.data.bad_files import VARIABLE
from mto.data.forms.recognise import form_of, place_of
from mto.data.layout import check
from mto.errors import UserError
from mto.files import replacing
from mto.cost import preflight
from mto.study import report_jobs
from mto.report import page
from mto.study.study import Study
from mto.study.unused import unused
from mto.training import trackers


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


#: Names the kept copy of the settings to the jobs of a start.
SETTINGS = "MTO_SETTINGS"


def keep(content):
    """The file that has the content, below .snakemake, named by it."""
    file = Path(".snakemake/mto", f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json").resolve()
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return file


def hear_slurm():
    """In a Slurm job, let what tells Snakemake to stop reach the task too, which then saves and leaves."""
    if workflow.remote_exec:
        pass_on.pass_signals_on(snakemake.scheduling.job_scheduler.JobScheduler)


def prepare_shell():
    """Let the rules' `python` be the one that runs Snakemake, here and on a cluster's node, and its `mto` this clone's.

    Set as the shell's prefix, which Snakemake does not compare: another place of the clone re-queues nothing. An
    environment that Snakemake itself deploys (`--sdm conda`) brings its own Python. What becomes of bad files goes the
    same way: it is no part of a job.
    """
    python = "" if workflow.deployment_settings.deployment_method else f"{Path(sys.executable).parent}:"
    passed_over = {name: d.bad_files_limit for name, d in study.config.datasets if d.bad_files == "skip"}
    exports = f"PYTHONPATH={shlex.quote(SOURCE)} PATH={shlex.quote(python)}$PATH {VARIABLE}={shlex.quote(canonical(passed_over))}"
    if study.config.log != [trackers.DEFAULT]:
        told = trackers.settings(study.config.log, Path(study.results).resolve())
        exports += "".join(f" {name}={shlex.quote(value)}" for name, value in told.items())
    exports += f" {SOCKET}={shlex.quote(PRELOADED)}"
    in_a_job = pass_on.OUTLIVE if workflow.remote_exec else ""
    if in_a_job:  # OMP_NUM_THREADS is of the machine that submitted this job, and the cores are its own
        exports += " OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-}}"
    prefix = f"{STRICT}{in_a_job}export {exports}\n{KEEP_LOG_ALONE if shows_progress() else KEEP_LOG}"
    shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))


#: The socket of a process that has imported everything, in a folder that nobody else can read; "" where Snakemake runs no job itself.
PRELOADED = ""
if workflow.local_exec and not workflow.remote_exec and not workflow.deployment_settings.deployment_method:
    PRELOADED = f"{tempfile.gettempdir()}/mto-{secrets.token_hex(8)}/socket"
#: Jobs for which the ten seconds of importing everything are worth it.
WORTH_IT = 10
#: Keeps the process, and so its standard input, for as long as this one lives.
HELD = []


def start_preloaded():
    """Beside many jobs on CPUs, start a process that imports everything once: jobs are forked from it (`mto.runtime.preloaded`).

    Small networks train in seconds, and imports would take most of the time. It ends with this process, which holds the
    other end of its standard input. Jobs that begin before it listens start by themselves.
    """
    many = len(list(workflow.dag.needrun_jobs())) >= WORTH_IT
    if not PRELOADED or not many or any(study.resources(stage).gpu for stage in STAGES):
        return
    os.mkdir(os.path.dirname(PRELOADED), mode=0o700)
    os.makedirs(".snakemake/mto", exist_ok=True)
    with open(".snakemake/mto/preloaded.log", "w", encoding="utf-8") as log:
        HELD.append(
            subprocess.Popen(
                [sys.executable, "-m", "mto", "preload", PRELOADED],
                env=os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )


STRICT = "set -euo pipefail\n"
# Under a bar of progress the log is kept, and nothing shown.
KEEP_LOG_ALONE = """
keep_log() ( trap "" INT TERM USR1; cat > "$1" )
"""
# A copy of what is shown, where each line names its job. It outlives the signals on which a task saves and stops.
KEEP_LOG = """
keep_log() (
    trap "" INT TERM USR1
    name=${1#logs/*/}
    tee "$1" | while IFS= read -r line || [ -n "$line" ]; do printf "%s | %s\\n" "${name%.log}" "$line"; done
)
"""


def shows_progress():
    """Whether this process draws the bar of `--logger mto`, into which the lines of its own jobs would break."""
    settings = workflow.output_settings
    return workflow.local_exec and "mto" in settings.log_handler_settings and not settings.verbose


def require_datasets():
    """Stop before the first job if a dataset that the planned jobs read is not there; every problem is one line."""
    if workflow.cores == 0:
        sys.exit("--cores 0: no job can run; use --cores all, or a number from 1")
    jobs = workflow.dag.needrun_jobs()
    datasets = sorted({dataset for job in jobs if (dataset := reads(job))})
    problems = []
    for dataset in datasets:
        source = getattr(study.config.datasets, dataset)
        try:
            if source.make is None:
                root = place_of(source.root, getattr(source, "convert", None))
                check(dataset, root, classes=getattr(source, "classes", None), num_classes=source.num_classes)
                print(f"{dataset}: {form_of(dataset, root)}, at {root}", file=sys.stderr)
        except UserError as error:
            problems.append(f"config.yaml: {error}")
    if problems:
        sys.exit("\n".join(problems))


def require_trackers():
    """Stop before the first job if a tracker that `log` names is not installed; in one line."""
    if workflow.deployment_settings.deployment_method:
        return  # the jobs have an environment of their own
    try:
        trackers.refuse(study.config.log)
    except UserError as error:
        sys.exit(f"config.yaml: {error}")


def start_forced_jobs_over():
    """A job forced by the user begins at its first step: a task left to itself goes on, or publishes what it had made."""
    for job in workflow.dag.needrun_jobs():
        progress = Path(job.params.get("out", "."), "progress")
        if workflow.dag.reason(job).forced and progress.is_dir():
            (progress / RESTART).touch()


def require_gpus():
    """Stop before the first job if one would get other GPUs than its stage has in config.yaml; a line for each stage."""
    own = [job for job in workflow.dag.needrun_jobs() if stage_of(job.rule.name) or "stage" in job.wildcards_dict]
    jobs = [gpus_asked(job) for job in own if "gpu" in job.resources.keys()]
    if problems := fewer_gpus.problems(jobs, devices.count() if workflow.local_exec else None):
        sys.exit("\n".join(problems))


def gpus_asked(job):
    """The GPUs that a job is given, beside those that it should have."""
    stage = job.wildcards_dict.get("stage", stage_of(job.rule.name))
    asked = study.resources(stage)
    each = asked.nodes if job.rule.name == "preflight_stage" else 1
    return fewer_gpus.Asked(stage, asked.gpu // each, job.resources.gpu, asked.micro_batch)


def require_cluster():
    """Under Slurm, stop before the first job if the cluster cannot run or watch one; every problem is one line."""
    attempts.do_not_retry_refusals(snakemake.jobs.Job)
    settings = workflow.executor_settings
    plugin = sys.modules[type(settings).__module__]
    if plugin.__name__ != "snakemake_executor_plugin_slurm":
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    account = next((job.resources.get("slurm_account") for job in jobs), None)
    first_look = settings.init_seconds_before_status_checks
    watched = (settings.status_command, first_look, account, settings.array_jobs)
    if problems := cluster.problems(map(request, jobs), *watched):
        sys.exit("\n".join(problems))
    cluster.remember_min_job_age(plugin)
    cluster.submit_patiently(plugin)
    job_states.watch(plugin)


def request(job):
    """What a job asks of Slurm."""
    amounts = {name: job.resources.get(name, 0) for name in ("gpu", "cpus_per_task", "mem_mb", "runtime")}
    partition = job.resources.get("slurm_partition")
    stage = job.wildcards_dict.get("stage", stage_of(job.rule.name) or job.rule.name)
    return cluster.Request(stage, partition, **amounts, nodes=job.resources.get("nodes", 1))


def reads(job):
    """The dataset that a job reads, or None."""
    stage = STAGES.get(stage_of(job.rule.name))
    return stage.dataset if stage else job.wildcards_dict.get("dataset")


#: The stage of each rule that a GPU job has; datasets have resources of their own.
STAGE_OF = {stage.rule: name for name, stage in STAGES.items()} | {"pretrain_pilot": "pretrain", "dataset": "dataset"}


def stage_of(rule):
    """The stage of a rule, whatever a workflow that has this one as a module puts before its name; None of other rules."""
    return next((name for own, name in STAGE_OF.items() if rule == own or rule.endswith(f"_{own}")), None)


# ---------------------------------------------------------------------------------------- what a step reads and is told
def step_of(task, wildcards):
    """The step of a job. A file asked for by name may be one that the study does not have: that is one line."""
    step = Step(task, wildcards.run, *numbers(wildcards))
    known = {"seed": study.config.seeds, "epoch": study.epochs(task)}
    try:
        study.preset(Run.parse(step.run))
        study.require_own(step)
        for name, values in known.items():
            if getattr(step, name) not in values:
                raise UserError(f"the study has no such {name} (config.yaml: {', '.join(map(str, values))})")
    except UserError as error:
        sys.exit(f"{study.folder(step)}: {error}")
    return step


def numbers(wildcards):
    """Seed and epoch of a path. Another spelling than the study's is a folder that nothing else reads: that is one line."""
    seed, epoch = wildcards.seed, wildcards.epoch
    spelled_so = seed.isdecimal() and epoch.isdecimal() and (seed, epoch) == (str(int(seed)), f"{int(epoch):04d}")
    if not spelled_so:
        sys.exit(
            f"{wildcards.run}/seed{seed}/epoch{epoch}: no step is called so; it is spelled as in {wildcards.run}/seed0/epoch0100"
        )
    return int(seed), int(epoch)


def job(task):
    """A function of wildcards: all that a task sees, as JSON in one fixed order, since Snakemake compares text."""

    def resolved(wildcards):
        return canonical(study.job(step_of(task, wildcards)).plain())

    return resolved


def pilot_job(wildcards):
    return canonical(study.pilot_job(wildcards.run, *numbers(wildcards)).plain())


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def dataset_job(wildcards):
    return canonical(study.data_job(wildcards.dataset).plain())


def level_of(wildcards):
    """How closely a dataset is looked at: a resource, since a closer look must not re-queue what reads it."""
    return getattr(study.config.datasets, wildcards.dataset).verify


def preflight_job(wildcards):
    return canonical(preflight.job(study, wildcards.stage).plain())


def preflights(wildcards):
    """What was measured of each stage that the study has."""
    return [f"{study.results}/preflight/{stage}.json" for stage in TRAINED if study.select(stage)]


def given():
    """What the command line lays over config.yaml."""
    return canonical(source.given)


def results_job():
    return canonical(report_jobs.results_job(study))


def page_job():
    return canonical(page.job(study))


def report_job(wildcards):
    return canonical(report_jobs.report_job(study, wildcards.name))


def is_imported(wildcards):
    """A segment taken from a published checkpoint depends on nothing, so that nothing trains it over."""
    return Path(study.folder(step_of("pretrain", wildcards)), IMPORTED).exists()


def pretraining_data(wildcards):
    return [] if is_imported(wildcards) else f"{study.results}/data/imagenet/manifest.json"


def encoder_of(wildcards):
    """The pre-trained encoder; nothing from scratch, which is epoch 0."""
    step = Step("pretrain", wildcards.run, *numbers(wildcards))
    return [] if step.epoch == 0 else f"{study.folder(step)}/encoder.safetensors"


def previous_state(wildcards):
    """The training state that a segment continues; nothing for the first segment."""
    if is_imported(wildcards):
        return []
    before = study.previous(step_of("pretrain", wildcards))
    return [] if before is None else f"{study.folder(before)}/state.pth"


def pruning(wildcards):
    """Whether a segment reduces the state that it continued to its weights: not one that another run continues too."""
    before = study.previous(step_of("pretrain", wildcards))
    return "keep-state" if before and study.is_continued_twice(before) else "prune"


# --------------------------------------------------------------------------------------------------- what a target needs
def measured(target):
    """The metrics of every step of a stage or of a baseline, worked out when the target is asked for."""

    def of_target(wildcards):
        return metrics_of(study.select(target))

    return of_target


def targets():
    """The targets that measure something, by name: each baseline's and each stage's. Each with the message of its end."""
    baselines = {name: f"All of {baseline.title} is done" for name, baseline in BASELINES.items()}
    stages = {stage.target or name: f"Done for every run: {stage.title}" for name, stage in STAGES.items()}
    return baselines | stages


def metrics_of(steps):
    return [f"{study.folder(step)}/metrics.json" for step in steps]


def cells_of(wildcards):
    """The metrics behind one table or figure; the other files of their jobs lie beside them."""
    return metrics_of(study.steps(wildcards.name))


def measuring_encoders():
    """The stages that take a pre-trained encoder."""
    return [name for name, stage in STAGES.items() if stage.takes == "encoder"]


def made_by(stage):
    """The outputs of a stage that takes an encoder: its metrics, and a history where it trains."""
    files = {"metrics": "metrics.json"} | ({"history": "history.jsonl"} if STAGES[stage].trains else {})
    return {name: f"<results>/{stage}/<step>/{file}" for name, file in files.items()}


# ------------------------------------------------------------------------------------------------------------- hardware
#: What the command line of every task says of its place and its hardware, and where its words go.
ON_HARDWARE = (
    "--out {params.out:q} --gpus {resources.gpu} --nodes {resources.nodes}"
    " --workers {resources.workers} --micro-batch {resources.micro_batch} --{resources.compile}"
    " --memory {resources.memory}"
    " --deterministic {resources.deterministic} 2>&1 | keep_log {log:q}"
)


def hardware(stage):
    """A stage's resources for Snakemake and the task; they are never part of a job, so changing them re-queues nothing."""
    asked = study.resources(stage).model_dump()
    told = {
        "micro_batch": asked["micro_batch"] or 0,
        "mem_mb": memory(asked["mem_mb"]),
        "compile": "compile" if asked["compile"] else "no-compile",
        "deterministic": study.resources(stage).kernels,
    }
    return asked | told | steps(asked["nodes"])


def hardware_of_stage():
    """What a job of the stage gets that a wildcard names, on one of its nodes; two hours, for dozens of compilations."""

    def asked(name):
        def of_stage(wildcards):
            each = hardware(wildcards.stage)
            one_node = {
                "gpu": each["gpu"] // each["nodes"],
                "gpus_in_all": each["gpu"],
                "runtime": min(each["runtime"], 120),
            }
            return {**each, **one_node, "mem_mb": study.resources(wildcards.stage).mem_mb}[name]

        return of_stage

    names = "gpu gpus_in_all cpus_per_task mem_mb runtime workers micro_batch compile deterministic memory"
    return {name: asked(name) for name in names.split()}


def steps(nodes):
    """On several nodes the executor plugin leaves it to the task to start a step on each, which it calls MPI."""
    return {} if nodes == 1 else {"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}


def memory(mem_mb):
    """The memory of an attempt: more when earlier ones of this start ran out of it."""

    def of_attempt(wildcards, attempt, rulename):
        folder = getattr(workflow.executor_settings, "logdir", None)
        if attempt == 1 or folder is None:
            return mem_mb
        # Most attempts end at a time limit, which needs no more memory: Slurm's own logs tell which it was.
        return attempts.memory(mem_mb, attempts.slurm_logs(folder, rulename, wildcards), STARTED)

    return of_attempt


STARTED = time.time()


def watch():
    """How a pre-training with MTO is watched. It alters no result: like the hardware it is in no job, and re-queues nothing."""
    return {"guard": study.config.mto.guard or 0, "gradients": study.config.mto.gradient_interval or 0}
