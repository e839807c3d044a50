//! WebSockets, over real connections.

use crate::{
    house::{House, KEY, OTHER_KEY},
    serving::{Serving, start_with},
};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::name::OrgName;
use fumehood_server::ServerConfig;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        protocol::frame::{CloseFrame, coding::CloseCode},
    },
};

struct Socket(WebSocketStream<TcpStream>);

async fn connect(serving: &Serving, path: &str, key: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://host{path}").into_client_request().unwrap();
    let key = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
    request.headers_mut().insert("authorization", key);
    let stream = TcpStream::connect(serving.address).await.unwrap();
    client_async(request, stream).await.map(|(socket, _)| Socket(socket))
}

/// A socket on the session, from its first event.
async fn open(serving: &Serving, session: &str) -> Socket {
    let path = format!("/v1/sessions/{session}/ws");
    let mut socket = connect(serving, &path, KEY).await.unwrap();
    assert_eq!(socket.event("session.created").await["session"], session);
    socket
}

async fn session(serving: &Serving) -> String {
    let path = serving.house.session().await;
    path.rsplit('/').next().unwrap().to_owned()
}

impl Socket {
    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message, or the host's goodbye.
    async fn heard(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    async fn next(&mut self) -> Value {
        self.heard().await.unwrap()
    }

    /// Reads until an event of this type.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let heard = self.next().await;
            if heard["event"]["type"] == kind {
                return heard["event"].clone();
            }
        }
    }

    /// Asks for something, and reads until it is answered.
    async fn ask(&mut self, id: &str, message: Value) -> Value {
        let mut message = message;
        message["id"] = id.into();
        self.send(message).await;
        self.reply(id).await
    }

    async fn reply(&mut self, id: &str) -> Value {
        loop {
            let heard = self.next().await;
            if heard["reply"] == id {
                return heard;
            }
        }
    }

    /// Reads to the host's goodbye.
    async fn goodbye(&mut self) -> Option<CloseFrame> {
        loop {
            if let Err(frame) = self.heard().await {
                return frame;
            }
        }
    }

    async fn closes_with(&mut self, code: CloseCode) {
        let frame = self.goodbye().await.unwrap();
        assert_eq!(frame.code, code, "{frame:?}");
        assert!(frame.reason.len() > 10, "{frame:?}");
    }
}

fn turn(session: &str, input: &str) -> Value {
    json!({"op": "turn", "session": session, "body": {"input": input}})
}

async fn serving() -> Serving {
    start_with(House::new().await, ServerConfig::default()).await
}

#[tokio::test]
async fn a_socket_shows_what_was_and_what_happens_and_takes_turns() {
    let serving = serving().await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    let reply = socket.ask("a", turn(&session, "hi")).await;
    assert_eq!(reply["result"]["replayed"], false, "{reply}");
    let mut seqs = Vec::new();
    // What was heard before the reply is read again, over another socket.
    let mut again = open(&serving, &session).await;
    loop {
        let event = again.next().await["event"].clone();
        seqs.extend(event["seq"].as_u64());
        if event["type"] == "turn.completed" {
            assert_eq!(event["turn"], reply["result"]["turn"]["id"]);
            break;
        }
    }
    assert_eq!(seqs, (2..2 + seqs.len() as u64).collect::<Vec<_>>());
    let last = seqs.last().unwrap();
    let path = format!("/v1/sessions/{session}/ws?after={}", last - 1);
    let mut late = connect(&serving, &path, KEY).await.unwrap();
    assert_eq!(late.next().await["event"]["seq"], *last);
}

#[tokio::test]
async fn a_socket_listens_to_several_sessions_and_stops_when_asked() {
    let serving = serving().await;
    let (first, second) = (session(&serving).await, session(&serving).await);
    let mut socket = open(&serving, &first).await;
    let subscribe = json!({"id": "s", "op": "subscribe", "session": second});
    socket.send(subscribe).await;
    let reply = socket.next().await;
    assert_eq!(reply, json!({"reply": "s", "result": {"session": second, "after": 0}}));
    assert_eq!(socket.event("session.created").await["session"], second.as_str());
    let twice = json!({"op": "subscribe", "session": second});
    assert_eq!(socket.ask("t", twice).await["problem"]["code"], "conflict");
    let stop = json!({"op": "unsubscribe", "session": second});
    assert_eq!(
        socket.ask("u", stop.clone()).await["result"]["session"],
        second.as_str()
    );
    assert_eq!(socket.ask("v", stop).await["problem"]["code"], "not_found");
    for (session, input) in [(&second, "unheard"), (&first, "heard")] {
        let told = serving
            .house
            .post(&format!("/v1/sessions/{session}/turns"))
            .json(&json!({"input": input}));
        assert!(told.answer().await.status.is_success());
    }
    loop {
        let event = socket.next().await["event"].clone();
        assert_eq!(event["session"], first.as_str(), "{event}");
        if event["type"] == "turn.completed" {
            break;
        }
    }
}

#[tokio::test]
async fn a_socket_cancels_turns_and_decides_about_calls() {
    let serving = serving().await;
    let house = &serving.house;
    house.add_sums().await;
    let rules = json!([{"tool": "double", "decide": "ask"}]);
    house.agent(json!({"model": "main", "approval": rules})).await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    let (asks, _held) = (house.next_answer(), house.next_answer());
    let submitted = socket.ask("a", turn(&session, "hi")).await;
    let id = submitted["result"]["turn"]["id"].clone();
    asks.call("double", &json!({"n": 21}));
    let asked = socket.event("approval.requested").await;
    let call = &asked["data"]["calls"][0]["call_id"];
    let body = json!({"decisions": [{"call_id": call, "decision": "approve"}]});
    let decided = socket
        .ask("b", json!({"op": "approvals", "turn": id, "body": body}))
        .await;
    assert_eq!(decided["result"]["turn"]["id"], id, "{decided}");
    let again = socket
        .ask("c", json!({"op": "approvals", "turn": id, "body": body}))
        .await;
    assert_eq!(again["problem"]["code"], "not_awaiting_approval");
    house.has_asked(2).await;
    let cancelled = socket.ask("d", json!({"op": "cancel", "turn": id})).await;
    assert_eq!(cancelled["result"]["turn"]["status"], "cancelled", "{cancelled}");
}

#[tokio::test]
async fn the_same_turn_twice_is_one_and_a_busy_session_refuses_another() {
    let serving = serving().await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    let _held = serving.house.next_answer();
    let mut keyed = turn(&session, "hi");
    keyed["idempotency_key"] = "k".into();
    let first = socket.ask("a", keyed.clone()).await;
    let second = socket.ask("b", keyed).await;
    assert_eq!(first["result"]["turn"]["id"], second["result"]["turn"]["id"]);
    assert_eq!(second["result"]["replayed"], true);
    let busy = socket.ask("c", turn(&session, "more")).await;
    assert_eq!(busy["problem"]["code"], "session_busy");
    assert_eq!(busy["problem"]["turn"], first["result"]["turn"]["id"]);
    let mut bad = turn(&session, "hi");
    bad["idempotency_key"] = "".into();
    assert_eq!(socket.ask("d", bad).await["problem"]["field"], "idempotency_key");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_the_socket_goes_on() {
    let serving = serving().await;
    let own = session(&serving).await;
    let foreign = serving
        .house
        .post("/v1/sessions")
        .by_other_org()
        .json(&json!({}))
        .answer()
        .await;
    let foreign = foreign.json()["id"].as_str().unwrap().to_owned();
    let mut socket = open(&serving, &own).await;
    socket.0.send(Message::text("{")).await.unwrap();
    let refused = socket.next().await;
    assert_eq!(
        (&refused["reply"], &refused["problem"]["code"]),
        (&Value::Null, &"invalid_json".into())
    );
    let other = session(&serving).await;
    for (message, code) in [
        (json!({"op": "dance"}), "invalid_body"),
        (json!({"op": "subscribe", "session": foreign}), "not_found"),
        (
            json!({"op": "turn", "session": foreign, "body": {"input": "hi"}}),
            "not_found",
        ),
        (
            json!({"op": "subscribe", "session": other, "after": 1000}),
            "cursor_beyond_end",
        ),
        (json!({"op": "cancel", "turn": "trn_x"}), "not_found"),
        (turn(&own, " "), "invalid_request"),
    ] {
        let refused = socket.ask("x", message.clone()).await;
        assert_eq!(refused["problem"]["code"], code, "{message}: {refused}");
        assert!(refused["problem"]["detail"].as_str().unwrap().len() > 10, "{refused}");
    }
    let subscribe = json!({"op": "subscribe", "session": other});
    assert_eq!(socket.ask("y", subscribe).await["result"]["session"], other.as_str());
}

#[tokio::test]
async fn what_a_socket_listens_to_takes_places_of_the_org_and_gives_them_back() {
    let few = OrgLimits {
        concurrent_streams: Some(2),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), few)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let serving = start_with(house, ServerConfig::default()).await;
    let sessions = [
        session(&serving).await,
        session(&serving).await,
        session(&serving).await,
    ];
    let subscribe = |session: &String| json!({"op": "subscribe", "session": session});
    let mut socket = open(&serving, &sessions[0]).await;
    assert!(socket.ask("a", subscribe(&sessions[1])).await["result"].is_object());
    let refused = socket.ask("b", subscribe(&sessions[2])).await;
    assert_eq!(refused["problem"]["limit"], "concurrent_streams", "{refused}");
    assert!(refused["problem"]["retry_after"].is_u64(), "{refused}");
    let leave = json!({"op": "unsubscribe", "session": sessions[0]});
    socket.ask("c", leave).await;
    // The place is free when the subscription has ended.
    while socket.ask("d", subscribe(&sessions[2])).await["result"].is_null() {}
}

#[tokio::test]
async fn a_socket_listens_to_so_many_sessions_and_no_more() {
    let serving = serving().await;
    let first = session(&serving).await;
    let mut socket = open(&serving, &first).await;
    let mut refused = Value::Null;
    for _ in 0..64 {
        let session = session(&serving).await;
        refused = socket.ask("s", json!({"op": "subscribe", "session": session})).await;
    }
    assert_eq!(refused["problem"]["limit"], "subscriptions", "{refused}");
}

#[tokio::test]
async fn a_request_that_is_no_websocket_or_may_not_be_one_is_refused_as_a_problem() {
    let serving = serving().await;
    let house = &serving.house;
    let session = session(&serving).await;
    let path = format!("/v1/sessions/{session}/ws");
    let plain = house.get(&path).answer().await;
    assert_eq!(
        (plain.status.as_u16(), plain.problem().as_str()),
        (426, "upgrade_required")
    );
    assert_eq!(plain.headers["upgrade"], "websocket");
    for (path, key, status) in [
        (path.clone(), "fh_unknown", 401),
        (path.clone(), OTHER_KEY, 404),
        (format!("{path}?after=1000"), KEY, 400),
        (format!("{path}?from=1"), KEY, 400),
    ] {
        match connect(&serving, &path, key).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), status, "{path}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{path} was opened"),
        }
    }
}

#[tokio::test]
async fn what_a_client_may_not_send_closes_the_socket_with_a_code() {
    let serving = serving().await;
    let session = session(&serving).await;
    for (message, code) in [
        (Message::binary(vec![1]), CloseCode::Unsupported),
        (Message::text("x".repeat((1 << 20) + 1)), CloseCode::Size),
    ] {
        let mut socket = open(&serving, &session).await;
        // The host may have closed before it was all sent.
        let _ = socket.0.send(message).await;
        socket.closes_with(code).await;
    }
}

#[tokio::test]
async fn a_socket_ends_with_its_key_whether_it_asks_for_something_or_listens() {
    for quiet_time in [Duration::from_millis(20), ServerConfig::default().quiet_time] {
        let config = ServerConfig {
            quiet_time,
            ..ServerConfig::default()
        };
        let keys = config.keys.clone();
        let serving = start_with(House::new().await, config).await;
        let session = session(&serving).await;
        let mut socket = open(&serving, &session).await;
        serving.house.revoke().await;
        keys.forget(serving.house.key);
        if quiet_time > Duration::from_secs(1) {
            let mut asked = turn(&session, "hi");
            asked["id"] = "a".into();
            socket.send(asked).await;
        }
        socket.closes_with(CloseCode::Policy).await;
        assert_eq!(serving.house.asked().len(), 0, "no turn was begun");
    }
}

#[tokio::test]
async fn a_session_that_is_deleted_ends_its_subscription_and_no_other() {
    let config = ServerConfig {
        quiet_time: Duration::from_millis(20),
        ..ServerConfig::default()
    };
    let serving = start_with(House::new().await, config).await;
    let (first, second) = (session(&serving).await, session(&serving).await);
    let mut socket = open(&serving, &first).await;
    socket.ask("a", json!({"op": "subscribe", "session": second})).await;
    serving.house.delete(&format!("/v1/sessions/{first}")).answer().await;
    loop {
        let heard = socket.next().await;
        if heard.get("ended").is_some() {
            assert_eq!(heard, json!({"ended": first, "reason": "gone"}));
            break;
        }
    }
    assert!(socket.ask("b", turn(&second, "hi")).await["result"].is_object());
}

#[tokio::test]
async fn a_quiet_socket_is_asked_for_signs_of_life() {
    let config = ServerConfig {
        quiet_time: Duration::from_millis(5),
        ..ServerConfig::default()
    };
    let serving = start_with(House::new().await, config).await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    for _ in 0..3 {
        let heard = socket.0.next().await.unwrap().unwrap();
        assert!(matches!(heard, Message::Ping(_)), "{heard:?}");
    }
}

#[tokio::test]
async fn a_shutdown_says_goodbye_to_sockets_and_waits_for_them() {
    let serving = serving().await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    serving.shutdown.cancel();
    socket.closes_with(CloseCode::Away).await;
    serving.server.await.unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_sockets_without_end() {
    let config = ServerConfig {
        drain_time: Duration::from_millis(20),
        ..ServerConfig::default()
    };
    let serving = start_with(House::new().await, config).await;
    let session = session(&serving).await;
    let socket = open(&serving, &session).await;
    serving.shutdown.cancel();
    // It neither reads nor answers.
    serving.server.await.unwrap();
    drop(socket);
}

#[tokio::test]
async fn a_socket_counts_as_the_connection_that_it_was() {
    let config = ServerConfig {
        connections_of_org: 1,
        ..ServerConfig::default()
    };
    let serving = start_with(House::new().await, config).await;
    let session = session(&serving).await;
    let path = format!("/v1/sessions/{session}/ws");
    let mut first = open(&serving, &session).await;
    // Whatever it does, it holds the org's only place.
    assert!(first.ask("a", turn(&session, "hi")).await["result"].is_object());
    match connect(&serving, &path, KEY).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), 429),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the org has two connections"),
    }
    first.0.close(None).await.unwrap();
    first.goodbye().await;
    // The place is free when the server has seen the end.
    while connect(&serving, &path, KEY).await.is_err() {}
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_no_one_and_is_given_up() {
    let config = ServerConfig {
        unread_time: Duration::from_millis(200),
        ..ServerConfig::default()
    };
    let serving = start_with(House::new().await, config).await;
    let session = session(&serving).await;
    let mut socket = open(&serving, &session).await;
    let metadata = json!({"text": "x".repeat(900_000)});
    // More than what lies between the two takes.
    for _ in 0..16 {
        let changed = serving
            .house
            .ask(http::Method::PATCH, &format!("/v1/sessions/{session}"))
            .json(&json!({"metadata": metadata}))
            .answer()
            .await;
        assert!(changed.status.is_success(), "{}", changed.text());
    }
    // The server has nothing open any more when it was given up.
    serving.shutdown.cancel();
    serving.server.await.unwrap();
    let end = socket.goodbye().await;
    let codes = [CloseCode::Again, CloseCode::Away];
    assert!(end.is_none_or(|frame| codes.contains(&frame.code)));
}
