"""Memory: the bounded set of remembered samples and the policies that decide who stays."""

from everlearn.memory.class_balanced import ClassBalanced
from everlearn.memory.memory import Memory, Remembered
from everlearn.memory.reservoir import reservoir

__all__ = ["ClassBalanced", "Memory", "Remembered", "reservoir"]
