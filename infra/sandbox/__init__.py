"""Where untrusted code runs: its own process, no network, read-only files, hard limits, a verdict decided outside."""
