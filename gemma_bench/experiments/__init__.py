"""One question each: a configuration, scales, and a run that returns a record."""
