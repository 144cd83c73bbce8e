"""Libraries of the extras ``discover`` and ``crystals``, brought in when first used: one line where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from everlearn.errors import SettingError


def need(module: str, extra: str = "discover") -> ModuleType:
    """Import a library of an extra.

    Parameters
    ----------
    module : str
        Such as ``"rdkit.Chem"``.
    extra : str
        Which extra brings it.

    Raises
    ------
    SettingError
        If it is not installed: which one, and the command that brings it.

    Examples
    --------
    >>> need("math").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise SettingError(
            f"discovery needs {library}, which cannot be imported ({error}); "
            f"install it with: pip install 'everlearn[{extra}]'"
        ) from error
