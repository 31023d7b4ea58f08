"""New rewards from test results that are on the log already."""
