"""Is it there yet? Readiness by HTTP, from this thread's network."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

# No proxy of the user's: everything asked here is on this machine.
_UNCHECKED = ssl.create_default_context()
_UNCHECKED.check_hostname = False
_UNCHECKED.verify_mode = ssl.CERT_NONE


def status(url: str, authority: Path | None = None, seconds: float = 2) -> int | None:
    """The HTTP status a GET answers with; None when nothing answers.

    Without an authority a server's certificate is not checked: good for self-signed health ports.
    """
    context = ssl.create_default_context(cafile=str(authority)) if authority else _UNCHECKED
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=seconds) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def healthy(url: str, authority: Path | None = None) -> bool:
    """Whether a GET answers 200."""
    return status(url, authority) == 200
