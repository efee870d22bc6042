"""The key `datasets.imagenet.classes`: which class folders are looked at, as a list or as the path of a text file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

#: Lists that come with the package are called by their file's name alone.
SHIPPED = Path(__file__).parents[1] / "data"


def read(given: Any) -> Any:
    """Reads the file that is named, without blank lines and those that begin with #; returns a list as it is."""
    if not isinstance(given, str):
        return given
    path = Path(given) if Path(given).exists() else SHIPPED / given
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ValueError(f"{given}: {what}; give a list of class folders, or a file with one a line") from None
    return [name for line in lines if (name := line.strip()) and not name.startswith("#")]


def sorted_folders(names: list[str]) -> list[str]:
    """Sorts class folders by their labels, so that jobs do not depend on the order in which a list was written.

    Raises:
        ValueError: a name is there twice, or is not that of a folder.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{repeated[0]} is there twice")
    if wrong := [name for name in names if "/" in name or name.startswith(".") or name != name.strip() or not name]:
        raise ValueError(f"'{wrong[0]}' is no folder's name")
    return sorted(names)


#: Lists that come with the package, and whose they are.
KNOWN = {"imagenet100.txt": "Tian et al.'s list (HobbitLong/CMC)"}


def described(names: list[str]) -> str:
    """Returns which list of classes it is, for captions: whose, how long, and the first digits of a hash of its lines.

    Several lists of a hundred classes are called ImageNet-100; accuracies on two of them must not be compared.
    """
    whose = next((of for file, of in KNOWN.items() if sorted(read(file)) == names), "a list of one's own")
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    return f"{whose} of {len(names)} classes, SHA-256 {digest[:12]}"


Classes = Annotated[
    list[str],
    Field(min_length=2),
    AfterValidator(sorted_folders),
    BeforeValidator(read, json_schema_input_type=list[str] | str),
]
