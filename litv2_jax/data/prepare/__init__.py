"""Data sets made ready to be read at random."""
