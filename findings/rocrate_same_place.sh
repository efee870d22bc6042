#!/usr/bin/env bash
# rocrate 0.16.0: of two files that are added to one place of a crate, the first vanishes without a word.
#
# Guess, written down first: a second source for a place that is taken is an error, or a warning at least.
# Seen: the crate lists one file there and holds the second one's content. The same goes for two people, or two actions, of one
#   identifier.
# Hurt: whoever packs results of several runs by file name: one metrics.json stands for all of them, and the crate is valid.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check rocrate==0.16.0
cd "$work"
mkdir first second
echo '{"top1": 61}' > first/metrics.json
echo '{"top1": 72}' > second/metrics.json
"$work/venv/bin/python" -W error - <<'PY'
import logging
from pathlib import Path

from rocrate.rocrate import ROCrate

logged = []
handler = logging.Handler()
handler.emit = logged.append
logging.getLogger().addHandler(handler)

crate = ROCrate()
crate.add_file("first/metrics.json")
crate.add_file("second/metrics.json")
crate.write("crate")
listed = [entity.id for entity in crate.data_entities]
content = Path("crate/metrics.json").read_text().strip()
print("listed:", listed, "content:", content, "logged:", len(logged))
assert listed == ["metrics.json"], listed
assert "72" in content, content
assert not logged, logged
print("as found")
PY
