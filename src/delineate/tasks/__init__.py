"""One function a verb: the only place where rooms meet."""
