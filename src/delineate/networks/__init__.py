"""One file a network. The catalog finds them by file name.

A critic whose scores have a place offers ``score_map(x: (B, C', *S)) -> (B, K, *S)`` beside
``forward``: prediction writes it as a map, where a method has kept the critic.
"""
