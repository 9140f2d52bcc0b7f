//! What a response of ours is made of: a site's body as it streams, or our own words.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

use super::vigil::Vigil;
use crate::{
    http1::Stream,
    upstream::{Streamed, Switched},
    wire::BoxError,
};

/// The body of every response.
pub enum Body {
    /// Complete already.
    Own(Full<Bytes>),
    /// A site's.
    Site(Streamed),
    /// A site's to a visitor we know, which breaks off when their session is ended.
    Watched(Streamed, Vigil),
    /// None: what follows is no longer HTTP.
    Switched(Box<Tunnel>),
}

/// A way to a site that goes on as a pipe, for a visitor we may know.
pub struct Tunnel {
    /// The site's end.
    pub site: Switched,
    /// Ends it with the session.
    pub vigil: Option<Vigil>,
}

impl Tunnel {
    /// Is a pipe between the visitor and the site, until either leaves or the session is ended.
    pub async fn join(self, visitor: Stream) {
        let pipe = self.site.join(visitor);
        match self.vigil {
            None => pipe.await,
            Some(vigil) => tokio::select! {
                () = pipe => (),
                () = vigil.ended() => (),
            },
        }
    }
}

impl Body {
    /// A complete body.
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Self::Own(Full::new(bytes.into()))
    }

    /// A site's body, watched over where there is a session that could be ended.
    pub fn site(body: Streamed, vigil: Option<Vigil>) -> Self {
        match vigil {
            Some(vigil) if !body.is_end_stream() => Self::Watched(body, vigil),
            Some(_) | None => Self::Site(body),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Site(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Watched(body, vigil) => {
                let frame = Pin::new(body).poll_frame(cx).map_err(Into::into);
                let ended = if frame.is_pending() { vigil.poll_ended(cx) } else { vigil.passed() };
                if ended {
                    return Poll::Ready(Some(Err("the session was ended".into())));
                }
                frame
            }
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Site(body) | Self::Watched(body, _) => body.is_end_stream(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Site(body) | Self::Watched(body, _) => body.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}
