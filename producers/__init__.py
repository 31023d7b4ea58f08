"""Where facts come from: applications found, generated, checked and registered."""
