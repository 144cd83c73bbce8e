"""Memory: the bounded set of remembered samples and the policies that decide who stays."""

from everlearn.memory.class_balanced import ClassBalanced
from everlearn.memory.host_classes import HostClasses
from everlearn.memory.memory import Memory, Remembered
from everlearn.memory.reservoir import reservoir

__all__ = ["ClassBalanced", "HostClasses", "Memory", "Remembered", "reservoir"]
