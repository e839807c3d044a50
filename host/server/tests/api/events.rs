use crate::house::{Frames, House, kinds, seqs};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::name::OrgName;
use fumehood_server::ServerConfig;
use serde_json::json;
use std::time::Duration;

async fn session_with_a_turn(house: &House) -> String {
    let path = house.session().await;
    house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    path
}

#[tokio::test]
async fn the_journal_is_listed_in_pages() {
    let house = House::new().await;
    let path = session_with_a_turn(&house).await;
    let list = |query: String| {
        house
            .get(&format!("{path}/events?{query}"))
            .with("accept", "application/json")
            .answer()
    };
    let all = list("limit=1000".into()).await.json();
    let all = all["items"].as_array().unwrap().clone();
    assert_eq!(all[0]["type"], "session.created");
    let mut paged = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let page = list(query).await.json();
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => query = format!("limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let after = list("after=3".into()).await.json();
    assert_eq!(after["items"][0]["seq"], 4);
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_seen() {
    let house = House::new().await;
    let path = session_with_a_turn(&house).await;
    let journal = house
        .get(&format!("{path}/events"))
        .with("accept", "application/json")
        .answer()
        .await
        .json();
    let last = journal["items"].as_array().unwrap().len() as u64;
    for (query, header) in [("?after=2", None), ("?after=1", Some("2")), ("", Some("2"))] {
        let mut ask = house.get(&format!("{path}/events{query}"));
        if let Some(seen) = header {
            ask = ask.with("last-event-id", seen);
        }
        let frames = ask.stream().await.until("turn.completed").await;
        assert_eq!(seqs(&frames), (3..=last).collect::<Vec<_>>(), "{query} {header:?}");
    }
}

#[tokio::test]
async fn a_stream_shows_the_past_and_then_the_present_without_gap_or_double() {
    let house = House::new().await;
    let path = session_with_a_turn(&house).await;
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    let mut frames = stream.until("turn.completed").await;
    let turn = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "again"}))
        .answer();
    let (rest, _) = tokio::join!(stream.until("turn.completed"), turn);
    frames.extend(rest);
    let seqs = seqs(&frames);
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_reads_late_still_gets_every_recorded_event() {
    let house = House::new().await;
    let path = house.session().await;
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    stream.until("session.created").await;
    // More than the hub keeps for a slow listener.
    for _ in 0..3 {
        let model = house.next_answer();
        for _ in 0..600 {
            model.say("x");
        }
        model.done();
        house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": "hi"}))
            .answer()
            .await;
    }
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.extend(stream.until("turn.completed").await);
    }
    let seqs = seqs(&frames);
    assert_eq!(seqs, (2..2 + seqs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_stream_of_a_turn_ends_with_it_whenever_it_is_asked_for() {
    let house = House::new().await;
    let path = house.session().await;
    let first = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "one"}))
        .answer()
        .await
        .json();
    house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "two"}))
        .answer()
        .await;
    let id = first["id"].as_str().unwrap();
    let stream = |after: u64| house.get(&format!("{path}/events?turn={id}&after={after}")).stream();
    let frames = stream(0).await.rest().await;
    assert_eq!(
        (kinds(&frames)[0], *kinds(&frames).last().unwrap()),
        ("turn.queued", "turn.completed")
    );
    assert!(frames.iter().all(|frame| frame.data["turn"] == id));
    let last = *seqs(&frames).last().unwrap();
    assert_eq!(
        stream(last).await.rest().await,
        [],
        "a client that has seen the end is told nothing more"
    );
}

#[tokio::test]
async fn a_turn_of_another_session_can_not_be_followed() {
    let house = House::new().await;
    let path = house.session().await;
    let turn = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "one"}))
        .answer()
        .await
        .json();
    let other = house.session().await;
    let answer = house
        .get(&format!("{other}/events?turn={}", turn["id"].as_str().unwrap()))
        .answer()
        .await;
    assert_eq!(answer.problem(), "not_found");
}

#[tokio::test]
async fn a_closing_server_says_so_on_its_streams() {
    let house = House::new().await;
    let path = house.session().await;
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    stream.until("session.created").await;
    house.closing.cancel();
    let rest = stream.rest().await;
    assert!(rest[0].comment.contains("shutting down"), "{rest:?}");
    assert_eq!(rest.len(), 1);
}

async fn end_of(mut stream: Frames) -> String {
    loop {
        match stream.next().await {
            Some(frame) if frame.comment.contains("gone") => return frame.comment,
            Some(_) => {}
            None => return String::new(),
        }
    }
}

async fn hasty() -> House {
    House::with(ServerConfig {
        quiet_time: Duration::from_millis(5),
        ..ServerConfig::default()
    })
    .await
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_is_alive() {
    let house = hasty().await;
    let path = house.session().await;
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    stream.until("session.created").await;
    for _ in 0..3 {
        assert_eq!(stream.next().await.unwrap().comment, "still here");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let house = hasty().await;
    let path = house.session().await;
    let stream = house.get(&format!("{path}/events")).stream().await;
    house.delete(&path).answer().await;
    assert!(end_of(stream).await.contains("gone"));
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let house = hasty().await;
    let path = house.session().await;
    let stream = house.get(&format!("{path}/events")).stream().await;
    house.revoke().await;
    assert!(end_of(stream).await.contains("gone"));
}

#[tokio::test]
async fn a_last_event_id_that_is_no_number_is_refused() {
    let house = House::new().await;
    let path = house.session().await;
    let answer = house
        .get(&format!("{path}/events"))
        .with("last-event-id", "evt_1")
        .answer()
        .await;
    assert_eq!(answer.problem(), "invalid_header");
}

#[tokio::test]
async fn an_orgs_streams_and_waiting_requests_are_counted_together() {
    let few = OrgLimits {
        concurrent_streams: Some(2),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), few)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let path = house.session().await;
    let (events, turns) = (format!("{path}/events"), format!("{path}/turns"));
    let stream = house.get(&events).stream().await;
    let model = house.next_answer();
    let turn = || house.post(&turns).json(&serde_json::json!({"input": "hi"}));
    let mut waiting = Box::pin(turn().answer());
    assert!(futures::poll!(&mut waiting).is_pending());
    let refused = house.get(&events).with("accept", "text/event-stream").answer().await;
    assert_eq!(
        (refused.status.as_u16(), refused.problem().as_str()),
        (429, "rate_limited")
    );
    assert_eq!(refused.json()["limit"], "concurrent_streams");
    assert_eq!(refused.headers["ratelimit-limit"], "2");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        turn().answer().await.problem(),
        "rate_limited",
        "no turn was begun for it"
    );
    model.say("Hi.");
    model.done();
    assert_eq!(waiting.await.status.as_u16(), 200);
    drop(stream);
    assert_eq!(turn().answer().await.status.as_u16(), 200);
}
