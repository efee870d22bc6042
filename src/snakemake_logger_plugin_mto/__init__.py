"""`snakemake --logger mto`: one line of progress for a whole start, and what went wrong above it.

On a terminal a bar stands in the last line: jobs done, what runs, the time left. Elsewhere (a file, CI) there is a line
for each kind of job that is finished. Failures are told with their logs when they happen and once more at the end. The
words of the tasks go to their log files alone, and all that Snakemake says to its own log in .snakemake/log. A dry run
and `--verbose` look as they do without this plugin.

Snakemake finds it by the name of the package. It knows nothing of the study.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

WIDTH = 24
#: Two redraws of the bar are at least so many seconds apart.
REDRAW = 0.2


class Running(NamedTuple):
    """A job that has begun: its rule and message, and when, in seconds since 1970."""

    rule: str
    message: str
    since: float


class Progress:
    """Counts the jobs of a start, and reckons the time that is left.

    Args:
        planned: rule -> number of its jobs.
    """

    def __init__(self, planned: dict[str, int]) -> None:
        self.planned = planned
        self.done: Counter[str] = Counter()
        self.failed = 0
        self.running: dict[Any, Running] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._most = 1  # jobs that ran at once so far

    def begins(self, job: Any, rule: str, message: str, now: float) -> None:
        self.running[job] = Running(rule, message, now)
        self._most = max(self._most, len(self.running))

    def ends(self, job: Any, now: float, *, failed: bool = False) -> str | None:
        """Notes the end of a job; returns its rule if that was the rule's last."""
        begun = self.running.pop(job, None)
        if failed:
            self.failed += 1
            return None
        if begun is None:
            return None
        self.done[begun.rule] += 1
        self._seconds[begun.rule].append(now - begun.since)
        return begun.rule if self.done[begun.rule] == self.planned.get(begun.rule) else None

    def left(self, now: float) -> float | None:
        """Returns the seconds left: of each rule's jobs as long as its finished ones took, as many at once as so far.

        None until a job has finished.
        """
        known = [seconds for times in self._seconds.values() for seconds in times]
        if not known:
            return None
        overall = sum(known) / len(known)
        mean = {rule: sum(times) / len(times) for rule, times in self._seconds.items() if times}
        begun = Counter(job.rule for job in self.running.values())
        work = 0.0
        for rule, planned in self.planned.items():
            work += max(planned - self.done[rule] - begun[rule], 0) * mean.get(rule, overall)
        for job in self.running.values():
            work += max(mean.get(job.rule, overall) - (now - job.since), 0.0)
        return work / self._most

    def line(self, now: float) -> str:
        """Returns `[#####      ] 81 of 175 jobs, finetune_encoder runs, about 4 min left`."""
        done, total = sum(self.done.values()), sum(self.planned.values())
        bar = "#" * (WIDTH * done // max(total, 1))
        rules = Counter(job.rule for job in self.running.values())
        runs = ", ".join(rule if number == 1 else f"{number} {rule}" for rule, number in sorted(rules.items()))
        parts = [f"{done} of {total} jobs", *([f"running: {runs}"] if runs else [])]
        parts += [f"{self.failed} failed"] if self.failed else []
        left = self.left(now)
        parts += [f"about {duration(left)} left"] if left is not None and done < total else []
        return f"[{bar:{WIDTH}}] {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Returns `40 s`, `12 min`, `5 h` or `3 days`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


class LogHandler(LogHandlerBase):
    """What Snakemake calls with each of its events, in one thread."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings: Any = self.common_settings
        self.stream = sys.stdout if settings.stdout else sys.stderr
        self.terminal = self.stream.isatty()
        self.progress: Progress | None = None
        self.failures: list[str] = []
        self._drawn = 0.0
        self._usual: logging.Handler | None = None
        if settings.dryrun or settings.verbose or settings.debug_dag:
            self._usual = ColorizingTextHandler(nocolor=settings.nocolor, stream=self.stream)
            self._usual.addFilter(
                DefaultFilter(
                    settings.quiet, settings.debug_dag, settings.verbose, settings.dryrun, settings.printshellcmds
                )
            )
            self._usual.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))

    def emit(self, record: logging.LogRecord) -> None:
        if self._usual is not None:
            self._usual.handle(record)
            return
        event, told = getattr(record, "event", None), record.__dict__
        now = time.time()
        if event == LogEvent.RUN_INFO and self.progress is None:
            self.progress = Progress({rule: jobs for rule, jobs in told["stats"].items() if rule != "total"})
        elif event == LogEvent.JOB_INFO and self.progress is not None:
            rule = told["rule_name"]
            self.progress.begins(told["jobid"], rule, told.get("rule_msg") or rule, now)
        elif event == LogEvent.JOB_FINISHED and self.progress is not None:
            complete = self.progress.ends(told["job_id"], now)
            if complete and not self.terminal:
                self._say(f"{complete}: done. {self.progress.line(now)}")
        elif event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            self._fails(told, now)
        elif event == LogEvent.ERROR or (record.levelno >= logging.WARNING and event is None):
            self._say(record.getMessage())
        self._draw(now)

    def close(self) -> None:
        if self._usual is None and self.progress is not None:
            self._draw(time.time(), at_once=True)
            if self.terminal:
                self.stream.write("\n")
            if self.failures:
                self._say("Failed:\n" + "\n".join(dict.fromkeys(self.failures)))
            self.stream.flush()
            self.progress = None
        super().close()

    def _fails(self, told: dict[str, Any], now: float) -> None:
        """Tells of a failed job: what it was, what its executor says, where its logs are."""
        what = str(told.get("rule_name") or "a group of jobs")
        if self.progress is not None and told.get("jobid") in self.progress.running:
            what = self.progress.running[told["jobid"]].message
            self.progress.ends(told["jobid"], now, failed=True)
        said = [str(told["rule_msg"])] if told.get("rule_msg") else []
        lines = [what, *said, *(f"see {path}" for path in told.get("log") or [])]
        self.failures.append("\n".join(f"  {line}" if number else f"- {line}" for number, line in enumerate(lines)))
        self._say(f"Failed: {lines[0]}\n" + "\n".join(f"    {line}" for line in lines[1:]))

    def _say(self, text: str) -> None:
        """Writes lines that stay, above the bar."""
        self.stream.write(("\r\033[K" if self.terminal else "") + text.rstrip() + "\n")
        self.stream.flush()

    def _draw(self, now: float, *, at_once: bool = False) -> None:
        if self.progress is None or not self.terminal or (not at_once and now - self._drawn < REDRAW):
            return
        self._drawn = now
        self.stream.write(f"\r\033[K{self.progress.line(now)}")
        self.stream.flush()
