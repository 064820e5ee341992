"""The packages that a format needs, which are extras of this project. Imports nothing heavy."""

from importlib.util import find_spec

from finetune.errors import RunError


def require(extra: str, *packages: str) -> None:
    """Raise RunError if a package of an extra is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RunError(
            f"{extra} needs packages that are not installed",
            got=f"no {', '.join(missing)}",
            do=f"Install them with: pip install 'gpt2-finetune[{extra}]'",
        )
