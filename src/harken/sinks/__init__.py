"""
The sinks that ship with harken, each in its own room; none is imported until it is asked for.
"""
