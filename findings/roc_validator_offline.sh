#!/usr/bin/env bash
# roc-validator 0.13.0: offline, and with nothing in its cache, it calls a crate that it could not read "not valid".
#
# Guess, written down first: `--offline` without the JSON-LD context in the cache ends with a line that names the context, and with
# no verdict on the crate. (The profiles come with the package, the contexts do not.)
# Seen: "[FAILED] RO-Crate is not a valid ro-crate-1.1 !!!" and exit code 1, as for a crate with faults. What could not be
#   fetched is in a warning of the log report.
# Hurt: whoever validates on a compute node or in CI without the network: the exit code cannot tell a fault from a missing download.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check roc-validator==0.13.0 rocrate==0.16.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
from rocrate.rocrate import ROCrate

crate = ROCrate(version="1.1")
crate.name, crate.description = "A crate", "One file, described"
crate.license = "https://spdx.org/licenses/MIT"
with open("value.txt", "w") as file:
    file.write("61\n")
crate.add_file("value.txt", properties={"name": "a value", "encodingFormat": "text/plain"})
crate.write("crate")
PY
code=0
COLUMNS=200 "$work/venv/bin/rocrate-validator" --no-interactive --disable-color validate --offline --cache-path "$work/cache" \
    --profile-identifier ro-crate-1.1 --no-paging crate > told.txt 2>&1 || code=$?
grep -a "FAILED\|not available" told.txt
echo "exit code $code"
test "$code" = 1
grep -aq "FAILED.*is not a valid ro-crate-1.1" told.txt
grep -aq "is not available in the HTTP cache" told.txt
echo "as found"
