"""What tests of every room share: waiting for conditions, workers as real processes, rows put in a state."""
