"""A table before it is a file: columns, rows, notes; written as CSV (tidy), Markdown, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mto.errors import UserError
from mto.files import replacing
from mto.report.metrics import mean, std, write_csv
from mto.report.sources import source

UNKNOWN = "—"
MISSING = "missing"  # a value of ours that no job has made yet
#: Numbers of tables that the paper does not have.
OURS = ("Presets", "Audit", "Pilot")
RECORD = ("table", "scale", "run", "epoch", "paper_epoch", "metric", "mean", "std", "seeds", "paper", "delta")

_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "–": "--",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "✓": r"\checkmark{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "−": r"$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
}


class Column(NamedTuple):
    """A column's head: an optional group spanning its neighbours of the same name, its own name, and how it is set.

    `align` is l, r or c; X is text that wraps.
    """

    name: str
    group: str = ""
    align: str = "r"


@dataclass
class Sheet:
    """One table.

    Attributes:
        name: the file's stem and the LaTeX label.
        number: what the paper calls it, "Table 2".
        title: the caption, without the scale.
        scale_line: which scale, and how far comparable; part of the caption.
        rows: texts as shown, one a column.
        sources: where the numbers of the rows come from (`mto.report.sources`), one a text, of a sheet that was read.
        notes: sentences below the table.
        records: what is behind it, one a value, keys `fields`.
        fields: the columns of the CSV.
    """

    name: str
    number: str
    title: str
    scale_line: str
    columns: list[Column]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    fields: tuple[str, ...] = RECORD
    sources: list[list[str]] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Writes <name>.csv, .md, .tex and .json into `out`, each by atomic rename."""
        write_csv(out / f"{self.name}.csv", self.fields, self.records)
        for suffix, text in (("md", self.markdown()), ("tex", self.latex()), ("json", self.json())):
            with replacing(out / f"{self.name}.{suffix}") as partial:
                partial.write_text(text, encoding="utf-8")

    def json(self) -> str:
        """Returns the sheet as shown, without its records, for a page that lays it out anew; `read` gives it back."""
        shown = {**asdict(self), "columns": [column._asdict() for column in self.columns]}
        del shown["records"]
        shown["sources"] = [[source(text) for text in row] for row in self.rows]
        return json.dumps(shown, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Sheet:
        """Reads the sheet that `json` wrote.

        Raises:
            UserError: naming the file, if it is not one.
        """
        try:
            shown = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**shown, "columns": [Column(**column) for column in shown["columns"]]})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: not a table that `report table` wrote ({error}); make it again") from None

    def markdown(self) -> str:
        """Returns Markdown: a heading, the scale in bold, the table, the notes."""
        heads = [f"{c.group}: {c.name}" if c.group else c.name for c in self.columns]
        rules = [{"l": ":--", "r": "--:", "c": ":-:", "X": ":--"}[c.align] for c in self.columns]
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [heads, rules, *self.rows]
        ]
        notes = [f"- {note}" for note in self.notes]
        return (
            "\n".join([f"# {self.number}. {self.title}", "", f"**{self.scale_line}**", "", *lines, "", *notes]) + "\n"
        )

    def latex(self) -> str:
        r"""Returns a table environment for \input; its preamble needs booktabs, amssymb, graphicx and xltabular."""
        return "\n".join(self._latex_lines()) + "\n"

    def _latex_lines(self) -> Iterator[str]:
        wraps = any(column.align == "X" for column in self.columns)
        align = "".join(c.align for c in self.columns)
        whose = "" if self.number in OURS else f" ({self.number} of the paper.)"
        caption = escape(f"{self.title} {self.scale_line}{whose}")
        yield r"% \usepackage{booktabs,amssymb,graphicx,xltabular}"
        if wraps:  # as wide as the page, over as many pages as it takes
            yield r"{\footnotesize"
            yield f"  \\begin{{xltabular}}{{\\linewidth}}{{{align}}}"
            yield f"    \\caption{{{caption}}} \\label{{tab:{self.name}}} \\\\"
        else:  # scaled down where it is wider than the page
            yield r"\begin{table}"
            yield r"  \centering\small"
            yield f"  \\caption{{{caption}}}"
            yield f"  \\label{{tab:{self.name}}}"
            yield r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
            yield f"  \\begin{{tabular}}{{{align}}}"
        yield r"    \toprule"
        if any(column.group for column in self.columns):
            spans, rules, at = [], [], 1
            for group, members in groupby(column.group for column in self.columns):
                width = len(list(members))
                if group:
                    spans.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
                    rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
                else:
                    spans += [""] * width
                at += width
            yield f"    {' & '.join(spans)} \\\\"
            yield f"    {' '.join(rules)}"
        yield f"    {' & '.join(escape(column.name) for column in self.columns)} \\\\"
        yield r"    \midrule"
        for row in self.rows:
            yield f"    {' & '.join(map(escape, row))} \\\\"
        yield r"    \bottomrule"
        yield r"  \end{xltabular}" if wraps else r"  \end{tabular}}"
        for note in self.notes:
            yield f"  \\par\\smallskip\\footnotesize {escape(note)}"
        yield "}" if wraps else r"\end{table}"


def escape(text: str) -> str:
    """Escapes text for LaTeX: special characters, and our few symbols as commands."""
    return "".join(_LATEX.get(char, char) for char in text)


def spread(values: list[float], digits: int = 2) -> str:
    """Returns `83.57 ± 0.08` over seeds, the plain value for one seed, a dash where undefined, `missing` for none."""
    if not values:
        return MISSING
    if not all(map(math.isfinite, values)):
        return UNKNOWN
    deviation = std(values)
    center = f"{mean(values):.{digits}f}"
    return center if deviation is None else f"{center} ± {deviation:.{digits}f}"
