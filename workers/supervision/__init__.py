"""The duties of a worker of runs beside its tasks, a file each; `workers/supervisor.py` has their threads.

followed    which runs this worker follows
vouching    heartbeat of the worker; proof of life for its runs, in the database or, failing that, in Redis
stopping    stop what was told to stop, was revoked, or is overdue
burying     end work of this host that is owed its end, whichever worker it was of
adopting    follow what other workers have left
tidying     have adapters forget what they keep here of closed attempts
draining    hand over or end what is followed, when the worker is asked to stop
"""
