"""From measured values to results.csv, tables and figures. Nothing here imports torch, or a task.

metrics.py   metrics.json files, and the cells of one report
printed.py   the paper's printed numbers (src/mto/paper/*.csv)
curves.py    RAUC (Eq. 6) and epochs saved
tables.py    the five tables, as sheets; sheet.py writes a sheet as CSV, Markdown, LaTeX and JSON
figures/     one file per figure; profiles.py is shared by Figure 1 and the `profile` command
cli.py       `python -m mto report results|table|figure|profile`
"""
