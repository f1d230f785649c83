"""The long tour: a whole system under faults of every kind, and an account of everything afterwards.

python -m tests.soak --minutes 30 [--scale 10] [--runs 200] [--seed 1]
"""
