//! Somebody with a browser: sends what browsers send, keeps the cookies it is given.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

pub const WECHAT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN";
pub const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/132.0.0.0 Safari/537.36";

/// A browser with its cookies, which believes that `h5.example.com` is the gateway.
#[derive(Clone)]
pub struct Visitor {
    pub gateway: SocketAddr,
    pub agent: &'static str,
    pub accept: &'static str,
    pub host: &'static str,
    /// By host name; the oldest first, as browsers send them.
    pub cookies: BTreeMap<String, Vec<(String, String)>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Visitor {
    /// A phone with WeChat, loading pages.
    pub fn wechat(gateway: SocketAddr) -> Self {
        Self {
            gateway,
            agent: WECHAT,
            accept: "text/html,*/*;q=0.8",
            host: "h5.example.com",
            cookies: BTreeMap::new(),
        }
    }

    /// A browser on a desk.
    pub fn desktop(gateway: SocketAddr) -> Self {
        Self { agent: CHROME, ..Self::wechat(gateway) }
    }

    /// The same browser, asked by a script of the page.
    pub fn script(&self) -> Self {
        Self { accept: "application/json", ..self.clone() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// One request to the site. A header called `cookie` stands beside the browser's own.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let url = Url::parse(&format!("http://{}", self.host)).unwrap();
        self.ask((self.gateway, &url), (method, path), headers, body).await
    }

    /// Follows a redirect wherever it leads, as a browser does; the fragment stays at home.
    pub async fn follow(&mut self, answer: &Answer, from: &str) -> (Url, Answer) {
        let base = Url::parse(&format!("http://{}{from}", self.host)).unwrap();
        let url = base.join(answer.location()).unwrap();
        let to = match url.host_str().unwrap() {
            "127.0.0.1" => url.socket_addrs(|| None).unwrap()[0],
            _ => self.gateway,
        };
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let answer = self.ask((to, &url), ("GET", &target), &[], "").await;
        (url, answer)
    }

    /// Opens a page and goes wherever that leads until a page is there.
    pub async fn open(&mut self, path: &str) -> (String, Answer) {
        let mut answer = self.get(path).await;
        let mut at = path.to_owned();
        for _ in 0..12 {
            // A proxy that cannot redirect shows the page of the gateway, which goes on by itself.
            let leads_on = answer.status == 401 && answer.header("wxgate-asker") == Some("page");
            if !(300..400).contains(&answer.status) && !leads_on {
                // The emulator's page with two codes: a script would load the first and go on to
                // the second.
                let callbacks: Vec<String> =
                    answer.all("x-emulator-callback").map(str::to_owned).collect();
                let [first, second] = callbacks.as_slice() else { return (at, answer) };
                let _ = self.clone().follow(&Answer::redirect(first), "/").await;
                answer = Answer::redirect(second);
            }
            let (url, next) = self.follow(&answer, &at).await;
            at = match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            };
            answer = next;
        }
        panic!("redirected for ever: {answer:?}");
    }

    /// Whether the browser holds a session of the site.
    pub fn has_session(&self) -> bool {
        let jar = self.cookies.get("h5.example.com");
        jar.is_some_and(|jar| jar.iter().any(|(name, _)| name == "wxgate"))
    }

    /// The site's cookie of this name.
    pub fn cookie(&self, name: &str) -> String {
        let mut jar = self.cookies["h5.example.com"].iter();
        jar.find(|(found, _)| found == name).unwrap().1.clone()
    }

    async fn ask(
        &mut self,
        (to, url): (SocketAddr, &Url),
        (method, target): (&str, &str),
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let host = url.host_str().unwrap().to_owned();
        let named = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nhost: {named}\r\nuser-agent: {}\r\naccept: {}\r\nconnection: close\r\n",
            self.agent, self.accept
        );
        let own = self
            .cookies
            .get(&host)
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={value}"));
        let planted = headers
            .iter()
            .filter(|(name, _)| *name == "cookie")
            .map(|(_, value)| (*value).to_owned());
        let cookies: Vec<String> = own.chain(planted).collect();
        if !cookies.is_empty() {
            write!(request, "cookie: {}\r\n", cookies.join("; ")).unwrap();
        }
        for (name, value) in headers.iter().filter(|(name, _)| *name != "cookie") {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        if !body.is_empty() || method == "POST" {
            write!(request, "content-length: {}\r\n", body.len()).unwrap();
        }
        let answer = Answer::parse(&raw(to, &format!("{request}\r\n{body}")).await);
        self.keep(&host, &answer);
        answer
    }

    fn keep(&mut self, host: &str, answer: &Answer) {
        let jar = self.cookies.entry(host.to_owned()).or_default();
        for cookie in answer.all("set-cookie") {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            // A browser ignores one without a name (RFC 6265, section 5.2).
            let Some((name, value)) = pair.split_once('=') else { continue };
            let known = jar.iter().position(|(found, _)| found == name);
            match (known, attributes.contains("Max-Age=0")) {
                (Some(at), true) => drop(jar.remove(at)),
                (Some(at), false) => value.clone_into(&mut jar[at].1),
                (None, true) => (),
                (None, false) => jar.push((name.to_owned(), value.to_owned())),
            }
        }
    }
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let text = if headers
            .iter()
            .any(|(name, value)| name == "transfer-encoding" && value == "chunked")
        {
            dechunk(body)
        } else {
            body.to_owned()
        };
        Self { status, headers, text }
    }

    /// As if a page had led there.
    pub fn redirect(to: &str) -> Self {
        let headers = vec![("location".to_owned(), to.to_owned())];
        Self { status: 302, headers, text: String::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Where it redirects to; an empty fragment is no part of that.
    pub fn location(&self) -> &str {
        let location = self.header("location").unwrap_or_else(|| panic!("no redirect: {self:?}"));
        location.strip_suffix('#').unwrap_or(location)
    }

    /// Whether the page has a link that begins so.
    pub fn links_to(&self, start: &str) -> bool {
        self.text.replace("&#x2f;", "/").replace("&amp;", "&").contains(&format!("href=\"{start}"))
    }

    /// What the echo site received under this name; every line of it.
    pub fn received(&self, name: &str) -> Vec<&str> {
        let lines = self.text.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

fn dechunk(body: &str) -> String {
    let mut bytes = body.as_bytes();
    let mut text = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size =
            usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap().trim(), 16).unwrap();
        text.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[at + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Bytes out, and whatever comes back until the other side closes.
pub async fn raw(to: SocketAddr, request: &str) -> String {
    raw_bytes(to, request.as_bytes()).await
}

pub async fn raw_bytes(to: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await;
    assert!(ended.is_ok(), "no end: {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}
