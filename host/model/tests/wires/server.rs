//! A tiny HTTP server that plays prepared replies and keeps what it was asked.

use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What the server answers to one request.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    chunks: Vec<Vec<u8>>,
    end: End,
}

/// How the body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it should.
    Whole,
    /// The connection breaks.
    Cut,
    /// Nothing more comes and the connection stays.
    Silent,
    /// Bytes come one by one and never make an event.
    Drip,
}

impl Reply {
    /// An event stream, sent in pieces of a few bytes.
    pub(crate) fn stream(text: impl AsRef<str>) -> Self {
        let chunks = text.as_ref().as_bytes().chunks(37).map(<[u8]>::to_vec).collect();
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream; charset=utf-8".into())],
            chunks,
            end: End::Whole,
        }
    }

    /// A refusal with a JSON body.
    pub(crate) fn refusal(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".into())],
            chunks: vec![body.into().into_bytes()],
            end: End::Whole,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    /// One more chunk, sent whole.
    pub(crate) fn then_raw(mut self, bytes: Vec<u8>) -> Self {
        self.chunks.push(bytes);
        self
    }

    pub(crate) fn then_cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    pub(crate) fn then_silent(mut self) -> Self {
        self.end = End::Silent;
        self
    }

    pub(crate) fn then_drip(mut self) -> Self {
        self.end = End::Drip;
        self
    }

    async fn write(&self, connection: &mut TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\ntransfer-encoding: chunked\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        connection.write_all(head.as_bytes()).await?;
        for chunk in &self.chunks {
            connection
                .write_all(format!("{:x}\r\n", chunk.len()).as_bytes())
                .await?;
            connection.write_all(chunk).await?;
            connection.write_all(b"\r\n").await?;
        }
        match self.end {
            End::Whole => connection.write_all(b"0\r\n\r\n").await,
            End::Cut => Err(std::io::ErrorKind::ConnectionAborted.into()),
            End::Drip => loop {
                connection.write_all(b"1\r\nx\r\n").await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            },
            // Until the client closes the connection.
            End::Silent => connection
                .read(&mut [0])
                .await
                .and(Err(std::io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// A request as it came.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Value,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
}

/// A server on a loopback port; stops when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    closed: watch::Receiver<HashSet<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers with the replies in order, the last one again and again.
    pub(crate) async fn start(replies: impl Into<Vec<Reply>>) -> Self {
        let replies: Arc<[Reply]> = replies.into().into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let (close, closed) = watch::channel(HashSet::new());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (replies, seen, close) = (Arc::clone(&replies), Arc::clone(&seen), close.clone());
                connections.spawn(async move {
                    serve(stream, connection, replies, seen).await;
                    close.send_modify(|closed| {
                        closed.insert(connection);
                    });
                });
            }
        });
        Self {
            url,
            requests,
            closed,
            task,
        }
    }

    /// Resolves when a connection, counted from 0, has been closed.
    pub(crate) async fn closed(&self, connection: usize) {
        self.closed
            .clone()
            .wait_for(|closed| closed.contains(&connection))
            .await
            .unwrap();
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, connection: usize, replies: Arc<[Reply]>, seen: Arc<Mutex<Vec<Request>>>) {
    while let Some(request) = read(&mut stream, connection).await {
        let reply = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            replies[(seen.len() - 1).min(replies.len() - 1)].clone()
        };
        if reply.write(&mut stream).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream, connection: usize) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&bytes[head + 4..]).unwrap_or_default();
    Some(Request {
        path,
        headers,
        body,
        connection,
    })
}

/// A stream of events: pairs of name and data; an empty name leaves the field out.
pub(crate) fn events(events: &[(&str, &str)]) -> String {
    events
        .iter()
        .map(|(name, data)| {
            if name.is_empty() {
                format!("data: {data}\n\n")
            } else {
                format!("event: {name}\ndata: {data}\n\n")
            }
        })
        .collect()
}

/// More than anything in these tests takes, so that a hang fails and does not stay.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
