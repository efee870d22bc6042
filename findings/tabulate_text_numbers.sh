#!/usr/bin/env bash
# tabulate 0.10.0 under pandas 3.1.1: a column of texts that all look like numbers is printed as other texts.
#
# Guess, written down first: what is text in the data frame is printed as it is by to_markdown.
# Seen: "61.20" becomes 61.2 and "7.10" becomes 7.1; beside one text that is no number, both stay.
# Hurt: whoever rounds accuracies to two digits before printing: the last zero is gone, and rows of one table differ in digits.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check tabulate==0.10.0 pandas==3.1.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import pandas

rounded = pandas.DataFrame({"top1": ["61.20", "7.10"]}).to_markdown(index=False)
beside_text = pandas.DataFrame({"top1": ["61.20", "7.10", "missing"]}).to_markdown(index=False)
print(rounded, beside_text, sep="\n\n")
assert "61.20" not in rounded and "61.2" in rounded, rounded
assert "61.20" in beside_text, beside_text
print("as found")
PY
