//! How a silence is borne, and when it ends a connection; the clock is the runtime's own.

use std::{cell::RefCell, rc::Rc, time::Duration};

use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep_until},
};

use super::super::connection::Http2Connection;
use crate::http1::{Socket, Stream};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A server that says hello, answers questions for as long as it `lives`, and says nothing else.
/// When it was asked, counted from its beginning, is noted.
async fn server(mut stream: UnixStream, lives: Duration, asked: Rc<RefCell<Vec<Duration>>>) {
    let begun = Instant::now();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] != PING || head[4] & ACK > 0 {
            continue;
        }
        asked.borrow_mut().push(begun.elapsed());
        if begun.elapsed() < lives {
            head[4] |= ACK;
            stream.write_all(&[&head[..], &payload].concat()).await.unwrap();
        }
    }
}

/// How long a request waits for such a server, at the most an hour, and when that was asked.
async fn waited(lives: Duration) -> (Duration, Vec<Duration>) {
    let asked = Rc::<RefCell<Vec<Duration>>>::default();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let local = LocalSet::new();
    let noted = Rc::clone(&asked);
    let took = local.run_until(async move {
        spawn_local(server(theirs, lives, noted));
        let stream = Stream::Plain(Socket::Unix(ours));
        let session = Rc::new(Http2Connection::open(stream, false, "here").await.unwrap());
        let slot = Http2Connection::reserve(&session);
        let head = Request::get("http://h5.example.com/").body(()).unwrap();
        let (answer, _sender) = slot.send(head, true).unwrap();
        let begun = Instant::now();
        tokio::select! {
            ended = answer => assert!(ended.is_err()),
            () = sleep_until(begun + Duration::from_hours(1)) => (),
        }
        assert_eq!(session.is_good(), lives > Duration::from_hours(1));
        begun.elapsed()
    });
    let took = took.await;
    (took, asked.take())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_no_longer_there_is_noticed() {
    let (took, asked) = waited(Duration::from_secs(5)).await;
    assert!((20..=40).contains(&took.as_secs()), "{took:?}");
    assert_eq!(asked.len(), 2, "at the beginning and in the silence: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_only_silent_is_not_pestered() {
    let (took, asked) = waited(Duration::from_hours(2)).await;
    assert_eq!(took.as_secs(), 3600, "its answer may take an hour");
    assert!(asked.len() >= 9, "{asked:?}");
    for pair in asked[1..].windows(2) {
        assert!(pair[1] > pair[0] + Duration::from_mins(5), "{asked:?}");
    }
}
