"""Replay: a run's rewards and updates made again from its facts alone, and compared with what the log says."""
