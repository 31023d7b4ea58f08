"""The lab: a small language of list programs, and models small enough to learn it on a laptop."""
