"""What mkdocs calls while it builds the site: files of the checkout that a page links to become pages of the site.

On the web pages of a repository a link such as ../finetune/models/gpt.py leads to the file. The site holds docs/ alone, so
each linked file gets a page under files/, and each link is rewritten.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
PICTURES = (".png", ".svg")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".jinja": "jinja", ".cpp": "cpp"}
targets: dict[str, str] = {}  # path in the checkout -> path in the site


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file outside docs/ that a page links to, and for those that these link to."""
    root = Path(config.config_file_path).parent
    targets.clear()
    todo = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while todo:
        path, text = todo.pop()
        for target in linked(root, path, text):
            if target in targets or target.startswith("docs/"):
                continue
            file = root / target
            if file.suffix in PICTURES:
                targets[target] = f"files/{target}"
                files.append(File.generated(config, targets[target], content=file.read_bytes()))
                continue
            content = file.read_text(encoding="utf-8")
            targets[target] = f"files/{target.removesuffix('.md')}.md"
            if file.suffix == ".md":
                todo.append((target, content))
            else:
                fence = "`" * 8
                content = f"# {target}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{content}\n{fence}\n"
            files.append(File.generated(config, targets[target], content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead each link to a file outside docs/ to its page."""
    root, here = Path(config.config_file_path).parent, page.file.src_uri
    origins = {site: path for path, site in targets.items()}
    origin = origins.get(here, f"docs/{here}")

    def rewritten(link: re.Match[str]) -> str:
        target = resolve(root, origin, link[1])
        if target is None:
            folder = root / posixpath.dirname(origin) / link[1]
            return "#" if folder.is_dir() else link[0]  # a folder without a README has no page
        site = target.removeprefix("docs/") if target.startswith("docs/") else targets[target]
        return posixpath.relpath(site, posixpath.dirname(here) or ".") + (link[2] or "")

    return LINK.sub(rewritten, markdown)


def linked(root: Path, path: str, text: str) -> list[str]:
    """The files of the checkout that a page links to."""
    found = (resolve(root, path, link[1]) for link in LINK.finditer(text))
    return [target for target in found if target is not None]


def resolve(root: Path, page: str, link: str) -> str | None:
    """The file that a relative link leads to, a folder's README for a folder; None for any other link."""
    if re.match(r"\w+:", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (root / target).is_dir():
        target = posixpath.join(target, "README.md")
    return target if (root / target).is_file() else None
