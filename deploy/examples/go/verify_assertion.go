//go:build ignore

// Proof of who sent a request: checks X-WeChat-Assertion with the standard library alone.
//
//	go run verify_assertion.go JWKS_URL SITE < assertion
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"
)

var encoding = base64.RawURLEncoding

// ErrNotProven is the answer to whatever wxgate did not sign for this site.
var ErrNotProven = errors.New("not proven")

// Claims is what an assertion says.
type Claims struct {
	Iss      string `json:"iss"`
	Aud      string `json:"aud"`
	OpenID   string `json:"sub"`
	UnionID  string `json:"unionid,omitempty"`
	AppID    string `json:"appid"`
	Scope    string `json:"scope"`
	Nickname string `json:"nickname,omitempty"`
	Jti      string `json:"jti"`
	Iat      int64  `json:"iat"`
	Exp      int64  `json:"exp"`
}

// Keys fetches the public keys. Keep them for five minutes, not for one request.
func Keys(url string) (map[string]*ecdsa.PublicKey, error) {
	answer, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var set struct {
		Keys []struct{ Kid, Kty, Crv, X, Y string }
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(&set); err != nil {
		return nil, err
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, key := range set.Keys {
		x, errX := encoding.DecodeString(key.X)
		y, errY := encoding.DecodeString(key.Y)
		if key.Kty == "EC" && key.Crv == "P-256" && errX == nil && errY == nil {
			keys[key.Kid] = &ecdsa.PublicKey{
				Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y),
			}
		}
	}
	return keys, nil
}

// Verify reads an assertion for site, the public_url of the [[site]].
func Verify(assertion string, keys map[string]*ecdsa.PublicKey, site string) (Claims, error) {
	var head struct{ Alg, Kid string }
	var claims Claims
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 || open(parts[0], &head) != nil || head.Alg != "ES256" {
		return claims, ErrNotProven // the algorithm is ours to say, never the token's
	}
	key, signature := keys[head.Kid], []byte(nil)
	if signature, _ = encoding.DecodeString(parts[2]); key == nil || len(signature) != 64 {
		return claims, ErrNotProven
	}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(key, hash[:], r, s) || open(parts[1], &claims) != nil {
		return Claims{}, ErrNotProven
	}
	const leeway = 10 // seconds that two clocks may differ
	now := time.Now().Unix()
	if claims.Iss != "wxgate" || claims.Aud != site || claims.OpenID == "" ||
		now >= claims.Exp+leeway || claims.Iat > now+leeway {
		return Claims{}, ErrNotProven
	}
	return claims, nil
}

func open(part string, into any) error {
	text, err := encoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func main() {
	keys, err := Keys(os.Args[1])
	text, _ := io.ReadAll(os.Stdin)
	var claims Claims
	if err == nil {
		claims, err = Verify(strings.TrimSpace(string(text)), keys, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(claims)
}
