"""``python -m mto.openmmlab SCRIPT ...``: run mmdetection's or mmsegmentation's own tools over the operator bridge.

python -m mto.openmmlab mmdetection/tools/train.py my_config.py --work-dir out

They import mmcv's operators before they read a config, so that no config can supply them. ``PlainViT`` is registered.
"""

import runpy
import sys

from mto.openmmlab.ops import install


def main() -> None:
    """Puts the bridge in place, then runs the script with the rest of the arguments."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    install()
    import mto.openmmlab.backbone  # noqa: F401

    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
