"""Detectors of other libraries behind one interface, measured like our own and recorded in the same store."""
