"""Notifications: whoever wants to know hears of a run's end, by webhook and by mail.

Belongs here: what a message says, how it goes out, what became of it. Does not belong here: when a run has ended
(``defs``), the settings. No error text holds a webhook's path or a password: both are secrets.
"""
