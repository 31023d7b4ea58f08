"""Workers that answer facts with facts: requirements, rebuilds, test verdicts, and the projection to PostgreSQL."""
