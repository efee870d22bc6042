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


def test_what_keeps_less_is_advised_where_it_fits(tmp_path):
    rows = [
        {"run": "simmim-vitb", "varies": True, "needs_mib": None, "fits": 32},
        {"run": "conmim-vitb", "varies": False, "needs_mib": None, "fits": 32},
        {"run": "conmim-vitl", "varies": False, "needs_mib": None, "fits": 0},
        {"run": "mae-vitl", "varies": True, "needs_mib": None, "fits": 0},
    ]
    lean, least = ({"memory": name, "needs_mib": 20480.0, "fits": 64} for name in ("lean", "least"))
    spared = [lean, least, lean, {"memory": "least", "needs_mib": None, "fits": 16}]
    found = FOUND | {
        "rows": [
            {"stage": "pretrain", "micro_batch": 64, **row, "spared": one}
            for row, one in zip(rows, spared, strict=True)
        ]
    }
    costs = {"lean": "a tenth more memory traffic", "least": "a third more arithmetic"}
    option = {
        name: f"resources.pretrain.memory: {name}, which needs 20.0 GiB and costs {costs[name]}" for name in costs
    }
    fewer = "with which its batch norms see fewer images than the recipe's"
    assert table(found)[-4:] == [
        f"- simmim-vitb, pretrain: set {option['lean']}, or set resources.pretrain.micro_batch: 32",
        f"- conmim-vitb, pretrain: set {option['least']}, or set resources.pretrain.micro_batch: 32, {fewer}",
        f"- conmim-vitl, pretrain: set {option['lean']}",
        "- mae-vitl, pretrain: set resources.pretrain: memory: least, micro_batch: 16",
    ]
    write_json(tmp_path / NAME, found)
    assert told(tmp_path)[1].endswith("does not fit; the largest that fits is none")
    write_json(tmp_path / NAME, found | {"rows": found["rows"][:3]})
    assert told(tmp_path)[1].endswith(
        "; with memory: least the configured one fits, which costs a third more arithmetic"
    )
