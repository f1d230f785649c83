"""Everything that touches PostgreSQL, Redis or the log archive. Imports `models`, and no other room.

PostgreSQL holds the facts. Redis holds hints and throttles: whatever is in it may vanish, and nothing is lost.
"""
