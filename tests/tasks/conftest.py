from pathlib import Path

import pytest
from tiny import make_images, pretrain_job, run


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def pretrained(images, tmp_path_factory):
    """The folder of a finished pre-training of a baseline; each is made once."""
    made: dict[str, Path] = {}

    def folder(baseline: str) -> Path:
        if baseline not in made:
            made[baseline] = run(pretrain_job(images, baseline), tmp_path_factory.mktemp(baseline))
        return made[baseline]

    return folder
