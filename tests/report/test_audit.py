"""The audit: worked by hand here, computed from the committed numbers there; a changed number changes its verdict."""

import re

import pytest
from made_up_results import CONFIG
from test_tables import assert_balanced

from mto.config.compare import differences
from mto.config.reading import read
from mto.report import audit, printed
from mto.report.cli import main

RECIPES = [list(row) for row in differences(read(CONFIG))]

# Claim (its begin), verdict, what the arithmetic must show. Worked by hand from the paper's tables.
EXPECTED = [
    ("Minimising Eq. 5", "contradicted", "L_r = 2.63 where H falls (3, 2, 1) and 0.63 where it rises"),
    ("A row's entropy", "does not follow", "ln 1 = 0.00"),
    ("The same for n ≥ 2", "holds", "0.69"),
    ("RAUC's improvement over 200 to 400 epochs is 44, 22, 29, 17 %", "holds", "BootMAE 1.22 is +22 %"),
    ("RAUC's improvement over 100 to 400 epochs is 47, 19, 32, 21 %", "holds", "ConMIM 1.21 is +21 %"),
    ("Over 100 to 400 epochs the increase was amplified", "contradicted", "BootMAE 22 to 19 %"),
    ("SimMIM ViT-B: 54 % fewer epochs, within 300 to 400", "holds", "368 epochs"),
    ("MAE ViT-L: 43 % fewer epochs, within 300 to 500", "holds", "456 epochs"),
    ("MAE ViT-L: RAUC 1.20", "does not follow", "= 2.36; 2.30 to 2.4"),
    ("MAE ViT-B: RAUC 1.23", "does not follow", "= 2.09; 2.06 to 2.12"),
    ("BootMAE ViT-B: RAUC 1.22", "does not follow", "62.8 with MTO"),
    ("ConMIM ViT-B: RAUC 1.20", "does not follow", "= 2.09; 2.06 to 2.12"),
    ("BootMAE ViT-B: at 400 epochs", "cannot be checked", "63.8"),
    ("Relative improvements of 20 %", "holds", "+21 %"),
    ("All three objectives together", "holds", "+0.1"),
    ("Each objective contributes", "contradicted", "L_r takes 83.2 to 83.0"),
    (
        "SimMIM with MTO reaches the 800-epoch baseline",
        "does not follow",
        "83.5 at 400, SimMIM published 83.8 at 800: −0.3",
    ),
    ("MAE ViT-B on ADE20K, mIoU: 400 epochs", "contradicted", "44.1 − 47.5 = −3.4"),
    ("BootMAE ViT-B on ADE20K, mIoU: 400 epochs", "holds", "+0.3"),
    ("ConMIM ViT-B on ADE20K, mIoU: 400 epochs", "contradicted", "49.1 − 49.8 = −0.7"),
    ("MAE ViT-B on COCO, box AP: 400 epochs", "contradicted", "46.5 − 46.9 = −0.4"),
    ("BootMAE ViT-B on COCO, box AP: 400 epochs", "does not follow", "48.4 − 48.5 = −0.1"),
    ("MAE ViT-B on COCO, mask AP: MTO improves", "does not follow", "41.5 − 41.6 = −0.1"),
    ("BootMAE ViT-B on COCO, mask AP: MTO improves", "does not follow", "43.4 − 43.4 = +0.0"),
    ("ConMIM ViT-B on COCO, mask AP: MTO improves", "holds", "42.9 − 42.5 = +0.4"),
    ("SimMIM ViT-B: all configs follow", "contradicted", "finetune.layer_decay 0.9 for 0.65"),
    ("MAE ViT-L: all configs follow", "holds", "no printed field differs"),
    ("BootMAE ViT-B: all configs follow", "contradicted", "finetune.batch_size 1024 for 2048"),
]


@pytest.fixture
def numbers():
    """The paper's numbers, to be changed; what was read is forgotten afterwards."""
    yield printed
    printed.load.cache_clear()
    printed.elsewhere.cache_clear()


@pytest.mark.parametrize(("begin", "verdict", "shown"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_verdicts(begin, verdict, shown):
    (claim,) = [claim for claim in audit.claims(RECIPES) if claim.claim.startswith(begin)]
    assert claim.verdict == verdict
    assert shown in claim.arithmetic


def test_every_row_of_the_transfer_tables_is_judged_twice():
    claims = [
        claim
        for claim in audit.claims(RECIPES)
        if claim.where.startswith("Supplementary Table") and "on " in claim.claim
    ]
    transfers = [claim for claim in claims if re.search("on (ADE20K|COCO)", claim.claim)]
    assert len(transfers) == 2 * (3 + 6)


@pytest.mark.parametrize(
    ("table", "key", "value", "begin", "verdict"),
    [
        ("table2_linear", ("mae-vitl-mto", "rauc@400-800"), "2.36", "MAE ViT-L: RAUC 2.36", "holds"),
        ("table1_rauc", ("mae-vitb-mto", "rauc@200-400"), "1.40", "RAUC's improvement over 200", "contradicted"),
        ("tableS1_ade20k", ("mae-vitb-mto", "mIoU@400"), "47.5", "MAE ViT-B on ADE20K, mIoU: 400", "holds"),
        ("fig4_epochs", ("mae-vitl-mto", "saved_percent"), "30", "MAE ViT-L: 30 % fewer", "contradicted"),
        ("table3_objectives", ("simmim-vitb-mto", "top1@400"), "83.3", "All three objectives", "contradicted"),
    ],
)
def test_the_verdict_is_computed_from_the_numbers(numbers, monkeypatch, table, key, value, begin, verdict):
    original = numbers.load
    assert key in original(table)
    monkeypatch.setattr(numbers, "load", lambda name: original(name) | ({key: value} if name == table else {}))
    (claim,) = [claim for claim in audit.claims(RECIPES) if claim.claim.startswith(begin)]
    assert claim.verdict == verdict


def test_equal_recipes_follow_the_baseline():
    claims = [claim for claim in audit.claims([]) if "all configs" in claim.claim]
    assert {claim.verdict for claim in claims} == {"holds"}
    assert len(claims) == 5


def test_the_table_is_written(tmp_path):
    main(["table", "audit", "--config", str(CONFIG), "--results", str(tmp_path), "--out", str(tmp_path)])
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    assert lines[0] == "claim,where,arithmetic,verdict"
    assert len(lines) == 1 + len(audit.claims(RECIPES))
    assert_balanced((tmp_path / "audit.tex").read_text())
    markdown = (tmp_path / "audit.md").read_text()
    assert markdown.count("\n| ") == 2 + len(audit.claims(RECIPES))
