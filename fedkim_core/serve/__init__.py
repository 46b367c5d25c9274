"""``fedkim serve``: a run's model behind an HTTP interface and a page, for one machine or ward.

No login and no encryption: it listens on this machine only unless told otherwise, and then belongs
behind a proxy that has both. What is sent is kept in memory and in a temporary folder until it is
decoded, and never logged.
"""
