#!/usr/bin/env bash
# onedl-mmengine 0.10.12 (the maintained fork of mmengine): a configuration with the key "class" cannot be written.
#
# Guess, written down first: a key that is no name of Python's, such as "a-b" or "class", survives `dump` and `fromfile`.
# Seen: "a-b" and "1a" do, as keys of a dict in braces. "class" is written as dict(class=1), and `dump` ends with a SyntaxError, since
#   str.isidentifier() calls a keyword an identifier.
# Hurt: whoever has a configuration from JSON or YAML with a key such as class, from, lambda or global: mmengine's
#   runner dumps its configuration before it trains (Runner.dump_config, read and not run here).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 "onedl-mmengine==0.10.12" setuptools
cd "$work"
"$work/venv/bin/python" - <<'PY'
from mmengine import Config

for key in ("a-b", "1a", "class", "lambda"):
    config = Config({"model": {key: 1, "depth": 2}})
    try:
        config.dump("dumped.py")
        said = "read back alike" if Config.fromfile("dumped.py").to_dict() == config.to_dict() else "read back otherwise"
    except SyntaxError:
        said = "SyntaxError"
    print(f"{key}: {said}")
    assert said == ("SyntaxError" if key in ("class", "lambda") else "read back alike"), key
print("as found")
PY
