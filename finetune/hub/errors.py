"""Translate errors of the download clients for users."""

import errno
import re

from finetune.errors import FetchError

ELSEWHERE = (
    "Connect, point HF_ENDPOINT at a hub that can be reached, or put the files into the directory "
    "that FINETUNE_MIRROR names"
)


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of huggingface_hub or requests, or none."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def explain(error: Exception, label: str, where: str, seems: str) -> FetchError:
    """One FetchError for any failure of a download from `where`; `seems`: what was served there instead."""
    status, number = http_status(error), getattr(error, "errno", None)
    first_line = f"{type(error).__name__}: {error}".split("\n")[0]
    got = re.sub(r"\?\S+", "", first_line)[:200]  # an address may carry a signature behind the ?
    if status in (401, 403):
        return FetchError(
            f"{label}: the server refuses access to {where} (status {status})",
            known="it may not exist, be private or gated, or be blocked in this network",
            do="Check the name; for a gated model accept its terms and log in: hf auth login",
        )
    if status == 404:
        return FetchError(f"{label}: not found: {where} (status 404)", do="Check the name and the revision")
    if status == 429:
        return FetchError(
            f"{label}: too many requests to {where} (status 429)",
            do="Wait some minutes and run the same command; files that are complete are kept",
        )
    if status is not None and status >= 400:
        return FetchError(f"{label}: the server of {where} is at fault (status {status})", do="Try again later")
    if number in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG) or "No space left" in got:
        return FetchError(
            f"{label}: the disk is full",
            got=got,
            do="Free some space, or move the caches: HF_HOME (weights), FINETUNE_HOME (data)",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return FetchError(
            f"{label}: the cache cannot be written",
            got=got,
            do="Point HF_HOME (weights) or FINETUNE_HOME (data) at one that can be written",
        )
    if "Consistency check failed" in str(error):
        return FetchError(
            f"{label}: {where} came incomplete or is another file",
            got=f"{got}{seems}",
            do="Run the same command again; if it stays so, look for a proxy or a login page",
        )
    return FetchError(f"{label}: no usable answer from {where}", got=f"{got}{seems}", do=ELSEWHERE)
