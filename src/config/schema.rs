//! `config.toml`, word for word: every table, every key it may have, and an example. Pure.
//!
//! No rules here; `check` has them. A key that is not in this list is an error, and the example
//! is what the operator is offered when a key is missing or of the wrong kind.

/// One kind of table.
#[derive(Debug)]
pub struct TableSchema {
    /// How the operator writes it.
    pub title: &'static str,
    /// Its keys, each with an example.
    pub keys: &'static [(&'static str, &'static str)],
}

impl TableSchema {
    /// The example for a key; nothing when the table has no such key.
    pub fn example(&self, key: &str) -> Option<&'static str> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, example)| *example)
    }
}

/// The top of the file.
pub const FILE: TableSchema = TableSchema {
    title: "the top of the file",
    keys: &[
        ("server", "[server]"),
        ("admin", "[admin]"),
        ("session", "[session]"),
        ("store", "[store]"),
        ("pages", "[pages]"),
        ("log", "[log]"),
        ("trace", "[trace]"),
        ("account", "[[account]]"),
        ("site", "[[site]]"),
        ("broker", "[broker]"),
    ],
};

/// How visitors reach us.
pub const SERVER: TableSchema = TableSchema {
    title: "[server]",
    keys: &[
        ("listen", r#"listen = ["0.0.0.0:8080"]"#),
        ("workers", "workers = 0"),
        ("reuse_port", "reuse_port = false"),
        ("trusted_proxies", r#"trusted_proxies = ["10.0.0.0/8"]"#),
        ("client_address_header", r#"client_address_header = "True-Client-IP""#),
        ("proxy_protocol", "proxy_protocol = false"),
        ("prefix", r#"prefix = "/_wx""#),
        ("drain", r#"drain = "30s""#),
        ("tls", "[server.tls]"),
        ("acme", "[server.acme]"),
        ("limits", "[server.limits]"),
    ],
};

/// How they reach us over TLS.
pub const TLS: TableSchema = TableSchema {
    title: "[server.tls]",
    keys: &[
        ("listen", r#"listen = ["0.0.0.0:8443"]"#),
        ("certificates", r#"certificates = [{ cert = "fullchain.pem", key = "privkey.pem" }]"#),
    ],
};

/// One certificate.
pub const CERTIFICATE: TableSchema = TableSchema {
    title: "a certificate of [server.tls]",
    keys: &[("cert", r#"cert = "fullchain.pem""#), ("key", r#"key = "privkey.pem""#)],
};

/// Certificates that are ordered.
pub const ACME: TableSchema = TableSchema {
    title: "[server.acme]",
    keys: &[
        ("terms_agreed", "terms_agreed = true"),
        ("domains", r#"domains = ["h5.example.com"]"#),
        ("contact", r#"contact = "mailto:ops@example.com""#),
        ("eab_kid", r#"eab_kid = "kid-1""#),
        ("eab_hmac_key", r#"eab_hmac_key = { env = "ACME_EAB_KEY" }"#),
        ("directory", r#"directory = "https://acme-v02.api.letsencrypt.org/directory""#),
        ("ca", r#"ca = "/etc/wxgate/authority.pem""#),
        ("storage", r#"storage = "/var/lib/wxgate/acme""#),
    ],
};

/// What a client may take of us.
pub const LIMITS: TableSchema = TableSchema {
    title: "[server.limits]",
    keys: &[
        ("header_bytes", r#"header_bytes = "32KiB""#),
        ("header_count", "header_count = 100"),
        ("header_time", r#"header_time = "10s""#),
        ("idle_time", r#"idle_time = "75s""#),
        ("body_time", r#"body_time = "10s""#),
        ("send_time", r#"send_time = "60s""#),
        ("connections", "connections = 10000"),
        ("streams", "streams = 250"),
        ("connections_per_client", "connections_per_client = 200"),
        ("upstream_idle", "upstream_idle = 2000"),
        ("logins_per_minute", "logins_per_minute = 600"),
        ("body_size", r#"body_size = "10MiB""#),
    ],
};

/// The other listener.
pub const ADMIN: TableSchema = TableSchema {
    title: "[admin]",
    keys: &[
        ("listen", r#"listen = "127.0.0.1:9090""#),
        ("metrics_listen", r#"metrics_listen = "0.0.0.0:9091""#),
        ("token", r#"token = { file = "/etc/wxgate/admin_token" }"#),
        ("hosts", r#"hosts = ["wxgate.internal"]"#),
    ],
};

/// What is written down.
pub const LOG: TableSchema = TableSchema {
    title: "[log]",
    keys: &[
        ("level", r#"level = "info""#),
        ("format", r#"format = "auto""#),
        ("openid", r#"openid = "full""#),
    ],
};

/// Traces.
pub const TRACE: TableSchema = TableSchema {
    title: "[trace]",
    keys: &[("sample", r#"sample = "100%""#), ("otlp", r#"otlp = "http://127.0.0.1:4318""#)],
};

/// Sessions.
pub const SESSION: TableSchema = TableSchema {
    title: "[session]",
    keys: &[
        ("cookie", r#"cookie = "wxgate""#),
        ("idle", r#"idle = "12h""#),
        ("max", r#"max = "7d""#),
        ("keys", r#"keys = [{ id = "2026-11", secret = { env = "WXGATE_SESSION_KEY" } }]"#),
        ("verified_cache", r#"verified_cache = "64MiB""#),
    ],
};

/// One session key.
pub const KEY: TableSchema = TableSchema {
    title: "a key of [session]",
    keys: &[("id", r#"id = "2026-11""#), ("secret", r#"secret = { env = "WXGATE_SESSION_KEY" }"#)],
};

/// What replicas share.
pub const STORE: TableSchema = TableSchema {
    title: "[store]",
    keys: &[
        ("kind", r#"kind = "memory""#),
        ("path", r#"path = "/var/lib/wxgate/store""#),
        ("url", r#"url = "redis://127.0.0.1:6379""#),
        ("sentinels", r#"sentinels = ["10.0.0.1:26379", "10.0.0.2:26379", "10.0.0.3:26379"]"#),
        ("master", r#"master = "mymaster""#),
        ("sentinel_username", r#"sentinel_username = "wxgate""#),
        ("sentinel_password", r#"sentinel_password = { env = "SENTINEL_PASSWORD" }"#),
        ("cluster", r#"cluster = ["10.0.0.1:6379", "10.0.0.2:6379"]"#),
        ("username", r#"username = "wxgate""#),
        ("password", r#"password = { env = "REDIS_PASSWORD" }"#),
        ("tls", "tls = true"),
        ("ca", r#"ca = "/etc/wxgate/redis-ca.pem""#),
    ],
};

/// The operator's own templates.
pub const PAGES: TableSchema =
    TableSchema { title: "[pages]", keys: &[("dir", r#"dir = "pages""#)] };

/// An account of WeChat's.
pub const ACCOUNT: TableSchema = TableSchema {
    title: "[[account]]",
    keys: &[
        ("name", r#"name = "main""#),
        ("kind", r#"kind = "official""#),
        ("app_id", r#"app_id = "wx0123456789abcdef""#),
        ("app_secret", r#"app_secret = { file = "/etc/wxgate/app_secret" }"#),
        ("callback_host", r#"callback_host = "auth.example.com""#),
        ("authorize_url", r#"authorize_url = "https://open.weixin.qq.com""#),
        ("api_urls", r#"api_urls = ["https://api.weixin.qq.com"]"#),
        ("verify_files", r#"verify_files = { "MP_verify_AbCd1234.txt" = "AbCd1234" }"#),
    ],
};

/// A site behind us.
pub const SITE: TableSchema = TableSchema {
    title: "[[site]]",
    keys: &[
        ("hosts", r#"hosts = ["h5.example.com"]"#),
        ("public_url", r#"public_url = "https://h5.example.com""#),
        ("account", r#"account = "main""#),
        ("upstream", r#"upstream = ["http://127.0.0.1:8000"]"#),
        ("balance", r#"balance = "round_robin""#),
        ("slow_start", r#"slow_start = "10s""#),
        ("health", "[site.health]"),
        ("upstream_connections", "upstream_connections = 100"),
        ("upstream_queue", "upstream_queue = 1000"),
        ("upstream_queue_time", r#"upstream_queue_time = "5s""#),
        ("scope", r#"scope = "snsapi_base""#),
        ("outside_wechat", r#"outside_wechat = "page""#),
        ("snapshot", r#"snapshot = "page""#),
        ("fragment", r#"fragment = "drop""#),
        ("connect_timeout", r#"connect_timeout = "3s""#),
        ("response_timeout", r#"response_timeout = "60s""#),
        ("upstream_http", r#"upstream_http = "2""#),
        ("upstream_tls", "[site.upstream_tls]"),
        ("ambiguous_paths", r#"ambiguous_paths = "refuse""#),
        ("windows_names", r#"windows_names = "ambiguous""#),
        ("underscores", r#"underscores = "drop""#),
        ("headers", "[site.headers]"),
        ("route", "[[site.route]]"),
        ("also", r#"also = ["pay"]"#),
        ("cors", "[site.cors]"),
        ("profile_refresh", r#"profile_refresh = "24h""#),
        ("revocation", r#"revocation = "bounded:30s""#),
    ],
};

/// One of several servers of a site.
pub const UPSTREAM: TableSchema = TableSchema {
    title: "a server of `upstream`",
    keys: &[("url", r#"url = "http://10.0.0.5:8000""#), ("weight", "weight = 3")],
};

/// How they are asked whether they are well.
pub const HEALTH: TableSchema = TableSchema {
    title: "[site.health]",
    keys: &[
        ("path", r#"path = "/healthz""#),
        ("host", r#"host = "h5.example.com""#),
        ("interval", r#"interval = "5s""#),
        ("timeout", r#"timeout = "2s""#),
        ("expect", r#"expect = ["200-399"]"#),
        ("rise", "rise = 2"),
        ("fall", "fall = 3"),
    ],
};

/// Whom we believe and who we are towards the servers of a site.
pub const UPSTREAM_TLS: TableSchema = TableSchema {
    title: "[site.upstream_tls]",
    keys: &[
        ("ca", r#"ca = "/etc/wxgate/site-ca.pem""#),
        ("cert", r#"cert = "/etc/wxgate/client.pem""#),
        ("key", r#"key = "/etc/wxgate/client.key""#),
        ("server_name", r#"server_name = "site.internal""#),
    ],
};

/// Scripts of other origins.
pub const CORS: TableSchema = TableSchema {
    title: "[site.cors]",
    keys: &[("origins", r#"origins = ["https://app.example.com"]"#)],
};

/// Identity headers under further names.
pub const HEADERS: TableSchema = TableSchema {
    title: "[site.headers]",
    keys: &[
        ("aliases", r#"aliases = ["X-WX-OPENID"]"#),
        ("extra", r#"extra = { "Remote-User" = "openid" }"#),
        ("assertion", "assertion = false"),
    ],
};

/// What a path asks.
pub const ROUTE: TableSchema = TableSchema {
    title: "[[site.route]]",
    keys: &[
        ("path", r#"path = "/member/*""#),
        ("methods", r#"methods = ["GET"]"#),
        ("auth", r#"auth = "required""#),
        ("scope", r#"scope = "snsapi_userinfo""#),
        ("prompt", r#"prompt = "button""#),
    ],
};

/// Logins for sites that are not behind us.
pub const BROKER: TableSchema = TableSchema {
    title: "[broker]",
    keys: &[
        ("host", r#"host = "auth.example.com""#),
        ("public_url", r#"public_url = "https://auth.example.com""#),
        ("prefix", r#"prefix = "/api/wechat""#),
        ("client", "[[broker.client]]"),
    ],
};

/// One of those sites.
pub const CLIENT: TableSchema = TableSchema {
    title: "[[broker.client]]",
    keys: &[
        ("name", r#"name = "shop""#),
        ("account", r#"account = "main""#),
        ("return_to", r#"return_to = ["https://shop.example.com/"]"#),
        ("result", r#"result = "params""#),
        ("secret", r#"secret = { env = "SHOP_SECRET" }"#),
        ("outside_wechat", r#"outside_wechat = "page""#),
        ("jssdk", "jssdk = false"),
    ],
};

/// Where a secret is kept.
pub const SECRET: TableSchema = TableSchema {
    title: "a secret",
    keys: &[("env", r#"{ env = "NAME" }"#), ("file", r#"{ file = "/etc/wxgate/secret" }"#)],
};

/// Every kind of table.
pub const ALL: [&TableSchema; 24] = [
    &FILE,
    &SERVER,
    &TLS,
    &CERTIFICATE,
    &ACME,
    &LIMITS,
    &ADMIN,
    &SESSION,
    &KEY,
    &STORE,
    &PAGES,
    &LOG,
    &TRACE,
    &ACCOUNT,
    &SITE,
    &UPSTREAM,
    &HEALTH,
    &UPSTREAM_TLS,
    &HEADERS,
    &CORS,
    &ROUTE,
    &BROKER,
    &CLIENT,
    &SECRET,
];
