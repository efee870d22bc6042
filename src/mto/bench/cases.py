"""The stages that the bench measures, by the names of its command line. It needs no torch."""

from mto import names
from mto.names import TRAINED

#: name -> the task, and what the run's name adds to ``<baseline>-vitb``
STAGES = {"pretrain": ("pretrain", ""), "pretrain-mto": ("pretrain", "-mto")} | {
    name: (name, "-mto") for name in TRAINED if name != "pretrain"
}
#: tasks whose data path is measured too
WITH_LOADER = tuple(name for name in TRAINED if names.STAGES[name].dataset == "imagenet")
