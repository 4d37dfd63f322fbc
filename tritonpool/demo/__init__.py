"""Conjugated oligomers with computed gaps: the data of the demo and of the tests."""
