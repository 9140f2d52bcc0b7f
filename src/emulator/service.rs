//! Where requests come in: which page or call they mean, what goes wrong with it, and the record.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::{
    Settings, api,
    authorize::{Apps, LoginPage},
    authorize_pages, avatar,
    call_log::{CallLog, CallRecord},
    control_api,
    errcode::Errcode,
    faults::{ApiEndpoint, Fault, FaultKind, Faults},
    fetch,
    listen::{Body, full},
    page::Pages,
    params::Params,
    random,
    token_store::TokenStore,
    users::{self, User},
};
use crate::clock;

/// Bodies beyond this are refused.
const BODY_LIMIT: usize = 64 * 1024;
/// What a garbled answer looks like: it starts well.
const GARBAGE: &[u8] = b"{\"access_token\":\"98_\xff\xfe<html>Bad Gateway";

/// The emulator behind its socket.
pub struct Service {
    pub apps: Apps,
    pub users: Vec<User>,
    pub require_wechat: bool,
    pub pages: Pages,
    addr: SocketAddr,
    state: Mutex<EmulatorState>,
}

/// Everything that changes.
pub struct EmulatorState {
    pub tokens: TokenStore,
    pub faults: Faults,
    pub calls: CallLog,
}

/// A request, read whole.
pub struct ReceivedRequest {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer, and what there is to tell about it.
pub struct LoggedResponse {
    pub response: Response<Body>,
    /// The number in it, for the record.
    pub errcode: Option<i64>,
    /// A word more, for the record.
    pub note: Option<String>,
    /// What is to go wrong on its way.
    pub fault: Option<Fault>,
    /// A page that WeChat's servers visit on their own at the same moment.
    pub also_visit: Option<String>,
}

/// Answers one request; whatever comes in, an answer goes out.
pub async fn handle(service: Arc<Service>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB\n");
    };
    let call = ReceivedRequest {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: body.to_bytes(),
    };
    let answer = service.answer(&call).await;
    service.record(&call, &answer);
    if let Some(url) = answer.also_visit {
        tokio::spawn(async move { service.visit(&url).await });
    }
    deliver(answer.response, answer.fault).await
}

/// A short answer for programs.
pub fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", body)
}

/// An answer with its type; none of ours is to be kept.
pub fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

impl Service {
    /// A fresh WeChat.
    pub fn new(settings: Settings, pages: Pages, addr: SocketAddr) -> Self {
        let Settings { users, apps, require_wechat, .. } = settings;
        let users = if users.is_empty() { users::built_in() } else { users };
        let book = TokenStore::new(random::letters);
        let state = Mutex::new(EmulatorState {
            tokens: book,
            faults: Faults::default(),
            calls: CallLog::default(),
        });
        Self { apps: Apps(apps), users, require_wechat, pages, addr, state }
    }

    /// The part that changes. A panic elsewhere leaves it usable: every change is one step.
    pub fn state(&self) -> MutexGuard<'_, EmulatorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody by id.
    pub fn user(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    async fn answer(&self, call: &ReceivedRequest) -> LoggedResponse {
        match call.path.as_str() {
            "/connect/oauth2/authorize" => {
                authorize_pages::authorize(self, call, LoginPage::Official)
            }
            "/connect/qrconnect" => authorize_pages::authorize(self, call, LoginPage::Website),
            "/connect/oauth2/confirm" => authorize_pages::confirm(self, call, LoginPage::Official),
            "/connect/confirm" => authorize_pages::confirm(self, call, LoginPage::Website),
            path if path.starts_with("/mmopen/") => picture(path).into(),
            path => match ApiEndpoint::of(path) {
                Some(place) => self.call_api(place, call),
                None => control_api::answer(self, call).await.into(),
            },
        }
    }

    fn call_api(&self, place: ApiEndpoint, call: &ReceivedRequest) -> LoggedResponse {
        let mut state = self.state();
        let fault = state.faults.take(place);
        let snapshot = if fault.is_none() {
            state.faults.take_twist(place, FaultKind::Snapshot)
        } else {
            None
        };
        let params = call.params();
        let host = call.host().map_or_else(|| self.addr.to_string(), str::to_owned);
        let (apps, users, book) = (&self.apps, self.users.as_slice(), &mut state.tokens);
        let mut desk =
            api::ApiContext { apps, users, tokens: book, host: &host, now: clock::system() };
        let api_call = api::ApiCall {
            method: &call.method,
            params: params.as_ref(),
            is_snapshot: snapshot.is_some(),
        };
        // The call is carried out even if its answer is then spoilt: WeChat burns the code, too.
        let reply = desk.answer(place, &api_call);
        let fault = fault.or(snapshot);
        let reply = match fault.as_ref().and_then(|fault| fault.errcode) {
            Some(errcode) => api::refuse(place, Errcode(errcode)),
            None => reply,
        };
        let response = respond(StatusCode::OK, reply.content_type, reply.body);
        LoggedResponse { errcode: reply.errcode, fault, ..response.into() }
    }

    fn record(&self, call: &ReceivedRequest, answer: &LoggedResponse) {
        let is_wechat =
            ["/connect/", "/sns/", "/cgi-bin/"].iter().any(|start| call.path.starts_with(start));
        if !is_wechat {
            return;
        }
        let status = answer.fault.as_ref().and_then(|fault| fault.http_status);
        let fault = answer.fault.as_ref().map(|fault| format!("fault {fault}"));
        let notes: Vec<_> = answer.note.clone().into_iter().chain(fault).collect();
        let entry = CallRecord {
            time: clock::system(),
            method: call.method.to_string(),
            path: call.path.clone(),
            query: call.params().unwrap_or_default().masked(),
            status: status.unwrap_or(answer.response.status().as_u16()),
            errcode: answer.errcode,
            note: Some(notes.join("; ")).filter(|note| !note.is_empty()),
        };
        self.state().calls.add(entry);
    }

    /// Calls at a page the way WeChat's servers do, and writes it down for whoever waits for it.
    async fn visit(&self, url: &str) {
        let visited = fetch::get(url).await;
        let (status, note) = match visited {
            Ok((status, _)) => (status.as_u16(), "duplicate_callback".to_owned()),
            Err(error) => (0, format!("duplicate_callback: {error}")),
        };
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = Params::parse(query).masked();
        let (time, method, path) = (clock::system(), "GET".to_owned(), path.to_owned());
        self.state().calls.add(CallRecord {
            time,
            method,
            path,
            query,
            status,
            errcode: None,
            note: Some(note),
        });
    }
}

impl ReceivedRequest {
    /// The parameters: of the query, or of the JSON body of a POST. `None`: that is no JSON.
    pub fn params(&self) -> Option<Params> {
        if self.method == Method::POST {
            Params::from_json(&self.body)
        } else {
            Some(Params::parse(&self.query))
        }
    }

    /// A request header, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the caller calls us.
    pub fn host(&self) -> Option<&str> {
        self.header("host")
    }
}

impl From<Response<Body>> for LoggedResponse {
    fn from(response: Response<Body>) -> Self {
        Self { response, errcode: None, note: None, fault: None, also_visit: None }
    }
}

/// Sends an answer on its way, with what goes wrong there.
async fn deliver(mut response: Response<Body>, fault: Option<Fault>) -> Response<Body> {
    let Some(fault) = fault else {
        return response;
    };
    if let Some(delay) = fault.delay_ms {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if fault.has(FaultKind::Hang) {
        std::future::pending::<()>().await;
    }
    if fault.has(FaultKind::Garbage) {
        *response.body_mut() = full(GARBAGE);
    }
    if let Some(status) = fault.http_status.and_then(|status| StatusCode::from_u16(status).ok()) {
        if !fault.has(FaultKind::Garbage) && fault.errcode.is_none() {
            response = text(status, "emulated trouble\n");
        }
        *response.status_mut() = status;
    }
    response
}

/// `/mmopen/<id>/132`: the drawing of a user.
fn picture(path: &str) -> Response<Body> {
    let id = path.split('/').nth(2).unwrap_or_default();
    let drawing = if id == "0" { avatar::NOBODY.to_owned() } else { avatar::face(id) };
    respond(StatusCode::OK, "image/svg+xml", drawing)
}
