"""The learner: opens rounds, folds rewards into policy updates, commits them to the log."""
