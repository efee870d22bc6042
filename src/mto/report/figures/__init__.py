"""One file per figure, each a function from a report to a matplotlib Figure; `style.save` writes it as PNG and PDF."""
