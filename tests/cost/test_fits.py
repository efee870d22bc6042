"""What fits a card, in words."""

from mto.cost.fits import NAME, table, told
from mto.files import write_json

ROWS = [
    {"stage": "pretrain", "run": "mae-vitb", "micro_batch": 64, "varies": True, "needs_mib": 5120.0, "fits": 128},
    {"stage": "pretrain", "run": "conmim-vitb-mto", "micro_batch": 64, "varies": False, "needs_mib": None, "fits": 32},
    {"stage": "finetune", "run": "mae-vitb", "micro_batch": 32, "varies": True, "error": "BF16 is not supported"},
    {"stage": "linear", "run": "mae-vitb", "micro_batch": 8, "varies": True, "needs_mib": 300.0, "fits": 16},
    {"stage": "coco", "run": "mae-vitb", "micro_batch": 8, "varies": False, "needs_mib": None, "fits": 0},
]
FOUND = {"gigabytes": 24, "compute_capability": "8.6", "rows": ROWS}


def test_a_row_says_what_it_needs_and_what_to_do():
    lines = table(FOUND)
    assert "| pretrain | mae-vitb | 64 | 5.0 | yes | 128 |" in lines
    assert "| pretrain | conmim-vitb-mto | 64 | more | no | 32 (batch norms see it) |" in lines
    assert any(
        line.startswith("- conmim-vitb-mto, pretrain: set resources.pretrain.micro_batch: 32, with") for line in lines
    )
    assert "- mae-vitb, finetune: BF16 is not supported" in lines
    assert "- mae-vitb, coco: use a larger card" in lines
    assert not any("not counted" in line for line in lines)
    assert "| coco | not counted: its regions depend on values | | | | |" in table(FOUND | {"left_out": ["coco"]})


def test_the_plan_says_a_line_for_each_stage(tmp_path):
    assert told(tmp_path) == []
    write_json(tmp_path / NAME, FOUND)
    assert told(tmp_path) == [
        "On an emulated card of 24 GB, compute capability 8.6:",
        "- pretrain: micro-batch 64 does not fit; the largest that fits is 32",
        f"- finetune: mae-vitb cannot start; see {tmp_path / NAME}",
        "- linear: micro-batch 8 fits; the largest that fits is 16",
        "- coco: micro-batch 8 does not fit; the largest that fits is none",
    ]
    (tmp_path / NAME).write_text("{")
    assert told(tmp_path) == []
