"""The study: its runs and steps, and the job of every rule. It needs neither torch nor the data."""
