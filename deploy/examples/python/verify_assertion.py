"""Proof of who sent a request: checks X-WeChat-Assertion. `pip install "PyJWT[crypto]"`.

python3 verify_assertion.py JWKS_URL SITE < assertion
"""

import json
import sys

import jwt

LEEWAY = 10  # seconds that two clocks may differ


class Proof:
    """Make one and keep it: it remembers the keys, and fetches them again when a new one signs."""

    def __init__(self, jwks_url, site):
        self.keys = jwt.PyJWKClient(jwks_url, lifespan=300)
        self.site = site  # public_url of the [[site]]

    def verify(self, assertion):
        """The claims: sub is the openid. Raises jwt.PyJWTError for whatever wxgate did not sign."""
        return jwt.decode(
            assertion,
            self.keys.get_signing_key_from_jwt(assertion).key,
            algorithms=["ES256"],  # never what the token itself names
            issuer="wxgate",
            audience=self.site,
            leeway=LEEWAY,
            options={"require": ["exp", "iat", "aud", "iss", "sub", "jti"]},
        )


if __name__ == "__main__":
    try:
        print(json.dumps(Proof(*sys.argv[1:3]).verify(sys.stdin.read().strip()), ensure_ascii=False))
    except jwt.PyJWTError as why:
        sys.exit(f"not proven: {why}")
