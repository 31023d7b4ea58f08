"""Folds over the log: rewards gathered from the verdicts of a draft's rebuilds."""
