"""Jobs as the study resolves them, in small, and the demo's digits as an image folder."""

import pytest

from mto.data.demo import make_imagenet

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """60 + 20 digits, 24 pixels."""
    root = tmp_path_factory.mktemp("digits")
    make_imagenet(root, size=24, train=60, val=20)
    return root


@pytest.fixture
def teacher():
    """ConMIM's colour change, as config.yaml gives it."""
    jitter = [0.4, 0.4, 0.2, 0.1]
    return {"jitter": jitter, "jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.1, "solarize_prob": 0.2}


@pytest.fixture
def pretrain_job(digits):
    pixels = {"root": str(digits), "num_classes": 10, "mean": MEAN, "std": STD}
    return {
        "seed": 0,
        "method": {"name": "mae", "img_size": 24, "patch_size": 4},
        "mask": {"sampler": "random", "ratio": 0.75},
        "data": {**pixels, "crop_scale": [0.2, 1.0], "interpolation": "bicubic", "hflip": 0.5},
    }


@pytest.fixture
def finetune_job(digits):
    augment = {
        "crop_scale": [0.08, 1.0],
        "interpolation": "bicubic",
        "hflip": 0.5,
        "color_jitter": 0.4,
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "reprob": 0.25,
    }
    evaluation = {"resize": 28, "crop": 24, "interpolation": "bicubic"}
    pixels = {"root": str(digits), "num_classes": 10, "mean": MEAN, "std": STD}
    return {"seed": 0, "encoder": {"img_size": 24}, "data": {**pixels, "augment": augment, "eval": evaluation}}


@pytest.fixture
def linear_job(finetune_job):
    data = {k: v for k, v in finetune_job["data"].items() if k != "augment"}
    crop = {"crop": "no_retry", "crop_scale": [0.08, 1.0], "interpolation": "bicubic", "hflip": 0.5}
    return {**finetune_job, "data": {**data, **crop}}
