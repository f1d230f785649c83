"""What a run is: its rows, its states, its timing, and the pure rules over them.

This room imports no other room. Every decision here is a function of values, `now` included, that returns a
named outcome; it knows no session, no Redis and no clock. The rooms that do I/O load, ask, apply and announce.
"""
