"""`mto.starts_at`: the plan of runs with MTO that leave the run without it, whose segments they share."""

from __future__ import annotations

import pytest
from test_study import study

from mto.cost.parts import needed
from mto.errors import UserError
from mto.names import Run, Step
from mto.study.study import Study


@pytest.fixture(scope="module")
def warm() -> Study:
    return study(mto__starts_at=100)


def pretrain(run: str, epoch: int) -> Step:
    return Step("pretrain", run, 0, epoch)


def test_a_run_with_mto_continues_the_run_without(warm: Study) -> None:
    assert warm.previous(pretrain("mae-vitb-mto", 200)) == pretrain("mae-vitb", 100)
    assert warm.previous(pretrain("mae-vitb-mto", 300)) == pretrain("mae-vitb-mto", 200)
    assert warm.previous(pretrain("simmim-vitb-mto_spa", 400)) == pretrain("simmim-vitb", 100)
    assert warm.previous(pretrain("mae-vitb-mto-depth2", 400)) == pretrain("mae-vitb-depth2", 100)
    assert warm.previous(pretrain("mae-vitb-depth2", 100)) is None  # trained for this alone
    assert warm.chain(pretrain("mae-vitb-mto", 300)) == [pretrain("mae-vitb-mto", 200), pretrain("mae-vitb", 100)]


def test_what_both_share_is_planned_once(warm: Study) -> None:
    cold = study()
    with_mto = {run.name for run in cold.runs() if run.terms}
    assert {s for s in cold.segments() if s.run in with_mto and s.epoch == 100}
    assert not {s for s in warm.segments() if s.run in with_mto and s.epoch <= 100}
    assert {s for s in warm.steps() if s.epoch <= 100} == {
        s for s in cold.steps() if s.epoch <= 100 and s.run not in with_mto
    }
    depths = {pretrain(f"mae-vitb-depth{depth}", 100) for depth in (1, 2, 4, 12)}
    added = set(warm.segments()) - set(cold.segments())
    assert depths <= added
    assert all(step.epoch == 100 and not Run.parse(step.run).terms for step in added)
    assert set(warm.segments()) >= {step for s in warm.segments() if (step := warm.previous(s))}


def test_only_what_has_mto_changes(warm: Study) -> None:
    cold = study()
    for step in warm.segments():
        before, after = cold.job(step).plain(), warm.job(step).plain()
        if Run.parse(step.run).terms:
            assert after["mto"].pop("starts_at") == 100
        assert before == after


def test_a_state_with_two_heirs_is_kept_whole(warm: Study) -> None:
    assert warm.is_continued_twice(pretrain("mae-vitb", 100))
    assert not warm.is_continued_twice(pretrain("mae-vitb", 200))
    assert not warm.is_continued_twice(pretrain("mae-vitb-depth2", 100))  # trained for one heir alone, which prunes it
    assert not warm.is_continued_twice(pretrain("mae-vitb-mto", 200))


def test_a_part_needs_the_segments_that_it_shares(warm: Study) -> None:
    asked = Step("finetune", "mae-vitb-mto", 0, 300)
    lead = {pretrain("mae-vitb-mto", 300), pretrain("mae-vitb-mto", 200), pretrain("mae-vitb", 100)}
    assert needed(warm, [asked]) == {asked, *lead}


def test_a_preset_has_its_own(warm: Study) -> None:
    late = {"base": "cosine", "starts_at": 400}
    both = study(mto__presets__late=late, mto__starts_at=100)
    assert both.starts_at(Run.parse("mae-vitb-mto@late")) == 400
    assert both.starts_at(Run.parse("mae-vitb-mto")) == 100
    assert both.previous(pretrain("mae-vitb-mto@late", 800)) == pretrain("mae-vitb", 400)
    assert both.job(pretrain("mae-vitb-mto@late", 800)).plain()["mto"]["starts_at"] == 400
    cold = study(mto__presets__cold={"base": "cosine", "starts_at": 0}, mto__starts_at=100)
    assert "starts_at" not in cold.job(pretrain("mae-vitb-mto@cold", 800)).plain()["mto"]


@pytest.mark.parametrize("epoch", [50, 800])
@pytest.mark.parametrize("place", ["mto__starts_at", "mto__presets__text__starts_at"])
def test_an_epoch_at_which_no_segment_ends(place: str, epoch: int) -> None:
    with pytest.raises(
        UserError, match=rf"{place.replace('__', '.')} {epoch}: must be 0 or one of .*100, 200, 300, 400"
    ):
        study(**{place: epoch})


def test_a_file_that_is_another_runs(warm: Study) -> None:
    with pytest.raises(
        UserError, match=r"has MTO after epoch 100 .* ask for results/paper/pretrain/mae-vitb/seed0/epoch0100"
    ):
        warm.job(pretrain("mae-vitb-mto", 100))
