// Turns the gateway's 401 into a login and back.
//
// Put <script src="/_wx/client.js"></script> before your own scripts. From then on a fetch or an
// XMLHttpRequest that is answered `{"error":"login_required"}` sends the visitor to the login and
// brings them back to this page, its #/route included. The request itself is not sent again: load
// your data when the page starts, as usual.
//
// A page that was sent to the login and comes back still refused is left alone for a minute, so
// that nobody goes round in circles. `wxgateLogin()` starts a login at any time.
(function () {
  "use strict";
  var PREFIX = "/_wx";
  var MARK = "wxgate-login";
  var PATIENCE = 60 * 1000;

  function login(scope) {
    var here = location.pathname + location.search + location.hash;
    var url = PREFIX + "/login?rd=" + encodeURIComponent(here);
    location.assign(scope ? url + "&scope=" + encodeURIComponent(scope) : url);
  }

  function refused(body) {
    if (!body || body.error !== "login_required") return false;
    var last = 0;
    try {
      last = Number(sessionStorage.getItem(MARK)) || 0;
      if (Date.now() - last < PATIENCE) return false;
      sessionStorage.setItem(MARK, String(Date.now()));
    } catch (forbidden) {
      return false; // without a memory we could go round in circles
    }
    var asked = new URL(body.login_url || "", location.href).searchParams.get("scope");
    login(asked);
    return true;
  }

  window.wxgateLogin = login;

  var fetched = window.fetch;
  if (fetched) {
    window.fetch = function () {
      return fetched.apply(this, arguments).then(function (answer) {
        if (answer.status !== 401) return answer;
        return answer.clone().json().then(
          function (body) { return refused(body) ? new Promise(function () {}) : answer; },
          function () { return answer; }
        );
      });
    };
  }

  var send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function () {
    this.addEventListener("load", function () {
      if (this.status !== 401 || (this.responseType !== "" && this.responseType !== "text")) return;
      try { refused(JSON.parse(this.responseText)); } catch (other) { /* not ours */ }
    });
    return send.apply(this, arguments);
  };
})();
