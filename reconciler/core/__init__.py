"""The core decides. It is pure: no clock, no I/O, no environment; the same facts always give the same answer.

It may import the standard library, jsonschema and PyYAML (which here only turns bytes into nodes).
"""
