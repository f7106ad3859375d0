"""Identifiers and units shared by all rooms; imports nothing of ours."""

from typing import NewType

ModelName = NewType("ModelName", str)
Generation = NewType("Generation", int)  # the nth spawn of an instance, counted from 1; 0: none yet

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
