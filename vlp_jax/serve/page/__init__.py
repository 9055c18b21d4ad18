"""The search page: one static file, index.html, that asks nothing of any other host.

Its script and style may run because their digests are in the policy that is sent with it (CSP
level 2); text of the index is never markup. The file exists as the one place that reads the page.
"""

import base64
import functools
import hashlib
import re
from pathlib import Path

from starlette.responses import Response

HERE = Path(__file__).parent
WORDS = HERE / "words.txt"  # what the model is asked about, one per line
_PIECES = {"script-src": r"<script>(.*?)</script>", "style-src": r"<style>(.*?)</style>"}


def page_response() -> Response:
    """The page with its policy."""
    html, policy = _read()
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return Response(html, media_type="text/html", headers=headers)


@functools.cache
def _read() -> tuple[bytes, str]:
    """(index.html, its policy)."""
    html = (HERE / "index.html").read_text(encoding="utf-8")
    policy = ["default-src 'none'", "img-src 'self' data: blob:", "connect-src 'self'"]
    for directive, pattern in _PIECES.items():
        found = re.findall(pattern, html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()) for one in found)
        policy.append(" ".join([directive, *(f"'sha256-{d.decode()}'" for d in digests)]))
    policy += ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return html.encode(), "; ".join(policy)
