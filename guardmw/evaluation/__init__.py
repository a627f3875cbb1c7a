"""Measuring guards on labelled rows: reading, judging, figures with intervals, streams, and the report.

Imported by `guardmw eval` alone; it may use numpy at the top of its modules, nothing heavier.
"""
