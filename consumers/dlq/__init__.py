"""Dead letters: which there are, what each record owed, and having it worked on again after a fix."""
