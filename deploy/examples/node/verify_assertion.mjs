// Proof of who sent a request: checks X-WeChat-Assertion. `npm install jose`.
//
// node verify_assertion.mjs JWKS_URL SITE < assertion
import { readFileSync } from 'node:fs';
import { createRemoteJWKSet, jwtVerify } from 'jose';

/** Make one and keep it: it remembers the keys, and fetches them again when a new one signs. */
export function proof(jwksUrl, site) { // public_url of the [[site]]
  const keys = createRemoteJWKSet(new URL(jwksUrl), { cacheMaxAge: 300_000 });
  return async (assertion) => { // the claims: sub is the openid; throws for what wxgate did not sign
    const { payload } = await jwtVerify(assertion, keys, {
      algorithms: ['ES256'], // never what the token itself names
      issuer: 'wxgate',
      audience: site,
      clockTolerance: 10,
      requiredClaims: ['exp', 'iat', 'sub', 'jti'],
    });
    return payload;
  };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [url, site] = process.argv.slice(2);
  try {
    console.log(JSON.stringify(await proof(url, site)(readFileSync(0, 'utf8').trim())));
  } catch (why) {
    console.error(`not proven: ${why.message}`);
    process.exitCode = 1;
  }
}
