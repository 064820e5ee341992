"""Pages in one HTML file: a template with its style, its script and its data, and a policy that allows no other.

page.css and parts.js beside this file are what such pages have in common. The policy (Content-Security-Policy, W3C) names
the style and the script by their sha256, so that nothing in the data can run, and no request is allowed.
"""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def render(template: Path, scripts: list[Path], name: str, data: Any, **more: str) -> str:
    """The page: ``@@NAME@@`` in the template is the escaped name, ``@@DATA@@`` the data as JSON; more: other parts by name.

    The script is that of all pages, then `scripts` in order. What is filled in is never looked through again.
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "parts.js", *scripts))
    parts = {
        "POLICY": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "NAME": html.escape(name),
        "STYLE": style,
        "DATA": _as_json(data),
        "SCRIPT": script,
        **more,
    }
    pieces = template.read_text(encoding="utf-8").split("@@")  # text, NAME, text, NAME, ...
    return "".join(parts[piece] if at % 2 else piece for at, piece in enumerate(pieces))


def _as_json(data: Any) -> str:
    """JSON that no parser of HTML takes for anything else."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
