"""The paper's tables and figures as commands, one folder each: `python -m studies.table1b_gamma`."""
