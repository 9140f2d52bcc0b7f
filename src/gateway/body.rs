//! What a response of ours is made of: a site's body as it streams, or our own words.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

use super::{access_log::AccessLogEntry, session_watch::SessionWatch};
use crate::{
    http1::{SpliceBody, SplicePipe, Stream},
    httputil::BoxError,
    upstream::{UpgradedConnection, UpstreamBody},
};

/// The body of every response, with the line about it, which is written when the body has gone.
pub struct Body {
    content: Content,
    line: Option<Box<AccessLogEntry>>,
}

enum Content {
    /// Complete already.
    Own(Full<Bytes>),
    /// A site's.
    Site(UpstreamBody),
    /// A site's to a visitor we know, which breaks off when their session is ended.
    Watched(UpstreamBody, SessionWatch),
    /// None: what follows is no longer HTTP.
    Switched(Box<Tunnel>),
}

/// A way to a site that goes on as a pipe, for a visitor we may know.
pub struct Tunnel {
    /// The site's end.
    pub site: UpgradedConnection,
    /// Ends it with the session.
    pub watch: Option<SessionWatch>,
}

impl Tunnel {
    /// Is a pipe between the visitor and the site, until either leaves or the session is ended.
    pub async fn join(self, visitor: Stream) {
        let pipe = self.site.run(visitor);
        match self.watch {
            None => pipe.await,
            Some(vigil) => tokio::select! {
                () = pipe => (),
                () = vigil.wait_over() => (),
            },
        }
    }
}

impl Body {
    /// A complete body.
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Content::Own(Full::new(bytes.into())).into()
    }

    /// A site's body, watched over where there is a session that could be ended.
    pub fn site(body: UpstreamBody, watch: Option<SessionWatch>) -> Self {
        match watch {
            Some(mut vigil) if !body.is_end_stream() => {
                if body.is_lasting() {
                    vigil.register();
                }
                Content::Watched(body, vigil).into()
            }
            Some(_) | None => Content::Site(body).into(),
        }
    }

    /// None: what follows is a pipe to the site.
    pub fn tunnel(tunnel: Tunnel) -> Self {
        Content::Switched(Box::new(tunnel)).into()
    }

    /// The pipe, if that is what follows, or else the body as it is.
    pub fn into_tunnel(self) -> Result<Box<Tunnel>, Self> {
        match self.content {
            Content::Switched(tunnel) => Ok(tunnel),
            content @ (Content::Own(_) | Content::Site(_) | Content::Watched(..)) => {
                Err(Self { content, line: self.line })
            }
        }
    }

    /// The same, with the line that tells how much of it was taken.
    #[must_use]
    pub fn with_access_log(self, line: Box<AccessLogEntry>) -> Self {
        Self { line: Some(line), ..self }
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self { content, line: None }
    }
}

impl Content {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Site(body) => Pin::new(body).poll_frame(cx),
            Self::Watched(body, vigil) => vigil.poll_frame(cx, |cx| Pin::new(body).poll_frame(cx)),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BoxError>>> {
        match self {
            Self::Site(body) => Pin::new(body).poll_fill(cx, pipe, most),
            Self::Watched(body, vigil) => {
                vigil.poll_frame(cx, |cx| Pin::new(body).poll_fill(cx, pipe, most))
            }
            Self::Own(_) | Self::Switched(_) => Poll::Ready(None),
        }
    }
}

impl SpliceBody for Body {
    fn is_pipeable(&self) -> bool {
        match &self.content {
            Content::Site(body) | Content::Watched(body, _) => body.is_pipeable(),
            Content::Own(_) | Content::Switched(_) => false,
        }
    }

    fn poll_fill(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BoxError>>> {
        let this = self.get_mut();
        let filled = this.content.poll_fill(cx, pipe, most);
        if let (Poll::Ready(Some(Ok(count))), Some(line)) = (&filled, &mut this.line) {
            line.add_bytes(*count);
        }
        filled
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = this.content.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let (Some(line), Some(data)) = (&mut this.line, frame.data_ref())
        {
            line.add_bytes(u64::try_from(data.len()).unwrap_or_default());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(body) => body.is_end_stream(),
            Content::Site(body) | Content::Watched(body, _) => body.is_end_stream(),
            Content::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(body) => body.size_hint(),
            Content::Site(body) | Content::Watched(body, _) => body.size_hint(),
            Content::Switched(_) => SizeHint::with_exact(0),
        }
    }
}
