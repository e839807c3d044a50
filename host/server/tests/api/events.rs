use crate::house::{Frame, Frames, House, kinds, seqs};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::{
    event::{EventBody, NewEvent, Source},
    name::OrgName,
};
use fumehood_server::ServerConfig;
use fumehood_store::record::SessionChange;
use http::Method;
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
async fn events_too_large_for_a_page_are_listed_and_streamed_each_once() {
    let house = House::new().await;
    let path = house.session().await;
    let session = path.rsplit('/').next().unwrap().parse().unwrap();
    let said = |length: usize| NewEvent {
        turn: None,
        source: Source::Host,
        body: EventBody::TextCompleted {
            step: 1,
            text: "x".repeat(length),
        },
    };
    let page = fumehood_store::EVENTS_BYTES as usize;
    let store = house.host.store();
    for length in [page / 2, page / 2, page + 1, 1, 1] {
        store
            .append(&OrgName::default_org(), session, &[said(length)])
            .await
            .unwrap();
    }
    let last = store.last_seq(&OrgName::default_org(), session).await.unwrap().unwrap();
    let (mut listed, mut after) = (Vec::new(), "0".to_owned());
    let mut pages = 0;
    loop {
        let asked = house.get(&format!("{path}/events?after={after}&limit=1000"));
        let page = asked.with("accept", "application/json").answer().await.json();
        let items = page["items"].as_array().unwrap();
        listed.extend(items.iter().map(|event| event["seq"].as_u64().unwrap()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    let all: Vec<_> = (1..=last).collect();
    assert_eq!((listed, pages), (all.clone(), 4));
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    for seq in all {
        let frame = stream.next().await.unwrap();
        assert_eq!(frame.id, Some(seq));
    }
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
    flood(&house, &path).await;
    house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    let frames = stream.until("turn.completed").await;
    assert!(
        !kinds(&frames).contains(&"stream.truncated"),
        "it only had not come to the present yet"
    );
    let seqs = seqs(&frames);
    assert_eq!(seqs, (2..2 + seqs.len() as u64).collect::<Vec<_>>());
}

/// Has more happen in the session than the hub keeps for a slow listener.
async fn flood(house: &House, path: &str) {
    for number in 0..150 {
        let changed = house
            .ask(Method::PATCH, path)
            .json(&json!({"title": number.to_string()}))
            .answer()
            .await;
        assert!(changed.status.is_success(), "{}", changed.text());
    }
}

fn texts(frames: &[Frame]) -> Vec<&str> {
    let texts = frames.iter().filter(|frame| frame.event == "text.delta");
    texts
        .map(|frame| frame.data["data"]["delta"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_client_that_fell_behind_is_told_once_what_to_read_again_and_shown_no_text_with_a_hole() {
    let house = House::new().await;
    let path = house.session().await;
    let (first, second) = (house.next_answer(), house.next_answer());
    let turn = house
        .post(&format!("{path}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}));
    let mut slow = house.get(&format!("{path}/events")).stream().await;
    let mut quick = house.get(&format!("{path}/events")).stream().await;
    turn.answer().await;
    first.say("a");
    assert_eq!(texts(&slow.until("text.delta").await), ["a"]);
    quick.until("text.delta").await;
    first.say("b");
    quick.until("text.delta").await;
    flood(&house, &path).await;
    let mut quick = house.get(&format!("{path}/events?after=5")).stream().await;
    first.say("c");
    // A stream that came late is told so, and is the sign that the piece was shown.
    let late = quick.until("stream.truncated").await;
    assert_eq!(late.last().unwrap().data["data"]["reason"], "joined_late");
    let told = slow.next().await.unwrap();
    first.call("double", &json!({"n": 1}));
    let frames = slow.until("step.completed").await;
    assert_eq!((told.event.as_str(), told.id), ("stream.truncated", None));
    let shown = |field: &str| told.data["data"][field].as_u64().unwrap();
    assert_eq!(told.data["data"]["reason"], "lagged");
    assert_eq!(shown("after") + 1, seqs(&frames)[0]);
    assert_eq!(shown("until"), shown("after") + 150);
    assert!(!kinds(&frames).contains(&"stream.truncated"));
    assert_eq!(
        texts(&frames),
        [""; 0],
        "the rest of a text whose middle is missing is not shown"
    );
    let text = frames.iter().find(|frame| frame.event == "text.completed").unwrap();
    assert_eq!(text.data["data"]["text"], "abc");
    second.says("d");
    let frames = slow.until("turn.completed").await;
    assert_eq!(texts(&frames), ["d"], "the next step is shown again");
}

#[tokio::test]
async fn a_client_that_comes_in_the_middle_of_a_text_is_told_that_it_is_not_whole() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let mut first = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .stream()
        .await;
    model.say("a");
    let seen = first.until("text.delta").await;
    let turn = seen[0].data["turn"].as_str().unwrap();
    let mut second = house.get(&format!("{path}/events?turn={turn}")).stream().await;
    second.until("step.started").await;
    model.say("b");
    let told = second.next().await.unwrap();
    assert_eq!(told.data["data"]["reason"], "joined_late", "{told:?}");
    assert_eq!(told.data["turn"], turn);
    assert_eq!(texts(&first.until("text.delta").await), ["b"]);
    model.says("c");
    let rest = second.rest().await;
    assert_eq!(kinds(&rest), ["text.completed", "step.completed", "turn.completed"]);
    assert_eq!(rest[0].data["data"]["text"], "abc");
}

#[tokio::test]
async fn what_a_model_says_quickly_comes_in_few_pieces_and_whole() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let said: Vec<_> = (0..1000).map(|number| format!("{number} ")).collect();
    for piece in &said {
        model.say(piece);
    }
    model.done();
    let frames = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .stream()
        .await
        .rest()
        .await;
    let shown = texts(&frames);
    assert_eq!(shown.concat(), said.concat());
    assert_eq!(shown[0], said[0], "the first at once");
    assert!(shown.len() < said.len() / 2, "{} pieces", shown.len());
    let indexes = frames.iter().filter(|frame| frame.event == "text.delta");
    let indexes: Vec<_> = indexes
        .map(|frame| frame.data["data"]["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indexes, (0..shown.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn reasoning_of_an_attempt_that_is_made_again_begins_anew() {
    let house = House::new().await;
    let path = house.session().await;
    let (broken, whole) = (house.next_answer(), house.next_answer());
    let mut frames = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .stream()
        .await;
    let piece = |frames: &[Frame]| {
        let data = &frames.last().unwrap().data["data"];
        (
            data["index"].as_u64().unwrap(),
            data["delta"].as_str().unwrap().to_owned(),
        )
    };
    broken.think("a");
    assert_eq!(piece(&frames.until("reasoning.delta").await), (0, "a".into()));
    broken.think("b");
    assert_eq!(piece(&frames.until("reasoning.delta").await), (1, "b".into()));
    drop(broken);
    frames.until("retry.scheduled").await;
    whole.think("c");
    assert_eq!(piece(&frames.until("reasoning.delta").await), (0, "c".into()));
    whole.says("Hi.");
    let rest = frames.rest().await;
    let completed = rest.iter().find(|frame| frame.event == "reasoning.completed");
    assert_eq!(completed.unwrap().data["data"]["text"], "c");
}

#[tokio::test]
async fn to_go_on_after_an_event_that_there_is_not_is_refused() {
    let house = House::new().await;
    let path = session_with_a_turn(&house).await;
    let events = format!("{path}/events");
    let list = house.get(&events).with("accept", "application/json").answer().await;
    let last = list.json()["items"].as_array().unwrap().len() as u64;
    let beyond = (last + 1).to_string();
    let asks = [
        house.get(&format!("{events}?after={beyond}")),
        house
            .get(&format!("{events}?after={beyond}"))
            .with("accept", "application/json"),
        house.get(&events).with("last-event-id", &beyond),
        house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": "hi"}))
            .with("accept", "text/event-stream")
            .with("last-event-id", &beyond),
    ];
    for ask in asks {
        let refused = ask.answer().await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem().as_str()),
            (400, "cursor_beyond_end")
        );
        assert_eq!(refused.json()["last_seq"], last, "no turn was begun");
    }
    let ask = house
        .get(&format!("{events}?after={last}"))
        .with("accept", "application/json");
    assert_eq!(ask.answer().await.status.as_u16(), 200);
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

/// Has something happen in the session all the time.
async fn bustle(house: &House, path: &str) -> ! {
    let session = path.rsplit('/').next().unwrap().parse().unwrap();
    for number in 0.. {
        let title = Some(Some(format!("{number}")));
        let change = SessionChange {
            title,
            ..SessionChange::default()
        };
        let changed = house
            .host
            .update_session(&OrgName::default_org(), session, change)
            .await;
        changed.unwrap();
    }
    unreachable!("there is always a next number");
}

#[tokio::test]
async fn a_stream_in_which_nothing_is_shown_says_that_it_is_there_although_the_session_is_busy() {
    let house = House::with(ServerConfig {
        quiet_time: Duration::from_millis(100),
        ..ServerConfig::default()
    })
    .await;
    let path = house.session().await;
    let (_busy, _later) = (house.next_answer(), house.next_answer());
    let turns = format!("{path}/turns");
    let mut first = house.post(&turns).json(&json!({"input": "one"})).stream().await;
    first.until("step.started").await;
    let input = json!({"input": "two", "mode": "queue"});
    let mut waiting = house.post(&turns).json(&input).stream().await;
    waiting.until("turn.queued").await;
    tokio::select! {
        quiet = waiting.next() => assert_eq!(quiet.unwrap().comment, "still here"),
        never = bustle(&house, &path) => never,
    }
}

#[tokio::test]
async fn a_stream_of_a_busy_session_ends_with_its_key() {
    let house = House::with(ServerConfig {
        quiet_time: Duration::from_millis(100),
        ..ServerConfig::default()
    })
    .await;
    let path = house.session().await;
    let stream = house.get(&format!("{path}/events")).stream().await;
    house.revoke().await;
    tokio::select! {
        end = end_of(stream) => assert!(end.contains("gone")),
        never = bustle(&house, &path) => never,
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
