// A page that knows its visitor. `go run main.go 8000`: the standard library only.
package main

import (
	"encoding/json"
	"html/template"
	"log"
	"net/http"
	"net/url"
	"os"
)

type visitor struct {
	OpenID   *string `json:"openid"`
	Nickname *string `json:"nickname"`
	Scope    *string `json:"scope"`
}

// header is nil where the gateway said nothing: absent is not empty.
func header(r *http.Request, name string) *string {
	if values := r.Header.Values(name); len(values) > 0 {
		return &values[0]
	}
	return nil
}

func whoIs(r *http.Request) visitor {
	nickname := header(r, "X-WeChat-Nickname")
	if nickname != nil {
		// Percent-encoded UTF-8, because a header is ASCII. Not QueryUnescape: that one turns
		// + into a space.
		if decoded, err := url.PathUnescape(*nickname); err == nil {
			nickname = &decoded
		}
	}
	return visitor{header(r, "X-WeChat-OpenId"), nickname, header(r, "X-WeChat-Scope")}
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>whoami</title>
<h1>你好，{{with .Nickname}}{{.}}{{else}}朋友{{end}}</h1>
<p>openid: <code>{{with .OpenID}}{{.}}{{else}}(none){{end}}</code></p>
<p>scope: <code>{{with .Scope}}{{.}}{{else}}(none){{end}}</code></p>
<p><a href="/_wx/logout">退出 / log out</a></p>
`))

func main() {
	port := os.Getenv("PORT")
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	if port == "" {
		port = "8000"
	}
	http.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		line := json.NewEncoder(w)
		line.SetEscapeHTML(false)
		if err := line.Encode(whoIs(r)); err != nil {
			log.Print(err)
		}
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := page.Execute(w, whoIs(r)); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}
