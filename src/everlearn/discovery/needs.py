"""Libraries of the extra ``discover``: brought in when first used, with one clear line where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from everlearn.errors import SettingError


def need(module: str) -> ModuleType:
    """Import a library of the extra ``discover``.

    Parameters
    ----------
    module : str
        Such as ``"rdkit.Chem"``.

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
            "install it with: pip install 'everlearn[discover]'"
        ) from error
