"""Runs and their attempts in PostgreSQL, a file for each thing that happens to them.

    add, read              store.py
    claim, take back       claims.py
    resend                 resends.py
    record what started    attempts.py
    refresh                refresh.py
    finish, retry          ends.py
    end owed work          terminations.py
    late output, result    late.py

Every statement that changes a run repeats its conditions (status, epoch) in itself and says whether it applied: two
workers may always be doing the same thing at once, and the second does nothing. What two statements ask for alike is in
`conditions.py`. Functions that take a `connection` are part of the caller's transaction.
"""
