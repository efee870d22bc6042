"""Does a logged row show that masked tokens have become one? Plain Python, for the guard and for the pilot's table."""

from __future__ import annotations

from collections.abc import Mapping

#: A method predicts a constant above this part of a constant prediction's loss.
CONSTANT = 0.98
#: Masked tokens are one above this mean cosine, or with more than this share nearest to the same visible token.
COSINE, SHARE = 0.99, 0.9


def collapsed(row: Mapping[str, float]) -> str | None:
    """Returns what in a row of history.jsonl shows a collapse, in words; None if nothing does.

    Both are needed: a loss no better than one patch's for all masked ones of an image, and masked tokens that are one.
    Healthy masked tokens may be as close (0.99 on photographs), and every network starts with a constant. Of several
    streams one is enough. A row without the measures, as a validation's, shows nothing.
    """
    ratio = row.get("constant_ratio", 0.0)
    for name in row if ratio > CONSTANT else ():
        stream = name.removesuffix("masked_cosine")
        cosine, share = row[name], row.get(f"{stream}modal_share", 0.0)
        if stream != name and (cosine > COSINE or share > SHARE):
            return (
                f"its loss is {ratio:.2f} of a constant patch's, its masked tokens are one (mean cosine {cosine:.2f}, "
                f"{share:.0%} of them nearest to the same visible token)"
            )
    return None
