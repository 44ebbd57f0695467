"""Things that can be asked of a model: outlines of structures, classes of cases."""
