"""Locate the bundled pipelines, registries and samples."""

from pathlib import Path


def asset(*parts: str) -> Path:
    """A path inside ``pipelines``, ``weights`` or ``data``, in a checkout or in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_assets"
    return (installed if installed.is_dir() else package.parent).joinpath(*parts)
