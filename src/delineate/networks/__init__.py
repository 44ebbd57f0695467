"""One file a network. The catalog finds them by file name."""
