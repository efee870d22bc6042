"""TensorBoard curves, by TensorBoard's own record writer: ``torch.utils.tensorboard`` takes long to import."""

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class CurveWriter:
    """Scalars over steps.

    Args:
        directory: of the event files; a resumed run adds one.
        first_step: TensorBoard hides what earlier files have at this step and after (the steps that a crash lost).
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        self._writer = EventFileWriter(str(directory))
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, step: int, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._writer.close()
