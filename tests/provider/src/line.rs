//! A line to a provider that fails as told: each request takes the next fault, and passes where there is none.

use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// What happens to one request or its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is refused with this status, and with this hint when to come back.
    Refused {
        /// The status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<&'static str>,
    },
    /// The connection breaks after this text of the answer; after its head, if the text is empty.
    CutAfter(&'static str),
    /// The connection breaks after the event of the answer that has this text.
    CutAfterEvent(&'static str),
    /// Nothing comes after the event of the answer that has this text, until the client gives up.
    StalledAfterEvent(&'static str),
    /// Each occurrence of the first text in the answer is the second.
    Replaced(&'static str, &'static str),
    /// The answer waits until it is let through.
    Held(Arc<Notify>),
    /// There is no answer until the client gives up.
    Silent,
    /// A web page comes in the answer's place.
    Page,
}

/// A line on loopback to a provider; ends when dropped.
pub struct Line {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    faults: Mutex<VecDeque<Fault>>,
    asked: Mutex<Vec<Value>>,
}

impl Line {
    /// A line to the provider at this URL.
    pub async fn to(provider: &str) -> Self {
        let address = provider.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, address.clone(), Arc::clone(&shared)));
            }
        });
        Self { url, state, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What happens to the next requests, one after the other.
    pub fn then(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().extend(faults);
    }

    /// The bodies of the requests that arrived since this was last asked.
    #[must_use]
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.state.asked.lock().unwrap())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one request and its answer.
async fn carry(mut client: TcpStream, provider: String, state: Arc<State>) {
    // A client that opens a connection and sends nothing asked nothing.
    let Some((head, body)) = read_request(&mut client).await else {
        return;
    };
    state
        .asked
        .lock()
        .unwrap()
        .push(serde_json::from_slice(&body).unwrap_or_default());
    let fault = state.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
    let answer = match &fault {
        Fault::Refused { status, retry_after } => refusal(*status, *retry_after),
        Fault::Page => Answer::new("200 OK\r\ncontent-type: text/html", "<html>Log in first</html>"),
        Fault::Silent => {
            let _ = client.read(&mut [0]).await;
            return;
        }
        Fault::Held(released) => {
            released.notified().await;
            ask(&provider, &head, &body).await
        }
        Fault::None
        | Fault::CutAfter(_)
        | Fault::CutAfterEvent(_)
        | Fault::StalledAfterEvent(_)
        | Fault::Replaced(..) => ask(&provider, &head, &body).await,
    };
    let (head, sent) = answer.after(&fault);
    // The client may have gone away meanwhile.
    let _ = client.write_all(head.as_bytes()).await;
    let _ = client.write_all(sent.as_bytes()).await;
    if matches!(fault, Fault::StalledAfterEvent(_)) {
        let _ = client.read(&mut [0]).await;
    }
    let _ = client.shutdown().await;
}

/// The head without its last line break, and the body.
async fn read_request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if client.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(read[..end].to_vec()).unwrap();
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        if read.len() >= end + 4 + length {
            return Some((head, read.split_off(end + 4)));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Asks the provider and reads its whole answer. HTTP/1.0: the answer is not in chunks, and ends with the connection.
async fn ask(provider: &str, head: &str, body: &[u8]) -> Answer {
    let mut connection = TcpStream::connect(provider).await.unwrap();
    let head = head.replacen(" HTTP/1.1\r\n", " HTTP/1.0\r\n", 1);
    connection
        .write_all(&[head.as_bytes(), b"\r\n\r\n", body].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head: Vec<_> = head
        .split_once(' ')
        .unwrap()
        .1
        .lines()
        .filter(|line| !framing(line))
        .collect();
    Answer::new(&head.join("\r\n"), body)
}

/// Whether a header says how the body was sent: here it is sent otherwise.
fn framing(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    ["connection", "keep-alive", "content-length", "transfer-encoding"].contains(&name.as_str())
}

fn refusal(status: u16, retry_after: Option<&str>) -> Answer {
    let hint = retry_after.map_or_else(String::new, |hint| format!("\r\nretry-after: {hint}"));
    // Both wires find what they look for in this.
    let body = r#"{"type": "error", "error": {"type": "api_error", "message": "refused"}}"#;
    Answer::new(
        &format!("{status} Refused\r\ncontent-type: application/json{hint}"),
        body,
    )
}

/// An answer on its way.
struct Answer {
    /// From the status on.
    head: String,
    body: String,
}

impl Answer {
    fn new(head: &str, body: &str) -> Self {
        Self {
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// The head, and as much of the body as is sent. A cut answer says how long it would have been.
    fn after(self, fault: &Fault) -> (String, String) {
        let whole = match fault {
            Fault::Replaced(old, new) => {
                self.end_of(old);
                self.body.replace(old, new)
            }
            _ => self.body.clone(),
        };
        let sent = match fault {
            Fault::CutAfter(text) => self.end_of(text),
            Fault::CutAfterEvent(text) | Fault::StalledAfterEvent(text) => {
                let end = self.end_of(text);
                end + self.body[end..].find("\n\n").expect("the event ends") + 2
            }
            _ => whole.len(),
        };
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.head,
            whole.len()
        );
        (head, whole[..sent].to_owned())
    }

    /// Where the first occurrence of a text ends, which has to be there.
    fn end_of(&self, text: &str) -> usize {
        let found = self.body.find(text);
        found.unwrap_or_else(|| panic!("the answer has no {text:?}: {}", self.body)) + text.len()
    }
}
