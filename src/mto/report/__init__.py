"""From measured values to results.csv, tables and figures. Nothing here imports torch, or a task.

metrics.py     metrics.json files, and the cells of one report
printed.py     the paper's printed numbers (src/mto/paper/*.csv)
curves.py      RAUC (Eq. 6) and epochs saved
comparison.py  a value of ours beside the paper's and others'
tables.py      the paper's five tables, as sheets; sheet.py writes a sheet as CSV, Markdown, LaTeX and JSON
audit.py       the paper's claims, preset_table.py MTO's presets, pilot.py the pilot: three tables beyond the paper
figures/       one file per figure; profiles.py is shared by Figure 1 and the `profile` command
page/          the report, one HTML file
cli.py         `python -m mto report results|table|figure|page|pilot|profile`
"""
