"""A dataset of mmseg or mmdet whose bad files are one line, or are passed over where the config says so."""

from functools import partial
from typing import Any

from torch.utils.data import Dataset

from mto.data.bad_files import policy
from mto.data.images import fault
from mto.errors import StorageError, UserError
from mto.storage import again


class Readable(Dataset):
    """The dataset itself, but an exception on a file that cannot be read becomes a `UserError` that names the file.

    Of an unreadable training image, where the config passes over those, the next one stands in (`mto.data.bad_files`).

    Args:
        dataset: mmseg's or mmdet's.
        name: "ade20k" or "coco".
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.policy = policy  # travels with the dataset into the loader's workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        for shift in range(len(self)):
            place = (index + shift) % len(self)
            try:
                # What fails so is the reading of files, which comes before any draw: another attempt draws the same.
                return again(partial(self.dataset.__getitem__, place), f"{self.name}, sample {place}")
            except StorageError:
                raise
            except Exception as error:
                info = self.dataset.get_data_info(place)
                known = error if isinstance(error, UserError) else self._of_annotation(info)
                if known is None:  # the files are sound: a mistake of the code keeps its traceback
                    error.add_note(f"while a sample was made of {info['img_path']}")
                    raise
                if self.dataset.test_mode:
                    raise known from error
                self.policy.pass_over(self.name, info["img_path"], known)
        raise UserError(f"datasets.{self.name}: no image can be read")

    def _of_annotation(self, info: dict[str, Any]) -> UserError | None:
        """Returns what is wrong with a sample's annotation file; mmdet's samples have the key, and None under it."""
        path = info.get("seg_map_path")
        what = fault(path, decode=True, label=True) if path else None
        return UserError(f"{path}: {what}; copy it again from the dataset") if what else None

    def __getattr__(self, name: str) -> Any:
        # Reached only for names this wrapper lacks. While unpickling, `dataset` itself is not there yet.
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)
