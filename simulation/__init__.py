"""A fleet in virtual time, judged by the real decisions of `models.reaping`: whom would the reaper reap, and when?

Pure computation: no database, no broker, no clock, no thread. Needs numpy, which comes with the extra `simulation`.
"""
