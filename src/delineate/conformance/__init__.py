"""What every member of a room owes the house, as checks: one file a room.

Tests run them over every member of the package, and ``delineate check`` over a file of anybody's.
Such a file holds ``subjects(module, name)``, the forms in which a member is tried, ``FILE_CHECKS``
of its file, ``CHECKS`` of each form, and, where some take seconds, ``SLOW_CHECKS``. The first line
of a check is its rule; a check that fails raises ``BrokenRuleError``.
"""
