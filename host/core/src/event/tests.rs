use super::*;

#[test]
fn every_type_has_its_own_name_and_a_meaning() {
    let mut names: Vec<_> = EventBody::CATALOGUE.iter().map(|kind| kind.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), EventBody::CATALOGUE.len());
    for kind in EventBody::CATALOGUE {
        assert!(!kind.doc.is_empty(), "{}", kind.name);
        assert!(kind.fields.iter().all(|(_, doc)| !doc.is_empty()), "{}", kind.name);
    }
}

#[test]
fn the_envelope_is_flat() {
    let event = Event {
        id: EventId::from_uuid(uuid::Uuid::from_u128(1)),
        seq: Some(4),
        time: chrono::DateTime::UNIX_EPOCH,
        org: OrgName::default_org(),
        session: SessionId::from_uuid(uuid::Uuid::from_u128(2)),
        turn: None,
        source: Source::Model,
        body: EventBody::TextCompleted {
            step: 1,
            text: "hi".into(),
        },
    };
    let wire = serde_json::to_string(&event).unwrap();
    assert_eq!(
        wire,
        r#"{"id":"evt_00000000000000000000000000000001","seq":4,"time":"1970-01-01T00:00:00Z","org":"default","session":"ses_00000000000000000000000000000002","source":{"kind":"model"},"type":"text.completed","data":{"step":1,"text":"hi"}}"#
    );
    assert_eq!(serde_json::from_str::<Event>(&wire).unwrap(), event);
}

#[test]
fn only_deltas_and_what_a_stream_says_of_itself_are_live() {
    for kind in EventBody::CATALOGUE {
        let is_live = kind.name.ends_with(".delta") || kind.name.starts_with("stream.");
        assert_eq!(kind.life == Life::Live, is_live, "{}", kind.name);
    }
}
