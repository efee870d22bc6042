"""Images that the device decodes. On a CPU it is the same code with libjpeg-turbo for nvJPEG, and has every bit of what
workers make; what only a GPU does is tested as far as it can be without one."""

import io
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms import InterpolationMode

from mto.data.device import decode as decoding
from mto.data.device.decode import Decode, ahead, on_own_stream, resize_in_floats
from mto.data.device.encoded import Cut, join
from mto.data.device.pixels import Pixels
from mto.data.imagenet import ClassificationDataset, PretrainDataset, build_loader, collate
from mto.data.sampler import EpochSampler
from mto.data.transforms import eval_transform, linear_train_transform, resize
from mto.errors import UserError
from typed_jobs import typed

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TEACHER = {"jitter": [0.4, 0.4, 0.2, 0.1], "jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.5, "solarize_prob": 0.2}
CPU = torch.device("cpu")
#: Of each image: suffix, options of Pillow's.
FILES = [
    ("JPEG", {"quality": 90}),
    ("JPEG", {"subsampling": 0}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"mode": "L"}),
    ("JPEG", {"mode": "CMYK"}),
    ("JPEG", {"turned": 6}),
    ("PNG", {}),
    ("JPEG", {"quality": 75, "subsampling": 1}),
]


def save(path, index: int, options: dict) -> None:
    random = np.random.default_rng(index)
    coarse = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    image = coarse.resize((90 + 7 * index, 75 - 5 * index), Image.Resampling.BICUBIC)
    options = dict(options)
    if mode := options.pop("mode", None):
        image = image.convert(mode)
    if orientation := options.pop("turned", None):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    image.save(path, **options)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of every kind in two classes, for training and for validation."""
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "val"):
        for index in range(24):
            suffix, options = FILES[index % len(FILES)]
            folder = root / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            save(folder / f"{index:02d}.{suffix}", index % len(FILES), options)
    return root


def job_of(root, kind: str, decode: str, crop: str = "no_retry") -> dict:
    data = {"root": str(root), "num_classes": 2, "mean": MEAN, "std": STD, "crop_scale": [0.2, 1.0], "hflip": 0.5}
    data |= {"interpolation": "bicubic", "decode": decode}
    if kind == "linear":
        evaluation = {"resize": 36, "crop": 32, "interpolation": "bicubic"}
        return {"seed": 0, "encoder": {"img_size": 32}, "data": data | {"crop": crop, "eval": evaluation}}
    data |= {"teacher": TEACHER} if kind == "conmim" else {}
    mask = {"sampler": "cells", "ratio": 0.6, "cell_size": 8} if kind in ("simmim", "conmim") else None
    mask = mask or {"sampler": "block_random" if kind == "bootmae" else "random", "ratio": 0.75}
    method = {"name": kind, "img_size": 32, "patch_size": 4}
    return {"seed": 0, "method": method, "mask": mask, "data": data}


def dataset_of(job: dict, split: str = "train"):
    if "method" in job:
        return PretrainDataset(typed(job), split)
    return ClassificationDataset(typed(job), split, linear_train_transform(typed(job)))


KINDS = [(name, "") for name in ("simmim", "mae", "bootmae", "conmim")] + [
    ("linear", "no_retry"),
    ("linear", "torchvision"),
]


@pytest.mark.parametrize(("kind", "crop"), KINDS)
def test_every_bit_is_a_workers(photographs, kind, crop):
    """Images, masks, labels and the teacher's colours of two epochs: photographs of all kinds in each batch."""
    jobs = {decode: job_of(photographs, kind, decode, crop) for decode in ("workers", "device")}
    pixels = {decode: Pixels.of(typed(job)) for decode, job in jobs.items()}
    data = {decode: dataset_of(job) for decode, job in jobs.items()}
    flipped = finished = 0
    for epoch in (0, 1):
        batches = {decode: collate([data[decode][epoch, index] for index in range(24)]) for decode in data}
        numbers = batches["device"]["encoded"].numbers
        finished += numbers.count(None)
        flipped += sum(each[-1] for each in numbers if each)
        assert "image" not in batches["device"]
        workers, device = (pixels[decode](batches[decode]) for decode in ("workers", "device"))
        assert workers.keys() == device.keys() == {"image"} | set(device) - {"encoded"}
        for name in workers:
            assert torch.equal(workers[name], device[name]), name
    assert finished == 2 * 6  # CMYK and PNG
    assert 0 < flipped < 2 * 18


def test_whole_squares_too(tmp_path):
    """Of which no box is drawn."""
    (tmp_path / "train" / "class0").mkdir(parents=True)
    Image.effect_noise((40, 40), 60).save(tmp_path / "train" / "class0" / "0.JPEG")
    views = []
    for decode in ("workers", "device"):
        job = job_of(tmp_path, "mae", decode)
        job["data"] |= {"num_classes": 1, "crop_scale": [1.0, 1.0]}
        data = PretrainDataset(typed(job))
        views.append(Pixels.of(typed(job))(collate([data[epoch, 0] for epoch in range(8)]))["image"])
    assert torch.equal(*views)


@pytest.mark.parametrize("workers", [0, 2])
def test_through_a_loader(photographs, workers):
    """The files are one piece of memory, which crosses from the workers in one go."""
    batches = {}
    for decode in ("workers", "device"):
        job = job_of(photographs, "mae", decode)
        data = PretrainDataset(typed(job))
        sampler = EpochSampler(len(data), seed=0, shuffle=True, drop_last_to=8)
        batches[decode] = [Pixels.of(typed(job))(batch) for batch in build_loader(data, sampler, 8, workers)]
    for plain, device in zip(batches["workers"], batches["device"], strict=True):
        assert torch.equal(plain["image"], device["image"])
        assert torch.equal(plain["mask"], device["mask"])


def test_validation_images_are_decoded_by_workers(photographs):
    job = job_of(photographs, "linear", "device")
    sample = ClassificationDataset(typed(job), "val", eval_transform(typed(job)))[3]
    plain = ClassificationDataset(typed(job_of(photographs, "linear", "workers")), "val", eval_transform(typed(job)))[3]
    assert torch.equal(sample["image"], plain["image"])


def test_a_batch_survives_what_pins_it(photographs):
    """torch's recursion through a batch, with a `pin_memory` that copies: no GPU is here."""
    data = PretrainDataset(typed(job_of(photographs, "mae", "device")))
    batch = collate([data[0, index] for index in range(8)])
    pixels = Pixels.of(typed(job_of(photographs, "mae", "device")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
        pinned = pin_memory(batch)
    assert pinned["encoded"].data is not batch["encoded"].data
    assert torch.equal(pixels(pinned)["image"], pixels(batch)["image"])


# ----------------------------------------------------------------------------------------------------- what goes wrong
def jpeg(index: int = 0, **options) -> bytes:
    file = io.BytesIO()
    coarse = np.random.default_rng(index).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC).save(file, "JPEG", **options)
    return file.getvalue()


def cut(data: bytes, path: str, whole=(30, 40)) -> Cut:
    return Cut(torch.frombuffer(bytearray(data), dtype=torch.uint8), (*whole, 2, 3, 20, 25, 1), path)


def test_a_file_that_the_decoder_refuses_is_decoded_by_the_cpu_and_the_others_as_ever(capsys, monkeypatch):
    import torchcodec.decoders

    whole, files = torchcodec.decoders.decode_jpeg, [cut(jpeg(n), f"{n}.JPEG") for n in range(3)]
    expected = Decode(16, "bicubic")(join(files), CPU)

    def picky(source, **options):
        every = source if isinstance(source, list) else [source]
        if any(torch.equal(each, files[1].data) for each in every):
            raise RuntimeError("decode_software, /__w/_core/DecodeJpegCuda.cpp:397, nvjpegDecode failed: 4")
        return whole(source, **options)

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", picky)
    assert torch.equal(Decode(16, "bicubic")(join(files), CPU), expected)
    told = "1.JPEG: decoded by the CPU, since the device's decoder refused it (nvjpegDecode failed: 4)\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2.00 GiB", "x.cpp:9, nvjpegDecode failed: 5"])
@pytest.mark.parametrize("at_once", [True, False])
def test_too_little_memory_is_no_files_fault(monkeypatch, words, at_once):
    """Else the pixels would depend on what else is on the GPU."""
    import torchcodec.decoders

    def full(source, **options):
        if isinstance(source, list) and source[0].numel() < 700:  # the small one that it is tried on
            return [torch.zeros(3, 16, 16)]
        raise RuntimeError(words if at_once or not isinstance(source, list) else "nvjpegDecode failed: 4")

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", full)
    with pytest.raises(RuntimeError, match=words.split(", ")[-1]):
        Decode(16, "bicubic")(join([cut(jpeg(n), f"{n}.JPEG") for n in range(3)]), CPU)


def test_a_file_that_nobody_decodes_is_named():
    damaged = jpeg()[:20] + b"\xff\xd9"
    with pytest.raises(UserError, match=r"^bad\.JPEG: not readable as an image .*copy it again from the dataset$"):
        Decode(16, "bicubic")(join([cut(jpeg(), "good.JPEG"), cut(damaged, "bad.JPEG")]), CPU)


def test_a_head_that_says_another_size_is_an_error():
    with pytest.raises(UserError, match=r"x\.JPEG: decoded to 30×40 pixels, but its head says 40×30; set "):
        Decode(16, "bicubic")(join([cut(jpeg(), "x.JPEG", whole=(40, 30))]), CPU)


def test_without_the_library_or_a_device_that_it_decodes_on_it_is_one_line(monkeypatch):
    line = r"decode: device needs TorchCodec, which does not decode here \(.*\); install .*, or set decode: workers$"
    with pytest.raises(UserError, match=line):  # on a GPU that is not there
        Decode(16, "bicubic")(join([cut(jpeg(), "x")]), torch.device("cuda", 0))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=line):
        Decode(16, "bicubic")(join([cut(jpeg(), "x")]), CPU)


def test_a_truncated_file_is_a_workers_matter(photographs, tmp_path):
    """So that the policy for bad files holds for it."""
    folder = tmp_path / "train" / "class0"
    folder.mkdir(parents=True)
    (folder / "0.JPEG").write_bytes(jpeg()[:-100])
    job = job_of(tmp_path, "mae", "device")
    job["data"]["num_classes"] = 1
    with pytest.raises(UserError, match=r"0\.JPEG: not readable as an image"):
        PretrainDataset(typed(job))[0, 0]


# ------------------------------------------------------------------------------------------------------------ on a GPU
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [[224, 224], [64, 48], [90, 75]])
def test_resizing_in_floats_is_within_rounding_of_resizing_bytes(interpolation, size):
    """Bytes are rounded, and cut off at 0 and 255, after each direction; floats once."""
    coarse = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (23, 31, 3), dtype=np.uint8))
    photograph = resize(coarse, [150, 180], InterpolationMode.BICUBIC)
    kind = InterpolationMode(interpolation)
    exact, bytes_ = resize_in_floats(photograph, size, kind), resize(photograph, size, kind)
    difference = (exact.int() - bytes_.int()).abs()
    assert exact.dtype == torch.uint8
    assert difference.float().mean() < 0.3
    assert difference.max() <= (1 if interpolation == "bilinear" else 3)
    same = resize_in_floats(photograph, [150, 180], kind)
    assert torch.equal(same, photograph)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_view_is_made_on_the_gpu_and_waits_for_nothing():
    mode = FakeTensorMode()
    with mode:
        pixels = torch.empty(3, 30, 40, dtype=torch.uint8, device="cuda")
        view = Decode(16, "bicubic").view(pixels, (30, 40, 2, 3, 20, 25, 1), "x")
    assert (view.shape, view.dtype, view.device.type) == ((16, 16, 3), torch.uint8, "cuda")


class Batches:
    """A loader's, numbered; says when each is asked for."""

    def __init__(self, count: int, said: list) -> None:
        self.count, self.said = count, said

    def __iter__(self):
        for number in range(self.count):
            self.said.append(f"load {number}")
            yield {"encoded": number, "label": number}


def test_batches_come_in_order_and_one_is_decoded_while_another_is_trained_on():
    said: list[str] = []
    main, began = threading.get_ident(), threading.Event()

    def decode(number: int) -> torch.Tensor:
        assert threading.get_ident() != main
        if number == 1:
            began.set()
        return torch.tensor(number)

    for step, batch in enumerate(ahead(iter(Batches(4, said)), decode)):
        assert batch == {"label": step, "image": torch.tensor(step)}
        said.append(f"train {step}")
        if step == 0:
            assert began.wait(10)  # the next one, though nobody asked for it yet
    assert said == ["load 0", "load 1", "train 0", "load 2", "train 1", "load 3", "train 2", "train 3"]


def test_what_decoding_raises_is_raised_in_its_turn():
    def decode(number: int) -> torch.Tensor:
        if number == 2:
            raise UserError("2.JPEG: no image")
        return torch.tensor(number)

    batches = ahead(iter(Batches(9, [])), decode)
    assert [next(batches)["label"] for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"2\.JPEG"):
        next(batches)


def test_what_the_loader_raises_is_raised():
    def broken():
        yield {"encoded": 0, "label": 0}
        raise UserError("a worker's")

    with pytest.raises(UserError, match="a worker's"):
        list(ahead(broken(), torch.tensor))


def test_leaving_in_the_middle_ends_the_thread():
    before, batches = threading.active_count(), ahead(iter(Batches(10**9, [])), torch.tensor)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("leaving", "code"), [("raise SystemExit(3)", 3), ("raise ValueError", 1), ("os.kill(os.getpid(), 15)", -15)]
)
def test_a_process_that_leaves_waits_for_no_more_than_the_batch_at_hand(leaving, code):
    script = f"""
import os, time
from mto.data.device.decode import ahead
batches = ahead(({{"encoded": n}} for n in range(10**9)), lambda n: (time.sleep(0.2), __import__("torch").tensor(n))[1])
next(batches)
{leaving}
"""
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert left.returncode == code
    assert b"Exception ignored" not in left.stderr


def test_on_a_stream_of_its_own_it_is_done_before_it_is_handed_over(monkeypatch):
    said: list[str] = []
    device = torch.device("cuda", 1)

    def make(of: torch.device) -> SimpleNamespace:
        said.append(f"stream on {of}")
        return SimpleNamespace(synchronize=lambda: said.append("synchronize"))

    @contextmanager
    def within(stream):
        said.append("enter")
        yield
        said.append("leave")

    monkeypatch.setattr(torch.cuda, "Stream", make)
    monkeypatch.setattr(torch.cuda, "stream", within)
    decoded = on_own_stream(lambda cuts, on: said.append(f"decode {cuts} on {on}") or "views", device)
    assert decoded("cuts") == "views"
    assert said == ["stream on cuda:1", "enter", "decode cuts on cuda:1", "leave", "synchronize"]


def test_what_another_stream_made_is_kept_until_this_one_has_used_it(monkeypatch):
    """The stream of whoever takes the batch, not of the thread that decoded it."""
    main, recorded = threading.get_ident(), []
    image = SimpleNamespace(is_cuda=True, device="cuda:1", record_stream=recorded.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: (device, threading.get_ident()))
    (batch,) = ahead(iter(Batches(1, [])), lambda number: image)
    assert batch["image"] is image
    assert recorded == [("cuda:1", main)]


@pytest.mark.parametrize(
    ("device", "decode", "threaded"), [("cuda", "device", True), ("cpu", "device", False), ("cuda", "workers", False)]
)
def test_only_a_gpu_decodes_ahead(photographs, monkeypatch, device, decode, threaded):
    monkeypatch.setattr(decoding, "on_own_stream", lambda decode, device: lambda cuts: decode(cuts, CPU))
    job = job_of(photographs, "mae", decode)
    data = PretrainDataset(typed(job))
    loader = build_loader(data, EpochSampler(len(data), seed=0, shuffle=True, drop_last_to=8), 8)
    model = SimpleNamespace(data_preprocessor=Pixels.of(typed(job)))
    batches = list(decoding.batches(loader, model, torch.device(device)))
    assert len(batches) == 3
    assert all(("image" in batch) == (threaded or decode == "workers") for batch in batches)
    assert all(("encoded" in batch) == (decode == "device" and not threaded) for batch in batches)
