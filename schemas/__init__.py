"""The vocabulary: every fact this system records, and how it is written to the wire."""
