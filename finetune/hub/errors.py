"""Turn errors of the download clients into errors for users."""

import errno
import re

from finetune.errors import FetchError

ELSEWHERE = (
    "Connect to the network, set HF_ENDPOINT to a hub that you can reach, or put the files into the directory "
    "that FINETUNE_MIRROR names"
)


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of huggingface_hub or requests, or None."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def explain(error: Exception, label: str, where: str, seems: str) -> FetchError:
    """The FetchError for a failed download from `where`. seems: what the server sent instead, if known."""
    status, number = http_status(error), getattr(error, "errno", None)
    first_line = f"{type(error).__name__}: {error}".split("\n")[0]
    got = re.sub(r"\?\S+", "", first_line)[:200]  # the query of a URL may contain a signature
    if status in (401, 403):
        return FetchError(
            f"{label}: the server refuses access to {where} (status {status})",
            known="it may not exist, be private or gated, or be blocked in this network",
            do="Check the name; for a gated model, accept its terms and log in with: hf auth login",
        )
    if status == 404:
        return FetchError(f"{label}: not found: {where} (status 404)", do="Check the name and the revision")
    if status == 429:
        return FetchError(
            f"{label}: too many requests to {where} (status 429)",
            do="Wait a few minutes and run the same command again; complete files are kept",
        )
    if status is not None and status >= 400:
        return FetchError(f"{label}: server error for {where} (status {status})", do="Try again later")
    if number in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG) or "No space left" in got:
        return FetchError(
            f"{label}: the disk is full",
            got=got,
            do="Free some space, or move the caches: HF_HOME (weights), FINETUNE_HOME (data)",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return FetchError(
            f"{label}: the cache is not writable",
            got=got,
            do="Set HF_HOME (weights) or FINETUNE_HOME (data) to a writable directory",
        )
    if "Consistency check failed" in str(error):
        return FetchError(
            f"{label}: the download of {where} is incomplete or a different file",
            got=f"{got}{seems}",
            do="Run the same command again; if it fails again, look for a proxy or a login page",
        )
    return FetchError(f"{label}: no usable response from {where}", got=f"{got}{seems}", do=ELSEWHERE)
